"""What every request passes before a route sees it, and every response after."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

MOST_BODY = 2 * 2**20  # bytes: a text of 100,000 characters, each in four bytes of three signs
BODY_SECONDS = 30.0  # for a whole body to arrive
FORM = "application/x-www-form-urlencoded"
POLICY = ("default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
          "form-action 'self'; base-uri 'none'; frame-ancestors 'none'")  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no-referrer, browsers send forms with the Origin "null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
App = Callable[[dict, Callable, Callable], Awaitable[None]]


class Guard:
    """An ASGI layer: checks Host, method, Origin and type, bounds the body, adds the headers.

    origins  the addresses under which the page is opened, such as http://127.0.0.1:8080
    refuse   the response to a request that is refused, by status and sentence: an ASGI application
    """

    def __init__(self, app: App, origins: Collection[str], refuse: Callable[[int, str], App]):
        self._app, self._origins, self._refuse = app, frozenset(origins), refuse
        self._hosts = {origin.partition("://")[2] for origin in origins}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return
        send = _with_headers(send)
        refused = self._why_refused(scope)
        if refused is None and scope["method"] == "POST":
            body, refused = await _body(receive)
            receive = _given(body)
        app = self._app if refused is None else self._refuse(*refused)
        await app(scope, receive, send)

    def _why_refused(self, scope: dict) -> tuple[int, str] | None:
        """(status, sentence) of a request that goes no further, by its headers."""
        headers = scope["headers"]
        if _only(headers, b"host") not in self._hosts:
            return 400, "The Host of the request is not one of this page."
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST":
            return 405, "Only GET and POST are answered."
        if _only(headers, b"origin") not in self._origins:
            return 403, "The form was not sent by this page (its Origin is another)."
        if (_only(headers, b"content-type") or "").partition(";")[0].strip().lower() != FORM:
            return 415, f"A form must be sent as {FORM}."
        length = _only(headers, b"content-length")
        if length is not None and (not length.isdecimal() or int(length[:20]) > MOST_BODY):
            return 413, f"The form is larger than {MOST_BODY // 2**20} MB."
        return None


def _only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The value of a header; None: it is missing, or there are several."""
    values = [value for key, value in headers if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


async def _body(receive: Callable) -> tuple[bytes, tuple[int, str] | None]:
    """The whole body, or why it is refused."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return b"", (400, "The form did not arrive whole.")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MOST_BODY:
                    return b"", (413, f"The form is larger than {MOST_BODY // 2**20} MB.")
                if not message.get("more_body", False):
                    return b"".join(parts), None
    except TimeoutError:
        return b"", (408, f"The form did not arrive within {BODY_SECONDS:.0f} seconds.")


def _given(body: bytes) -> Callable:
    """A `receive` that gives a body that has arrived."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    return receive


def _with_headers(send: Callable) -> Callable:
    async def send_with(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message["headers"]}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
            message = message | {"headers": [*message["headers"], *more]}
        await send(message)

    return send_with
