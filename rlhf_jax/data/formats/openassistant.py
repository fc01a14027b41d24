"""OpenAssistant's conversations, as trees or as single messages."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlhf_jax.data.formats.item import Dialogue, Format, Item, Left, Row, field, has, whole
from rlhf_jax.data.messages import Message
from rlhf_jax.errors import RecordError

OPTIONAL = (int, float, type(None))  # a table has whole numbers as floats where some are missing
ROLES = {"prompter": "user", "assistant": "assistant"}


def read_tree(where: str, row: dict, by: str) -> Iterator[Item | Left]:
    """A ranking for each message of a prompter whose replies all have ranks; rank 0 is best."""
    yield from _below(where, field(where, row, "prompt", dict), ())


def _below(where: str, message: dict, before: tuple[Message, ...]) -> Iterator[Item | Left]:
    if reason := _refused(message):
        yield Left(reason)
        return
    role = field(where, message, "role", str)
    text = field(where, message, "text", str)
    replies = field(where, message, "replies", list)
    if role not in ROLES:
        raise RecordError(f"{where}: field 'role': expected prompter or assistant, got {role!r}")
    turns = (*before, Message(ROLES[role], text))
    if role == "prompter" and replies:
        yield _ranking(where, turns, [reply for reply in replies if not _refused(reply)])
    for reply in replies:
        yield from _below(where, reply, turns)


def _refused(message: Any) -> str:
    """Why people took a message out, and with it what follows it; "" if they did not."""
    given = message if isinstance(message, dict) else {}
    if given.get("deleted") is True:
        return "a deleted message"
    return "a message that reviewers refused" if given.get("review_result") is False else ""


def _ranking(where: str, turns: tuple[Message, ...], replies: list) -> Item | Left:
    texts = tuple(field(where, reply, "text", str) for reply in replies)
    ranks = tuple(field(where, reply, "rank", OPTIONAL) if "rank" in reply else None
                  for reply in replies)  # fmt: skip
    ranked = sum(rank is not None for rank in ranks)
    if 0 < ranked < len(ranks):
        return Left("only some replies ranked")
    if ranked < 2:
        return Left("no ranks, or a single reply")
    return Item(Dialogue(turns), texts, tuple(map(whole, ranks)))


def trees(path: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """Trees from single messages {message_id, parent_id, text, role, rank}, each after its parent.

    Raises RecordError where a message's parent is not in the file before it.
    """
    roots, known = [], {}
    for where, row in rows:
        message = {name: field(where, row, name, str) for name in ("message_id", "text", "role")}
        message |= {key: row.get(key) for key in ("rank", "deleted", "review_result")}
        message["replies"] = []
        parent = field(where, row, "parent_id", (str, type(None)))
        if not parent:
            roots.append((where, {"prompt": message}))
        elif parent not in known:
            raise RecordError(f"{where}: field 'parent_id': expected a message before this one, "
                              f"got {parent!r:.60}")  # fmt: skip
        else:
            known[parent]["replies"].append(message)
        known[message["message_id"]] = message
    yield from roots


LICENCE, CALLED = "Apache-2.0", ("oasst", "openassistant")
SOURCE = "Koepf et al. 2023, arXiv 2304.07327"
FORMATS = (
    Format("OpenAssistant trees",
           lambda row: has(row, prompt=dict) and has(row["prompt"], text=str, replies=list),
           read_tree, ("rankings",), licence=LICENCE, called=CALLED, source=SOURCE),
    Format("OpenAssistant messages",
           lambda row: has(row, message_id=str, parent_id=(str, type(None)), text=str, role=str),
           read_tree, ("rankings",), licence=LICENCE, called=CALLED, source=SOURCE, rows=trees),
)  # fmt: skip
