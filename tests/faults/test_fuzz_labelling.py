"""Whatever is sent to the labelling page: a 4xx and a sentence, and nothing is stored.

RLHF_JAX_FUZZ multiplies the requests; `make test-faults` sends more than 10,000.
"""

import collections
import os
import random
import re
import sqlite3
from urllib.parse import urlencode

from rlhf_jax.labelling import guard
from rlhf_jax.labelling.database import NAME
from rlhf_jax.labelling.forms import MOST_TEXT
from rlhf_jax.labelling.item import Item, Output
from tests.labelling.client import FORM, ORIGIN, Labelling, ranking

SCALE = int(os.environ.get("RLHF_JAX_FUZZ", 1))
REQUESTS = max(200, 350 * (SCALE - 1))
SENTENCE = re.compile(r"<p>[A-Z][^<]+\.</p>")
HOST, GOOD = ("host", "127.0.0.1:8080"), [("origin", ORIGIN), ("content-type", FORM)]
NO_RANK = (
    "-1",
    "0",
    "4",
    "1e0",
    "1.0",
    " 1",
    "+1",
    "\u0662",
    "\uff11",
    "None",
    "",
    "9" * 400,
    "NaN",
)


class Sender:
    """Makes requests, each of which is wrong in one way that is known."""

    def __init__(self, labelling: Labelling, seed: int):
        self.chance, self.labelling = random.Random(seed), labelling
        self.anna, self.ben = labelling.browser("anna"), labelling.browser("ben")
        self.old, self.gone = self.answered(), self.taken_back()
        self.mine = labelling.store.next("anna").id
        self.other = labelling.store.next("ben").id

    def answered(self) -> dict:
        """The form of an answer that is stored."""
        form = {"assignment": self.labelling.store.next("anna").id, **self.ranks()}
        assert self.anna.post("/answer", **form).status == 303
        return form

    def taken_back(self) -> str:
        """The id of an assignment whose answer was taken back."""
        name = self.labelling.store.next("ben").id
        assert self.ben.post("/answer", assignment=name, **self.ranks()).status == 303
        assert self.ben.post("/undo").status == 303
        return name

    def ranks(self) -> dict:
        return ranking([1, 2, 3], [5, 6, 7])

    def form(self, **changes) -> dict:
        return {"csrf": self.anna.csrf, "assignment": self.mine, **self.ranks(), **changes}

    def send(self, path: str, fields, method="POST", headers=(), body=None):
        cookie = ("cookie", self.anna.cookie)
        body = urlencode(fields, doseq=True).encode() if body is None else body
        given = [HOST, cookie, *(headers or GOOD)]
        return self.anna.send(method, path, body, given, parts=self.chance.choice([1, 3]))

    def text(self, most: int = 40) -> str:
        size = self.chance.randint(0, most)
        codes = (self.chance.choice([range(128), range(0x2100), range(0xE000, 0x110000)])
                 for _ in range(size))  # fmt: skip
        return "".join(chr(self.chance.choice(some)) for some in codes)

    # One way to be wrong each.

    def wrong_token(self):
        csrf = self.chance.choice(["", self.ben.csrf, self.anna.csrf[:-1], self.text()])
        return self.send("/answer", self.form(csrf=csrf))

    def foreign_item(self):
        name = self.chance.choice([self.other, self.gone, "", self.text(), "x" * 3000, "1"])
        path = self.chance.choice(["/answer", "/skip"])
        fields = self.form(assignment=name)
        if path == "/skip":
            fields = {"csrf": self.anna.csrf, "assignment": name, "reason": "unclear"}
        return self.send(path, fields)

    def replayed(self):
        fields = {"csrf": self.anna.csrf} | self.old | {"rank-0": "3"}
        return self.send("/answer", fields)

    def wrong_number(self):
        field = self.chance.choice([f"{kind}-{i}" for kind in ("rank", "score") for i in range(3)])
        allowed = "1234567" if field.startswith("score") else "123"
        value = self.chance.choice([*NO_RANK, self.text()])
        return self.send("/answer", self.form(**{field: "8" if value in allowed else value}))

    def missing_field(self):
        fields = self.form()
        del fields[self.chance.choice(list(fields))]
        return self.send("/answer", fields)

    def unknown_field(self):
        return self.send("/answer", self.form(**{f"x{self.text()}": self.text()}))

    def field_twice(self):
        fields = self.form()
        name = self.chance.choice(list(fields))
        return self.send("/answer", fields | {name: [fields[name], fields[name]]})

    def unknown_flag(self):
        return self.send("/answer", self.form(**{"flag-1": [f"x{self.text()}"]}))

    def wrong_skip(self):
        reason = self.chance.choice(["", f"x{self.text()}", "other"])
        fields = {"csrf": self.anna.csrf, "assignment": self.mine, "reason": reason}
        return self.send("/skip", fields | {"detail": " " * self.chance.randint(0, 9)})

    def huge(self):
        size = self.chance.choice([MOST_TEXT, guard.MOST_BODY, 2 * guard.MOST_BODY])
        return self.send("/answer", None, body=b"csrf=" + b"x" * size)

    def noise(self):
        body = self.chance.randbytes(self.chance.randint(0, 300))
        return self.send(
            self.chance.choice(["/answer", "/skip", "/undo", "/enter"]), None, body=body
        )

    def half_a_form(self):
        body = urlencode(self.form()).encode()
        return self.send("/answer", None, body=body[: self.chance.randrange(len(body))])

    def wrong_origin(self):
        origin = self.chance.choice(["null", "http://evil.example", "", ORIGIN + "/", "HTTP://x"])
        return self.send("/answer", self.form(), headers=[("origin", origin), GOOD[1]])

    def wrong_type(self):
        kind = self.chance.choice(["application/json", "text/plain", "", "multipart/form-data"])
        return self.send("/answer", self.form(), headers=[GOOD[0], ("content-type", kind)])

    def wrong_host(self):
        host = self.chance.choice(
            ["evil.example", "", "127.0.0.1", "localhost:1", "127.0.0.1:8080."]
        )
        return self.anna.send("GET", "/", headers=[("host", host), ("cookie", self.anna.cookie)])

    def wrong_path(self):
        path = "/" + "".join(c for c in self.text() if c.isprintable() and c not in "/?#")
        known = ["/static/../app.py", "/static/%2e%2e/app.py", "/label", "/owner/export/..", "//",
                 "/static/", "/Enter"]  # fmt: skip
        path = self.chance.choice([path + "x", *known])
        return self.send(path, {}, method=self.chance.choice(["GET", "POST"]))

    def wrong_method(self):
        method = self.chance.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
        return self.send("/answer", self.form(), method=method)

    def wrong_cookie(self):
        name = self.anna.cookie.partition("=")[0]
        cookie = self.chance.choice([f"{name}=", f"{name}=" + "x" * 43, "a", f'{name}="', ";;="])
        return self.anna.send("POST", "/answer", urlencode(self.form()).encode(),
                              [HOST, *GOOD, ("cookie", cookie)])  # fmt: skip

    def not_the_owner(self):
        return self.send("/owner", {}, method="GET")


WAYS = [name for name, value in vars(Sender).items() if not name.startswith("_") and name not in (
    "answered", "taken_back", "ranks", "form", "send", "text")]  # fmt: skip


def test_whatever_is_sent_is_refused_in_a_sentence_and_nothing_is_stored(tmp_path):
    outputs = tuple(map(Output, ("a", "b", "c")))
    labelling = Labelling(tmp_path, [Item("rank", f"p{i}", outputs) for i in range(5)], each=2)
    sender, counts = Sender(labelling, seed=0), collections.Counter()
    with sqlite3.connect(tmp_path / NAME) as connection:
        state = lambda: connection.execute(
            "SELECT id, state, content, seconds FROM assignments ORDER BY id"
        ).fetchall()
        before = state()
        for number in range(REQUESTS):
            way = WAYS[number % len(WAYS)]
            reply = getattr(sender, way)()
            assert 400 <= reply.status < 500, (way, number, reply.status)
            assert "Traceback" not in reply.text and "rlhf_jax/" not in reply.text
            assert SENTENCE.search(reply.text), (way, reply.text)
            assert "content-security-policy" in reply.headers
            counts[reply.status] += 1
            if number % 50 == 0:
                assert state() == before, way
        assert state() == before
    assert sender.send("/answer", sender.form()).status == 303  # the page still works
    print(f"{REQUESTS} requests: {dict(sorted(counts.items()))}")
