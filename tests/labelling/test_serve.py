"""The server over a network: what is no HTTP is refused, and the page works on."""

import contextlib
import http.client
import socket

from rlhf_jax.labelling import serve
from rlhf_jax.labelling.item import Item
from rlhf_jax.labelling.serve import MOST_HEADERS
from tests.labelling.client import FORM
from tests.labelling.serving import served

NOISE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 4 * MOST_HEADERS + b"\r\n\r\n",
)


def test_what_is_no_http_is_refused_and_the_page_works_on(tmp_path):
    with served(tmp_path, [Item("demonstrate", "question")], labelers=()) as (address, _, store):
        place = address.partition("://")[2]
        host, _, port = place.partition(":")
        for noise in NOISE:
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(noise)
                reply = connection.recv(1000)
                assert reply.startswith(b"HTTP/1.1 4") and b"Traceback" not in reply
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        headers = {"origin": address, "content-type": FORM}
        connection.request("POST", "/enter", "", headers)
        reply = connection.getresponse()
        assert reply.status == 303 and reply.getheader("server") is None
        reply.read()
        connection.request("GET", "/", headers={"cookie": reply.getheader("set-cookie")})
        reply = connection.getresponse()
        assert (reply.status, reply.getheader("location")) == (303, "/consent")
        reply.read()
        connection.request("POST", "/enter", "x" * 3, headers | {"host": "evil.example"})
        assert connection.getresponse().status == 400
        connection.close()
        assert store.count() == 1


def test_a_connection_that_sends_no_whole_request_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "WAIT", 0.2)
    with served(tmp_path, [Item("demonstrate", "question")], labelers=()) as (address, _, _store):
        host, _, port = address.partition("://")[2].partition(":")
        for part in (b"", b"GET / HT", b"GET /enter HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(part)
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(10_000):
                        pass
