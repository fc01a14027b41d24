"""What a reader gives: items, which a template later turns into records (data/convert.py)."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.messages import Message, Messages
from rlhf_jax.data.records import dense_ranks
from rlhf_jax.errors import RecordError

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """The turns before a response.

    written: the same as text, where the file has a template of its own; its responses then include
    their leading space
    """

    turns: Messages
    written: str | None = None


@dataclasses.dataclass(frozen=True)
class Item:
    """A prompt with its responses.

    prompt     a dialogue; or text that no template changes, as its responses
    responses  none: a prompt alone; one: a demonstration, unless it has a score
    ranks      one a response, the lowest is best; None: the responses are not ranked
    scores     one a response, absolute, higher is better; None: the responses are not scored
    fields     further fields of the prompt, for reward functions
    all_turns  whether the prompt's turns of the assistant are demonstrations too
    """

    prompt: str | Dialogue
    responses: tuple[str, ...] = ()
    ranks: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    all_turns: bool = False


class Document(NamedTuple):
    """Plain text."""

    text: str


class Noted(NamedTuple):
    """Something that a reader did to a row that is kept, in a few words, by which it is counted."""

    what: str


class Left(Exception):
    """A part of a row that gives no item, with the reason in a few words, by which it is counted.

    A reader yields it, or raises it to leave out the rest of the row.
    """


Row = tuple[str, Any]  # ("file:line", value)
Read = Callable[[str, Any, str], Iterator[Item | Document | Noted | Left]]  # (where, value, by)


@dataclasses.dataclass(frozen=True)
class Format:
    """A format and its reader.

    name     as in messages and counts
    fits     whether a row has the format's fields
    read     the items of a row. `where` names the row in errors; `by` is one of `by`
    gives    the kinds of records that are made if none is asked for
    by       the judgements by which responses can be ranked or scored; the first is the default
    licence  of the data set that the format belongs to; "" for a format that many data sets have
    called   names of the data set in small letters, without - and _: the licence is that of files
             with such a name or in such a folder; (): the format's name
    test     whether the data set is public as a test set, so that nobody should train on it
    rows     changes the rows of a file before they are read one by one, such as messages into trees
    source   the paper or page that describes it
    """

    name: str
    fits: Callable[[Any], bool]
    read: Read
    gives: tuple[str, ...]
    by: tuple[str, ...] = ("",)
    licence: str = ""
    called: tuple[str, ...] = ()
    test: bool = False
    rows: Callable[[Path, Iterable[Row]], Iterable[Row]] = lambda path, rows: rows
    source: str = ""

    def is_called(self, name: str) -> bool:
        """Whether a file, or one of the three folders that hold it, has the data set's name."""
        letters = re.sub("[-_ ]", "", "/".join(Path(name).parts[-4:]).lower())
        return any(called in letters for called in self.called or (self.name.lower(),))


def has(row: Any, **kinds: type | tuple) -> bool:
    """Whether a row is an object with these fields, of these types."""
    return isinstance(row, dict) and all(
        name in row and isinstance(row[name], kind) for name, kind in kinds.items()
    )


def field(where: str, value: Any, name: str, kinds: type | tuple) -> Any:
    """A field of an object. Raises RecordError where it is missing, of another type, or a number
    that is not finite."""
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected a JSON object, got {type(value).__name__}")
    if name not in value:
        there = ", ".join(map(str, value))[:60] or "none"
        raise RecordError(f"{where}: field {name!r} is missing: there are {there}")
    found = value[name]
    bad_bool = isinstance(found, bool) and kinds in (int, float, (int, float))
    if not isinstance(found, kinds) or bad_bool:
        names = kinds.__name__ if isinstance(kinds, type) else "/".join(k.__name__ for k in kinds)
        raise RecordError(f"{where}: field {name!r}: expected {names}, got {found!r:.60}")
    if isinstance(found, float) and not math.isfinite(found):
        raise RecordError(f"{where}: field {name!r}: expected a finite number, got {found!r:.60}")
    return found


def whole(number: float) -> float:
    """A whole number as int: tables keep ranks as floats where some are missing."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def choice(where: str, value: Any, name: str, allowed: Mapping[Any, Any]) -> Any:
    """What `allowed` says of a field's value. Raises RecordError for another value."""
    found = field(where, value, name, (int, str, bool))
    if found not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise RecordError(f"{where}: field {name!r}: expected one of {listed}, got {found!r:.60}")
    return allowed[found]


def asked(text: str, system: str = "") -> Dialogue:
    """A dialogue of one turn of a user."""
    before = (Message("system", system),) if system else ()
    return Dialogue((*before, Message("user", text)))


def best_first(scores: Iterable[float]) -> tuple[int, ...]:
    """Ranks of scores: the highest score has rank 0, equal scores tie."""
    return dense_ranks([-score for score in scores])


def compared(prompt: str | Dialogue, chosen: str, rejected: str) -> Item:
    return Item(prompt, (chosen, rejected), (0, 1))


def as_written(where: str, name: str, text: str) -> Dialogue:
    """The dialogue of a text in Anthropic's template, "\\n\\nHuman: ... \\n\\nAssistant:".

    Raises RecordError where the text has another form.
    """
    if not text.startswith(HUMAN) or not text.endswith(ASSISTANT):
        raise RecordError(
            f"{where}: field {name!r}: expected '\\n\\nHuman: ... \\n\\nAssistant: ...', "
            f"got {text!r:.60}"
        )
    turns, left = [], text.removesuffix(ASSISTANT)
    while left:
        at, role = max((left.rfind(HUMAN), "user"), (left.rfind(ASSISTANT), "assistant"))
        mark = HUMAN if role == "user" else ASSISTANT
        turns.append(Message(role, left[at + len(mark) :].strip()))
        left = left[:at]
    return Dialogue(tuple(reversed(turns)), text)
