"""A browser without a browser: requests to the ASGI application in this process."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from rlhf_jax.labelling.app import make_app
from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.item import Item
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.store import Store

ORIGIN = "http://127.0.0.1:8080"
FORM = "application/x-www-form-urlencoded"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    def value(self, name: str) -> str:
        """The value of a hidden field."""
        return re.search(rf'name="{name}"[^>]*value="([^"]*)"', self.text)[1]

    @property
    def title(self) -> str:
        return re.search(r"<title>(.*?)</title>", self.text)[1]


class Browser:
    """Keeps the cookie of one person."""

    def __init__(self, app):
        self.app, self.cookie, self.csrf = app, None, ""

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        parts: int = 1,
        stops: str | None = None,
    ) -> Reply:
        """stops: "waits" or "leaves" before the last part of the body; None: the body is whole."""
        return asyncio.run(self._send(method, path, body, headers, parts, stops))

    async def _send(self, method, path, body, headers, parts, stops) -> Reply:
        given = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "headers": given, "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.1", 50000),
        }  # fmt: skip
        size = max(1, -(-len(body) // parts))
        left = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        sent = []

        async def receive():
            if not left and stops == "waits":
                await asyncio.sleep(60)
            if not left:
                return {"type": "http.disconnect"}
            part = left.pop(0)
            more = bool(left) or stops is not None
            return {"type": "http.request", "body": part, "more_body": more}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        found = {k.decode(): v.decode("latin-1") for k, v in sent[0]["headers"]}
        if "set-cookie" in found:
            self.cookie = found["set-cookie"].partition(";")[0]
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        return Reply(sent[0]["status"], found, text)

    def _headers(self, more: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        own = [("cookie", self.cookie)] if self.cookie else []
        return [("host", ORIGIN.partition("//")[2]), *own, *more]

    def get(self, path: str = "/") -> Reply:
        return self.send("GET", path, headers=self._headers())

    def post(self, path: str, **fields) -> Reply:
        """Sends a form, with the CSRF token unless `csrf` is given."""
        fields = {name.replace("_", "-"): value for name, value in fields.items()}
        fields = {"csrf": self.csrf} | fields if self.csrf else fields
        headers = self._headers([("origin", ORIGIN), ("content-type", FORM)])
        return self.send("POST", path, urlencode(fields, doseq=True).encode(), headers)

    def enter(self, token: str | None) -> "Browser":
        """Signs in and consents."""
        assert self.post("/enter", **({} if token is None else {"token": token})).status == 303
        self.csrf = self.get("/consent").value("csrf")
        assert self.post("/consent", agree="yes").status == 303
        return self

    def answer(self, ranks: Sequence[int], scores: Sequence[int] | None = None, **more) -> Reply:
        """Ranks the outputs of the item that is shown, in the order in which they are shown."""
        page = self.get()
        fields = ranking(ranks, scores or [4] * len(ranks))
        return self.post("/answer", assignment=page.value("assignment"), **fields | more)


def ranking(ranks: Sequence[int], scores: Sequence[int]) -> dict[str, int]:
    """The fields of a ranking by place."""
    return {f"rank-{i}": rank for i, rank in enumerate(ranks)} | {
        f"score-{i}": score for i, score in enumerate(scores)
    }


class Labelling:
    """A folder of labels with its application."""

    def __init__(self, folder, items: Iterable[Item] = (), labelers=("anna", "ben"), **options):
        self.database = Database(folder)
        self.store, self.people = Store(self.database), People(self.database)
        self.tokens = self.people.register(labelers)
        self.store.add(items, **options)
        self.app = make_app(self.database, [ORIGIN])

    def browser(self, name: str | None = None) -> Browser:
        """A browser in which somebody has signed in; None: nobody has."""
        browser = Browser(self.app)
        return browser if name is None else browser.enter(self.tokens.get(name))
