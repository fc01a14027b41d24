"""The web server of the labelling page, on one socket."""

import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from rlhf_jax.errors import UserError
from rlhf_jax.labelling.app import make_app
from rlhf_jax.labelling.database import Database

MOST_AT_ONCE = 200  # connections; others get 503
MOST_HEADERS = 16 * 1024  # bytes of a request's line and headers


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, before anything is printed or served. port: 0: a free one.

    Raises UserError where the address is taken or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        told = str(error) if isinstance(error, OverflowError) else error.strerror or error
        raise UserError(f"{host}:{port}: cannot be listened to: {told}") from None
    return found


def origins_of(host: str, port: int, tls: bool) -> list[str]:
    """The addresses under which browsers open a server that listens at host and port."""
    names = ["localhost", "127.0.0.1", "[::1]"] if is_loopback(host) else [host]
    names = [f"[{name}]" if name.count(":") > 1 and name[0] != "[" else name for name in names]
    scheme, default = ("https", 443) if tls else ("http", 80)
    end = "" if port == default else f":{port}"
    return [f"{scheme}://{name}{end}" for name in names]


def server(
    database: Database,
    origins: Sequence[str],
    certificate: Path | None = None,
    key: Path | None = None,
) -> uvicorn.Server:
    """The server of a database; `server.run(sockets=[listen(...)])` serves until a signal.

    origins: see app.make_app. certificate, key: PEM files; None: without TLS. Nothing is logged of
    who asks for what.
    """
    config = uvicorn.Config(
        make_app(database, origins),
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_AT_ONCE,
        h11_max_incomplete_event_size=MOST_HEADERS,
        timeout_graceful_shutdown=10,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return uvicorn.Server(config)
