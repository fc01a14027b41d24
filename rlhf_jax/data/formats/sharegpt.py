"""ShareGPT's conversations."""

from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.formats.item import Format, Item, field, has
from rlhf_jax.data.formats.messages import answered, is_messages, turns


def read(where: str, row: dict, by: str) -> Iterator[Item]:
    """{conversations: [{from, value}]}: the last turn is the response."""
    said = field(where, row, "conversations", list)
    found = turns(where, "conversations", said, "from", "value")
    prompt, response = answered(found)
    yield Item(prompt, (response,), all_turns=True)


def fits(row: Any) -> bool:
    return has(row, conversations=list) and is_messages(row["conversations"], "from", "value")


FORMATS = (Format("ShareGPT", fits, read, ("demonstrations",)),)
