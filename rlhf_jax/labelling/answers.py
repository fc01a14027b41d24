"""All answers of a folder, as the export and the owner's page read them."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.item import Item
from rlhf_jax.labelling.store import read_item


class Answer(NamedTuple):
    """What a labeler said of an item. state: "answered" or "skipped"."""

    number: int  # of the item in the file
    item: Item
    labeler: str
    state: str
    content: dict[str, Any]
    seconds: float
    at: float  # seconds since 1970

    @property
    def ranked(self) -> bool:
        return self.state == "answered" and self.item.task == "rank"


def read(database: Database) -> list[Answer]:
    """All answers and skips, by item and then by labeler."""
    find = "SELECT * FROM assignments WHERE state IN ('answered', 'skipped') ORDER BY item, person"
    items: dict[int, Item] = {}
    with database.reading() as connection:
        rows = connection.execute(find).fetchall()
        for row in rows:
            if row["item"] not in items:
                items[row["item"]] = read_item(connection, row["item"])
    return [
        Answer(row["item"], items[row["item"]], row["person"], row["state"],
               json.loads(row["content"]), row["seconds"], row["at"])
        for row in rows
    ]  # fmt: skip


def rankings(answers: Sequence[Answer], gold: bool = False) -> list[Answer]:
    """Those that rank outputs: of gold items, or of the others."""
    return [a for a in answers if a.ranked and (a.item.gold is not None) == gold]
