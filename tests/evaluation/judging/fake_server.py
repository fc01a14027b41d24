"""An OpenAI-compatible server on this machine that answers, fails, hangs or talks nonsense."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """content: bytes, or what becomes JSON; pause: seconds before each byte."""

    status: int = 200
    content: Any = None
    headers: Any = ()
    pause: float = 0.0


def says(text: str | None, tokens: tuple[int, int] = (7, 3)) -> Reply:
    """A chat completion."""
    return Reply(200, {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    })  # fmt: skip


class Fake(NamedTuple):
    """url; requests: the (path, headers, body) so far."""

    url: str
    requests: list


@contextlib.contextmanager
def serving(answer: Callable[[str, int], Reply]) -> Iterator[Fake]:
    """answer(prompt, n): the reply to a prompt that is asked for the n-th time, from 1."""
    requests, counts, lock = [], {}, threading.Lock()
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                requests.append((self.path, dict(self.headers), body))
                counts[prompt] = number = counts.get(prompt, 0) + 1
            reply = answer(prompt, number)
            raw = isinstance(reply.content, bytes)
            content = reply.content if raw else json.dumps(reply.content).encode()
            with contextlib.suppress(OSError):
                self.send_response(reply.status)
                for name, value in reply.headers:
                    self.send_header(name, value)
                self.end_headers()
                if not reply.pause:
                    self.wfile.write(content)
                    return
                for byte in content:
                    if ended.wait(reply.pause):
                        return
                    self.wfile.write(bytes([byte]))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Fake(f"http://127.0.0.1:{server.server_port}/v1", requests)
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
