"""The web server of the labelling page, on one socket."""

import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rlhf_jax.errors import UserError, require
from rlhf_jax.labelling.app import make_app
from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.options import LabelOptions
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.store import Store

MOST_AT_ONCE = 200  # connections; others get 503
MOST_HEADERS = 16 * 1024  # bytes of a request's line and headers
WAIT = 20.0  # seconds after which a connection is cut that sends no whole head, or reads nothing


class Connection(H11Protocol):
    """A connection that takes its place no longer than it is used."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._watch(None)

    def _watch(self, before: tuple | None) -> None:
        if self.transport.is_closing():
            return
        waits, unread = self.conn.their_state is h11.IDLE, self.transport.get_write_buffer_size()
        now = (self.cycle, unread)
        if (waits or unread) and now == before:
            self.transport.abort()
        else:
            self.loop.call_later(WAIT, self._watch, now)


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
    except (OSError, OverflowError, TypeError) as error:  # TypeError: of a name that is none
        found.close()
        told = (isinstance(error, OSError) and error.strerror) or error
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
        http=Connection,
        lifespan="off",
        ws="none",
        log_config=None,  # warnings and errors go to standard error
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


def check(options: LabelOptions) -> None:
    """Raises ConfigError where the options would serve other machines without TLS, or the
    certificate cannot be read."""
    tls = options.certificate is not None
    plain_allowed = is_loopback(options.host) or tls or options.insecure
    require(plain_allowed, "host", options.host, "given with --certificate and --key, or with "
            "--insecure; without TLS, tokens and answers can be read on their way")  # fmt: skip
    wild = options.host in ("0.0.0.0", "::", "") and options.address is None
    require(not wild, "address", None, f"given with --host {options.host}: how labelers open the "
            "page")  # fmt: skip
    if tls:
        _check_certificate(options.certificate, options.key)


def serve(store: Store, folder: Path, options: LabelOptions) -> int:
    """Serves the page of a folder until a signal ends it.

    Raises UserError where there is nothing to label, the address is taken, or other machines would
    be served without tokens.
    """
    people = People(store.database)
    named = options.labelers or not people.is_local()
    open_to_others = not is_loopback(options.host) or options.address is not None
    require(bool(named) or not open_to_others, "labelers", options.labelers,
            "named: other machines are served only with a token for each labeler")  # fmt: skip
    if not store.count():
        raise UserError(f"{folder}: holds nothing to label")
    listening = listen(options.host, options.port)
    tls = options.certificate is not None
    origins = origins_of(options.host, listening.getsockname()[1], tls)
    origins = origins if options.address is None else [options.address]
    running = server(store.database, origins, options.certificate, options.key)
    tokens = people.register(options.labelers, options.renew)
    _tell(folder, origins[0], tokens, people, options)
    running.run(sockets=[listening])
    return 0


def _check_certificate(certificate: Path, key: Path) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:  # of ssl too
        raise UserError(f"certificate: {certificate} and {key} are no pair of a certificate and "
                        f"its key: {error.strerror or error}") from None  # fmt: skip


def _tell(
    folder: Path, address: str, tokens: Mapping[str, str], people: People, options: LabelOptions
) -> None:
    """Prints where the page is, and each new token once."""
    labelers = people.names()
    print(f"label: {folder} at {address}/ (Ctrl-C ends it; all answers stay)")
    if max(options.each, 2 if options.overlap else 1) > len(labelers):
        told = "is one labeler" if len(labelers) == 1 else f"are {len(labelers)} labelers"
        print(f"label: there {told}: items that more labelers are to get stay open")
    if tokens:
        print("label: the links of this table are shown only now; who has one is that labeler")
    width = max(map(len, tokens), default=0)
    for name, token in tokens.items():
        print(f"  {name:{width}}  {address}/enter#{token}")
    print(end="", flush=True)
