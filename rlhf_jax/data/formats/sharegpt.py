"""ShareGPT's conversations."""

from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.formats.item import Format, Item, Noted, field, has
from rlhf_jax.data.formats.messages import answered, is_messages, noted, turns


def read(where: str, row: dict, by: str) -> Iterator[Item | Noted]:
    """{conversations: [{from, value}]}: the last turn is the response."""
    said = field(where, row, "conversations", list)
    found = turns(where, "conversations", said, "from", "value")
    yield from noted(said, found)
    prompt, response = answered(found)
    yield Item(prompt, (response,), all_turns=True)


def fits(row: Any) -> bool:
    return has(row, conversations=list) and is_messages(row["conversations"], "from", "value")


FORMATS = (Format("ShareGPT", fits, read, ("demonstrations",)),)
