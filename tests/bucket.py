"""A bucket on this machine: the part of Google's storage API that a run may use, and no more.

    python -m tests.bucket COMMAND ...      # rlhf-jax COMMAND ... with the bucket as gs://

`serve` starts it and tells this process and its children where it is: TensorStore's own driver of
gs:// speaks to it, and so does etils' epath through the file system `Store`. What no bucket has
(rename, append) is refused, by both.
"""

import contextlib
import http.server
import io
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import fsspec

URL = "TENSORSTORE_GCS_HTTP_URL"  # TensorStore reads these two
TOKEN = "GOOGLE_AUTH_TOKEN_FOR_TESTING"
OBJECTS, UPLOADS = "/storage/v1/b/", "/upload/storage/v1/b/"


class Bucket(http.server.ThreadingHTTPServer):
    """Its objects, {"bucket/name": (bytes, generation)}, and the requests that it does not know."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.unknown: list[str] = []
        self.lock, self.generation = threading.Lock(), 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.objects if name.startswith(prefix))


class _Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self):
        bucket, name, options, _ = self._parts(OBJECTS)
        if name is None:
            self._list(bucket, options)
            return
        with self.server.lock:
            content, generation = self.server.objects.get(f"{bucket}/{name}", (None, 0))
        if content is None:
            self._answer(404)
        elif options.get("ifGenerationNotMatch") == str(generation):
            self._answer(304)
        elif options.get("alt") == "media":
            self._content(content, generation)
        else:
            self._answer_json(_about(name, content, generation))

    def do_POST(self):
        bucket, _, options, body = self._parts(UPLOADS)
        if options.get("uploadType") != "media":
            self._refuse()
            return
        name = options["name"]
        with self.server.lock:
            if not self._matches(options, f"{bucket}/{name}"):
                self._answer(412)
                return
            self.server.generation += 1
            self.server.objects[f"{bucket}/{name}"] = body, self.server.generation
            about = _about(name, body, self.server.generation)
        self._answer_json(about)

    def do_DELETE(self):
        bucket, name, options, _ = self._parts(OBJECTS)
        with self.server.lock:
            if not self._matches(options, f"{bucket}/{name}"):
                self._answer(412)
                return
            found = self.server.objects.pop(f"{bucket}/{name}", None)
        self._answer(404 if found is None else 204)

    def _matches(self, options: dict, name: str) -> bool:
        wanted = options.get("ifGenerationMatch")
        return wanted is None or int(wanted) == self.server.objects.get(name, (b"", 0))[1]

    def _parts(self, root: str) -> tuple[str, str | None, dict, bytes]:
        """Bucket, object, options and body of a request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        options = dict(parse_qsl(url.query, keep_blank_values=True))
        if not url.path.startswith(root):
            self._refuse()
            raise ConnectionAbortedError(self.path)
        bucket, _, name = url.path.removeprefix(root).partition("/o")
        return bucket, unquote(name[1:]) if name else None, options, body

    def _list(self, bucket: str, options: dict) -> None:
        prefix, delimiter = options.get("prefix", ""), options.get("delimiter")
        start, end = options.get("startOffset", ""), options.get("endOffset")
        items, folders = [], set()
        with self.server.lock:
            there = sorted(self.server.objects.items())
        for full, (content, generation) in there:
            name = full.removeprefix(f"{bucket}/")
            inside = name.startswith(prefix) and name >= start and (not end or name < end)
            if not full.startswith(f"{bucket}/") or not inside:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(_about(name, content, generation))
        self._answer_json({"items": items, "prefixes": sorted(folders)})

    def _content(self, content: bytes, generation: int) -> None:
        code = 200
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            size, code = len(content), 206
            first = int(first) if first else size - int(last)
            last = min(int(last), size - 1) if last else size - 1
            content = content[first : last + 1]
            self._range = f"bytes {first}-{last}/{size}"
        headers = {"x-goog-generation": str(generation)}
        if code == 206:
            headers["Content-Range"] = self._range
        self._answer(code, content, headers)

    def _refuse(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self._answer(501)

    def _answer_json(self, value: dict) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, code: int, body: bytes = b"", headers: dict | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _about(name: str, content: bytes, generation: int) -> dict:
    return {"name": name, "size": str(len(content)), "generation": str(generation)}


class Store(fsspec.AbstractFileSystem):
    """gs:// of this bucket, for epath."""

    protocol = ("gcs", "gs")

    def __init__(self, finalize_on_close: bool = True, **options):
        super().__init__(**options)

    def ls(self, path, detail=True, **_):
        bucket, _, name = self._strip_protocol(path).partition("/")
        prefix = quote(f"{name}/" if name else "", safe="")
        found = json.loads(_ask("GET", f"{OBJECTS}{bucket}/o?delimiter=/&prefix={prefix}"))
        files = [
            {"name": f"{bucket}/{o['name']}", "size": int(o["size"]), "type": "file"}
            for o in found["items"]
        ]
        folders = [
            {"name": f"{bucket}/{folder.rstrip('/')}", "size": 0, "type": "directory"}
            for folder in found["prefixes"]
        ]
        found = files + folders
        if not found:
            content = _ask("GET", _object(path, "?alt=media"))  # raises FileNotFoundError
            found = [{"name": self._strip_protocol(path), "size": len(content), "type": "file"}]
        return found if detail else [entry["name"] for entry in found]

    def _rm(self, path):
        with contextlib.suppress(FileNotFoundError):  # the name of a folder
            _ask("DELETE", _object(path))

    def _open(self, path, mode="rb", **_):
        if mode == "rb":
            return io.BytesIO(_ask("GET", _object(path, "?alt=media")))
        if mode == "wb":
            return _Writer(path)
        raise NotImplementedError(f"{path}: a bucket cannot open with mode {mode!r}")

    def cp_file(self, path1, path2, **_):
        raise NotImplementedError(f"{path1}: a run must not rename or copy in a bucket")

    mv = cp_file


class _Writer(io.BytesIO):
    """One upload, when it is closed."""

    def __init__(self, path: str):
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            bucket, _, name = Store._strip_protocol(self._path).partition("/")
            place = f"{UPLOADS}{bucket}/o?uploadType=media&name={quote(name, safe='')}"
            _ask("POST", place, self.getvalue())
        super().close()


def _object(path: str, options: str = "") -> str:
    bucket, _, name = Store._strip_protocol(path).partition("/")
    return f"{OBJECTS}{bucket}/o/{quote(name, safe='')}{options}"


def _ask(method: str, place: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(os.environ[URL] + place, body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(place) from None
        raise OSError(f"{method} {place}: {error.code}") from None


def use() -> None:
    """gs:// is the bucket of the environment from now on, in this process."""
    fsspec.register_implementation("gcs", Store, clobber=True)
    fsspec.register_implementation("gs", Store, clobber=True)


@contextlib.contextmanager
def serve() -> Iterator[Bucket]:
    """Starts a bucket and uses it, here and in child processes that call `use`."""
    bucket = Bucket()
    threading.Thread(target=bucket.serve_forever, daemon=True).start()
    before = {name: os.environ.get(name) for name in (URL, TOKEN)}
    os.environ.update({URL: bucket.url, TOKEN: "none"})
    use()
    try:
        yield bucket
    finally:
        bucket.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


if __name__ == "__main__":
    from rlhf_jax import cli

    use()
    cli.main()
