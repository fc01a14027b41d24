"""Record types, their validation, and strict JSONL files of them.

One line of JSONL is one record, by kind:

    Text           {"text"}
    Prompt         {"prompt"} with any further fields, such as {"answer"}, for reward functions
    Demonstration  {"prompt", "response"}
    Conversation   {"messages": [{"role", "content"}, ...]}
    Ranking        {"prompt", "responses", "ranks"} with an optional {"ended": [true, ...]}, or a
                   comparison {"prompt", "chosen", "rejected"} with an optional {"tie": true}
    Scored         {"prompt", "response", "score"}

A demonstration, a ranking and a score may name their {"labeler"}, by a pseudonym.
A prompt is a text that includes its whole template, or a list of messages {"role", "content"} that
a chat template turns into one (chat.py). Responses may be empty (a model that stops at once).
"""

import dataclasses
import gzip
import io
import json
import math
import numbers
import os
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf_jax.data.messages import (
    Message,
    Messages,
    check_json,
    check_labeler,
    check_text,
    dialogue,
    messages_of,
    require_field,
)
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.strict_json import parse_json

MOST_RANK = 2**31


@dataclass(frozen=True)
class Text:
    """A plain-text document."""

    text: str

    def __post_init__(self) -> None:
        check_text("text", self.text)


@dataclass(frozen=True)
class Prompt:
    """The text that a response follows, template included.

    fields: further JSON values by name, such as {"answer": "42"}, for reward functions
    """

    prompt: str | Messages
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", dialogue("prompt", self.prompt))
        require_field(
            isinstance(self.fields, Mapping), "fields", self.fields, "JSON values by name"
        )
        require_field("prompt" not in self.fields, "fields", self.fields, "other names than prompt")
        for name, value in self.fields.items():
            require_field(isinstance(name, str), "fields", name, "names that are strings")
            check_json(name, value)
        object.__setattr__(self, "fields", json.loads(json.dumps(dict(self.fields))))


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the response that a labeler wrote for it.

    trained: spans [start, stop) of the prompt's characters that are targets too: earlier turns
    """

    prompt: str | Messages
    response: str
    trained: tuple[tuple[int, int], ...] = ()
    labeler: str | None = None

    def __post_init__(self) -> None:
        check_labeler(self.labeler)
        object.__setattr__(self, "prompt", dialogue("prompt", self.prompt))
        check_text("response", self.response, empty_allowed=True)
        require_field(isinstance(self.trained, list | tuple), "trained", self.trained, "a list")
        for span in self.trained:
            pair = isinstance(span, list | tuple) and len(span) == 2
            whole = pair and all(isinstance(end, int) for end in span)
            require_field(whole, "trained", self.trained, "pairs of whole numbers")
        spans = tuple(map(tuple, self.trained))
        ends = [0, *(end for span in spans for end in span), len(self.prompt) if spans else 0]
        require_field(ends == sorted(ends), "trained", spans, "spans of the prompt, in order")
        object.__setattr__(self, "trained", spans)


@dataclass(frozen=True)
class Conversation:
    """Messages of which every assistant's turn is trained; the last one is an assistant's."""

    messages: Messages

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", messages_of("messages", self.messages))
        last = self.messages[-1].role
        require_field(last == "assistant", "messages", last, "a last message of the assistant")
        require_field(len(self.messages) > 1, "messages", last, "a message before the assistant's")

    @property
    def prompt(self) -> Messages:
        """All messages but the last."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The content of the last message."""
        return self.messages[-1].content


def dense_ranks(values: Sequence[float]) -> tuple[int, ...]:
    """Integer ranks in the order of the values, from 0 without gaps: (3, 7, 7) -> (0, 1, 1)."""
    places = {value: place for place, value in enumerate(sorted(set(values)))}
    return tuple(places[value] for value in values)


def tie_equal(outputs: Sequence[Hashable], ranks: Sequence[int]) -> tuple[int, ...]:
    """The ranks with equal outputs tied at the mean of their ranks, because a text cannot be better
    than itself. Dense, from 0.
    """
    found: dict[Hashable, list[int]] = {}
    for output, rank in zip(outputs, ranks, strict=True):
        found.setdefault(output, []).append(rank)
    return dense_ranks([sum(found[output]) / len(found[output]) for output in outputs])


@dataclass(frozen=True)
class Ranking:
    """K >= 2 responses to one prompt; the lowest rank is best and equal ranks are ties.

    Ranks are stored dense, from 0: (1, 2, 2) becomes (0, 1, 1). A response that has not ended was
    cut at the length limit: no end token follows it in training.
    """

    prompt: str | Messages
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    ended: tuple[bool, ...] | None = None  # one per response; None: all have ended
    labeler: str | None = None

    def __post_init__(self) -> None:
        check_labeler(self.labeler)
        object.__setattr__(self, "prompt", dialogue("prompt", self.prompt))
        for field in ("responses", "ranks"):
            value = getattr(self, field)
            require_field(isinstance(value, list | tuple), field, value, "a list")
        require_field(len(self.responses) >= 2, "responses", self.responses, "at least 2 responses")
        for i, response in enumerate(self.responses):
            check_text(f"responses[{i}]", response, empty_allowed=True)
        each = f"{len(self.responses)} ranks, one a response"
        require_field(len(self.ranks) == len(self.responses), "ranks", self.ranks, each)
        for i, rank in enumerate(self.ranks):
            whole = isinstance(rank, numbers.Integral) and not isinstance(rank, bool)
            allowed = f"a whole number in [0, {MOST_RANK})"
            require_field(whole and 0 <= rank < MOST_RANK, f"ranks[{i}]", rank, allowed)
        _check_ended(self.ended, len(self.responses))
        object.__setattr__(self, "responses", tuple(self.responses))
        object.__setattr__(self, "ended", tuple(self.ended or (True,) * len(self.responses)))
        object.__setattr__(self, "ranks", dense_ranks([int(rank) for rank in self.ranks]))

    @property
    def tied(self) -> bool:
        """Whether all responses tie, so that no pair can be trained on."""
        return max(self.ranks) == 0


def _check_ended(ended: Any, responses: int) -> None:
    if ended is None:
        return
    require_field(isinstance(ended, list | tuple), "ended", ended, "a list")
    require_field(len(ended) == responses, "ended", ended, f"{responses} values, one a response")
    for i, value in enumerate(ended):
        require_field(isinstance(value, bool), f"ended[{i}]", value, "true or false")


@dataclass(frozen=True)
class Scored:
    """A response with an absolute score, such as a rating from 0 to 4; a higher score is better."""

    prompt: str | Messages
    response: str
    score: float
    labeler: str | None = None

    def __post_init__(self) -> None:
        check_labeler(self.labeler)
        object.__setattr__(self, "prompt", dialogue("prompt", self.prompt))
        check_text("response", self.response, empty_allowed=True)
        number = isinstance(self.score, numbers.Real) and not isinstance(self.score, bool)
        require_field(number and math.isfinite(self.score), "score", self.score, "a finite number")
        object.__setattr__(self, "score", float(self.score))


Record = Text | Prompt | Demonstration | Conversation | Ranking | Scored
R = TypeVar("R", Text, Prompt, Demonstration, Conversation, Ranking, Scored)

FIELDS = {
    Text: ("text",),
    Prompt: ("prompt",),
    Demonstration: ("prompt", "response"),
    Conversation: ("messages",),
    Ranking: ("prompt", "responses", "ranks"),
    Scored: ("prompt", "response", "score"),
}
OPTIONAL = {Demonstration: ("trained", "labeler"), Ranking: ("ended", "labeler"),
            Scored: ("labeler",)}  # fmt: skip
COMPARISON = ("prompt", "chosen", "rejected")


def to_json(record: Record) -> dict[str, Any]:
    """The fields of a record as JSON values, without `ended` if all responses have ended, and
    without `trained` and `labeler` if there are none."""
    fields = {field: _told(getattr(record, field)) for field in FIELDS[type(record)]}
    if isinstance(record, Prompt):
        return fields | record.fields
    if isinstance(record, Demonstration) and record.trained:
        fields["trained"] = record.trained
    if isinstance(record, Ranking) and not all(record.ended):
        fields["ended"] = record.ended
    if isinstance(record, Demonstration | Ranking | Scored) and record.labeler is not None:
        fields["labeler"] = record.labeler
    return fields


def _told(value: Any) -> Any:
    """A field as a JSON value: messages as objects."""
    if isinstance(value, tuple) and value and isinstance(value[0], Message):
        return [dataclasses.asdict(message) for message in value]
    return value


def from_json(fields: Any, kind: type[R]) -> R:
    """The record that a JSON object describes.

    Raises:
      RecordError: a field is missing or wrong, or there is an unknown field (a prompt may have
        further fields).
    """
    if not isinstance(fields, dict):
        require_field(False, "(line)", fields, "a JSON object")
    wanted, optional = FIELDS[kind], OPTIONAL.get(kind, ())
    if kind is Demonstration and "messages" in fields:  # all turns of the assistant are trained
        return from_json(fields, Conversation)
    comparison = kind is Ranking and ("chosen" in fields or "rejected" in fields)
    if comparison:
        wanted, optional = COMPARISON, ("tie", "labeler")
    listed = " and ".join(wanted)
    for field in wanted:
        if field not in fields:
            there = ", ".join(list(fields)[:5])[:60] or "no field"
            needed = f"field{'s' * (len(wanted) > 1)} {listed}"
            raise RecordError(
                f"field {field!r}: each line needs the {needed}; this line has: {there}"
            )
    if kind is Prompt:
        return Prompt(fields["prompt"], {k: v for k, v in fields.items() if k != "prompt"})
    for field in fields:
        if field not in wanted + optional:
            raise RecordError(f"field {field!r}: expected {listed} only, got this field too")
    if not comparison:
        for field in optional:
            allowed = "a string" if field == "labeler" else "a list"
            require_field(fields.get(field, ()) is not None, field, None, allowed)
        return kind(**fields)
    tie = fields.get("tie", False)
    require_field(isinstance(tie, bool), "tie", tie, "true or false")
    for field in ("chosen", "rejected"):
        check_text(field, fields[field], empty_allowed=True)
    ranks = (0, 0) if tie else (0, 1)
    responses, labeler = (fields["chosen"], fields["rejected"]), fields.get("labeler")
    return Ranking(fields["prompt"], responses, ranks, labeler=labeler)


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError(f"field {twice!r}: expected once, got {names.count(twice)} times")
    return fields


def _parse_line(line: bytes) -> Any:
    if not line.strip():
        raise RecordError("expected a JSON object, got an empty line")
    if line.strip() in (b"[", b"{"):
        raise RecordError("expected a whole JSON object on each line (JSONL), got the first line "
                          "of a longer JSON value")  # fmt: skip
    try:
        return parse_json(line.rstrip(b"\r\n"), _unique_fields)
    except UserError as error:
        raise RecordError(str(error)) from None


def read_lines(path: str | os.PathLike) -> Iterator[bytes]:
    """The lines of a file, decompressed if its name ends in .gz or .zst.

    Raises:
      RecordError: the file is missing or damaged.
      UserError: .zst, and zstandard is not installed.
    """
    kind = str(path).rpartition(".")[2]
    opener = {"gz": gzip.open, "zst": _open_zst}.get(kind, open)
    try:
        with opener(path, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordError(f"{path}: expected a whole gzip file, got: {error}") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None


def _open_zst(path: str | os.PathLike, mode: str) -> io.BytesIO:
    """A file of Zstandard frames, decompressed whole: a stream would not notice that the last frame
    is cut."""
    try:
        import zstandard
    except ImportError:
        raise UserError(f"{path}: needs zstandard: pip install 'rlhf-jax[data]'") from None
    with open(path, mode) as file:
        left, found = file.read(), []
    try:
        while left:
            frame = zstandard.ZstdDecompressor().decompressobj()
            found.append(frame.decompress(left))
            if not frame.eof:
                raise zstandard.ZstdError("the last frame is cut")
            left = frame.unused_data
    except zstandard.ZstdError as error:
        raise RecordError(f"{path}: expected a whole zst file, got: {error}") from None
    return io.BytesIO(b"".join(found))


def parse_jsonl(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """Pairs of "file:line" and the JSON value on that line; errors name the line.

    Raises:
      RecordError: invalid UTF-8 or JSON, an empty line, a repeated field, an unreadable file.
    """
    broken = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            value = _parse_line(line)
        except RecordError as error:
            broken.append((number, str(error)))
            continue
        if not broken:
            yield f"{path}:{number}", value
    if broken:
        (first, why), *others = broken
        places = ", ".join([str(n) for n, _ in others[:3]] + ["..."] * (len(others) > 3))
        more = f"; {len(others)} more broken: lines {places}" if others else ""
        raise RecordError(f"{path}:{first}: {why}{more}")


def read_jsonl(path: str | os.PathLike, kind: type[R]) -> list[R]:
    """All records of a .jsonl or .jsonl.gz file.

    Raises:
      RecordError: "file:line: field 'x': expected ..., got ..." at the first malformed line.
    """
    records = []
    for where, value in parse_jsonl(path):
        try:
            records.append(from_json(value, kind))
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None
    return records


def encoded(records: Iterable[Record]) -> bytes:
    """One record per line, in UTF-8."""
    return "".join(json.dumps(to_json(r), ensure_ascii=False) + "\n" for r in records).encode()


def write_jsonl(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Writes one record per line (gzip if the name ends in .gz), atomically."""
    content, zipped = encoded(records), str(path).endswith(".gz")
    write_atomically(path, gzip.compress(content, mtime=0) if zipped else content)
