import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf_jax.data.download import FILES, download_human_data
from rlhf_jax.errors import UserError

CONTENT = b'{"chosen": "a"}\n'
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a server on loopback, and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


def test_fetches_what_is_absent_or_changed_and_nothing_else(server, tmp_path):
    address, served = server
    files = {"deep/a.jsonl": (f"{address}/a.jsonl", CHECKSUM)}
    cache = tmp_path / "cache"
    assert download_human_data(cache, files) == cache
    assert (cache / "deep/a.jsonl").read_bytes() == CONTENT
    (cache / "deep/a.jsonl").write_bytes(b"damaged")
    download_human_data(cache, files)
    assert (cache / "deep/a.jsonl").read_bytes() == CONTENT
    (served / "a.jsonl").unlink()
    download_human_data(cache, files)  # whole already: not asked for again


def test_a_wrong_file_is_not_kept(server, tmp_path):
    address, served = server
    (served / "a.jsonl").write_bytes(b"other")
    with pytest.raises(UserError, match=f"expected sha256 {CHECKSUM[:12]}"):
        download_human_data(tmp_path / "cache", {"a.jsonl": (f"{address}/a.jsonl", CHECKSUM)})
    assert not (tmp_path / "cache").exists()


def test_an_address_that_does_not_answer(server, tmp_path):
    address, _ = server
    for wrong in (f"{address}/no.jsonl", (tmp_path / "no").as_uri()):
        with pytest.raises(UserError, match="cannot be fetched"):
            download_human_data(tmp_path / "cache", {"a.jsonl": (wrong, CHECKSUM)})


def test_checksums_are_those_of_the_real_files(human_data):
    local = {
        name: ((human_data / name).as_uri(), checksum) for name, (_, checksum) in FILES.items()
    }
    assert download_human_data(human_data, local) == human_data
    for name, (_, checksum) in FILES.items():
        assert hashlib.sha256((human_data / name).read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("name", ["../a.jsonl", "/tmp/a.jsonl", "deep/../../a.jsonl"])
def test_no_file_leads_out_of_the_folder(server, tmp_path, name):
    address, _ = server
    with pytest.raises(UserError, match="leads out of"):
        download_human_data(tmp_path / "cache", {name: (f"{address}/a.jsonl", CHECKSUM)})
