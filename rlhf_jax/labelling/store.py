"""Items, who gets which, and answers.

Each item goes to `wanted` labelers. An item that another labeler has already goes before one that
nobody has, so that early answers overlap. An assignment is kept for LEASE seconds for its labeler;
then others may get the item, but an answer that comes late is stored all the same.
"""

import json
import random
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rlhf_jax.labelling.database import EVERYBODY, Database
from rlhf_jax.labelling.item import Item, Output, of_told, told

LEASE = 3600.0  # seconds
GOLD_EVERY = 10  # answers between two gold items; the first one comes after GOLD_FIRST
GOLD_FIRST = 5
SEEN = "SELECT 1 FROM assignments a WHERE a.item = items.id AND a.person = :person"


class Assignment(NamedTuple):
    """An item before a labeler.

    id        names it in the form
    places    the number of the output that is shown in each place
    state     "open", "late", "answered" or "skipped"
    content   the answer: of one that was taken back the former; None: there is none
    """

    id: str
    number: int  # of the item in the file
    item: Item
    places: tuple[int, ...]
    state: str
    given: float
    content: dict[str, Any] | None


class Progress(NamedTuple):
    """Of a labeler. seconds: of all answers."""

    done: int
    skipped: int
    left: int
    seconds: float
    median_seconds: float | None


class Conflict(Exception):
    """The assignment has another answer already."""


class Missing(Exception):
    """The labeler has no such assignment."""


def wanted(number: int, each: int, overlap: float) -> int:
    """How many labelers get item number 0, 1, ...: `each`, and of a share `overlap` of the items,
    evenly spread, at least two."""
    extra = int((number + 1) * overlap + 1e-9) > int(number * overlap + 1e-9)
    return max(each, 2) if extra else each


class Store:
    """The tables `items`, `outputs` and `assignments`."""

    def __init__(self, database: Database, clock=time.time):
        self.database = database
        self._clock = clock

    def has_batch(self, source: str) -> bool:
        """Whether the items of a source, such as a stage with options, are in the file."""
        with self.database.reading() as connection:
            find = "SELECT 1 FROM batches WHERE source = ?"
            return connection.execute(find, (source,)).fetchone() is not None

    def add(
        self, items: Iterable[Item], each: int = 1, overlap: float = 0.0, source: str | None = None
    ) -> int:
        """Adds the items that the file does not hold yet, all or none, and returns their number."""
        with self.database.writing() as connection:
            (start,) = connection.execute(
                "SELECT count(*) FROM items WHERE gold IS NULL"
            ).fetchone()
            added = 0
            for item in items:
                known = "SELECT 1 FROM items WHERE digest = ?"
                if connection.execute(known, (item.digest,)).fetchone() is None:
                    number = wanted(start + added, each, overlap)
                    added += 1
                    self._insert(connection, item, number if item.gold is None else EVERYBODY)
            if source is not None:
                row = (source, added)
                connection.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", row)
        return added

    def _insert(self, connection: sqlite3.Connection, item: Item, count: int) -> None:
        gold = None if item.gold is None else json.dumps(item.gold)
        insert = "INSERT INTO items (task, prompt, gold, digest, wanted) VALUES (?, ?, ?, ?, ?)"
        row = (item.task, json.dumps(told(item.prompt)), gold, item.digest, count)
        place = connection.execute(insert, row).lastrowid
        for number, output in enumerate(item.outputs):
            connection.execute(
                "INSERT INTO outputs VALUES (?, ?, ?, ?, ?)",
                (place, number, output.text, output.ended, json.dumps(output.origins)),
            )

    def count(self) -> int:
        with self.database.reading() as connection:
            return connection.execute("SELECT count(*) FROM items").fetchone()[0]

    def next(self, person: str) -> Assignment | None:
        """The item that a labeler has open, or a new one; None: nothing is left for this labeler.

        Two tabs get the same item. An item whose answer was taken back comes first.
        """
        now = self._clock()
        with self.database.reading() as connection:
            row = _open_row(connection, person)
            if row is not None and row["state"] == "open" and row["until"] > now + LEASE / 2:
                return _assignment(connection, row)
        with self.database.writing() as connection:
            free = "UPDATE assignments SET state = 'late' WHERE state = 'open' AND until < ?"
            connection.execute(free, (now,))
            row = _open_row(connection, person)
            if row is None:
                row = self._assign(connection, person, now)
            if row is None:
                return None
            keep = "UPDATE assignments SET state = 'open', until = ? WHERE id = ?"
            connection.execute(keep, (now + LEASE, row["id"]))
            return _assignment(connection, row)

    def _assign(
        self, connection: sqlite3.Connection, person: str, now: float
    ) -> sqlite3.Row | None:
        item = _gold_item(connection, person) or _waiting_item(connection, person)
        if item is None:
            return None
        (outputs,) = connection.execute(
            "SELECT count(*) FROM outputs WHERE item = ?", (item,)
        ).fetchone()
        places = random.SystemRandom().sample(range(outputs), outputs)
        name = secrets.token_urlsafe(16)
        insert = (
            "INSERT INTO assignments (id, item, person, state, places, given, until) "
            "VALUES (?, ?, ?, 'open', ?, ?, ?)"
        )
        row = (name, item, person, json.dumps(places), now, now + LEASE)
        connection.execute(insert, row)
        return connection.execute("SELECT * FROM assignments WHERE id = ?", (name,)).fetchone()

    def of(self, person: str, name: str) -> Assignment:
        """A labeler's assignment by its id. Raises Missing where the labeler has none such."""
        with self.database.reading() as connection:
            return _assignment(connection, _row(connection, person, name))

    def answer(
        self, person: str, name: str, state: str, content: dict, seconds: int | None
    ) -> None:
        """Stores an answer (state "answered") or a skip ("skipped"). When this returns, it is on
        the disk. The same again changes nothing.

        seconds: the time that the page counted; the time since the item was given bounds it.
        Raises Missing, or Conflict where another answer is stored already.
        """
        now, text = self._clock(), json.dumps(content, sort_keys=True)
        with self.database.writing() as connection:
            row = _row(connection, person, name)
            if row["state"] in ("answered", "skipped"):
                if (row["state"], row["content"]) != (state, text):
                    raise Conflict
                return
            passed = max(0.0, now - row["given"])
            taken = min(passed, LEASE) if seconds is None else min(passed, seconds)
            update = "UPDATE assignments SET state = ?, content = ?, at = ?, seconds = ?"
            connection.execute(f"{update} WHERE id = ?", (state, text, now, taken, name))

    def undo(self, person: str) -> bool:
        """Takes a labeler's last answer or skip back: its item is open again, under a new id, so
        that older forms of it are refused. Returns False where there is none."""
        now = self._clock()
        find = (
            "SELECT id FROM assignments WHERE person = ? AND state IN ('answered', 'skipped') "
            "ORDER BY at DESC, rowid DESC LIMIT 1"
        )
        update = (
            "UPDATE assignments SET id = ?, state = 'open', given = ?, until = ?, at = NULL, "
            "seconds = NULL WHERE id = ?"
        )
        with self.database.writing() as connection:
            row = connection.execute(find, (person,)).fetchone()
            if row is None:
                return False
            values = (secrets.token_urlsafe(16), now, now + LEASE, row["id"])
            connection.execute(update, values)
        return True

    def progress(self, person: str) -> Progress:
        times = "SELECT state, seconds FROM assignments WHERE person = ? AND at IS NOT NULL"
        left = (
            "SELECT (SELECT count(*) FROM items WHERE taken < wanted AND gold IS NULL "
            f"AND NOT EXISTS ({SEEN})) + (SELECT count(*) FROM assignments "
            "WHERE person = :person AND state = 'open')"
        )
        with self.database.reading() as connection:
            rows = connection.execute(times, (person,)).fetchall()
            (waiting,) = connection.execute(left, {"person": person}).fetchone()
        taken = sorted(row["seconds"] for row in rows if row["state"] == "answered")
        middle = None if not taken else _median(taken)
        return Progress(len(taken), len(rows) - len(taken), waiting, sum(taken), middle)

    def worked(self, person: str, gap: float) -> float:
        """For how many seconds a labeler has answered without a pause of `gap` seconds."""
        find = (
            "SELECT at, seconds FROM assignments WHERE person = ? AND at IS NOT NULL "
            "ORDER BY at DESC LIMIT 500"
        )
        with self.database.reading() as connection:
            rows = connection.execute(find, (person,)).fetchall()
        start = end = self._clock()
        for row in rows:
            if start - row["at"] > gap:
                break
            start = min(start, row["at"] - row["seconds"])
        return end - start


def _median(values: Sequence[float]) -> float:
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def _row(connection: sqlite3.Connection, person: str, name: str) -> sqlite3.Row:
    find = "SELECT * FROM assignments WHERE id = ? AND person = ?"
    row = connection.execute(find, (name, person)).fetchone()
    if row is None:
        raise Missing
    return row


def _open_row(connection: sqlite3.Connection, person: str) -> sqlite3.Row | None:
    """What a labeler has before them, the last given first. One whose time is over counts as long
    as nobody else has got the item."""
    find = (
        "SELECT assignments.* FROM assignments JOIN items ON items.id = item WHERE person = ? AND "
        "(state = 'open' OR state = 'late' AND taken < wanted) ORDER BY given DESC LIMIT 1"
    )
    return connection.execute(find, (person,)).fetchone()


def _waiting_item(connection: sqlite3.Connection, person: str) -> int | None:
    find = (
        f"SELECT id FROM items WHERE taken < wanted AND gold IS NULL AND NOT EXISTS ({SEEN}) "
        "ORDER BY taken DESC, id LIMIT 1"
    )
    row = connection.execute(find, {"person": person}).fetchone()
    return None if row is None else row["id"]


def _gold_item(connection: sqlite3.Connection, person: str) -> int | None:
    """A gold item, in an order of the labeler's own, where one is due."""
    count = (
        "SELECT count(*) FILTER (WHERE gold IS NOT NULL) AS gold, "
        "count(*) FILTER (WHERE gold IS NULL) AS other "
        "FROM assignments JOIN items ON items.id = item WHERE person = ?"
    )
    had = connection.execute(count, (person,)).fetchone()
    if had["gold"] >= (had["other"] + GOLD_EVERY - GOLD_FIRST) // GOLD_EVERY:
        return None
    find = f"SELECT id FROM items WHERE gold IS NOT NULL AND NOT EXISTS ({SEEN}) ORDER BY id"
    left = [row["id"] for row in connection.execute(find, {"person": person})]
    return random.SystemRandom().choice(left) if left else None


def _assignment(connection: sqlite3.Connection, row: sqlite3.Row) -> Assignment:
    content = None if row["content"] is None else json.loads(row["content"])
    return Assignment(
        row["id"],
        row["item"],
        read_item(connection, row["item"]),
        tuple(json.loads(row["places"])),
        row["state"],
        row["given"],
        content,
    )


def read_item(connection: sqlite3.Connection, number: int) -> Item:
    row = connection.execute("SELECT * FROM items WHERE id = ?", (number,)).fetchone()
    find = "SELECT * FROM outputs WHERE item = ? ORDER BY number"
    outputs = [
        Output(o["text"], bool(o["ended"]), tuple(json.loads(o["origins"])))
        for o in connection.execute(find, (number,))
    ]
    return Item(
        row["task"],
        of_told(json.loads(row["prompt"])),
        tuple(outputs),
        None if row["gold"] is None else tuple(json.loads(row["gold"])),
    )
