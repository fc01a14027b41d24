"""Record types, their validation, and strict JSONL files of them.

One line of JSONL is one record, by kind:

    Text           {"text"}
    Prompt         {"prompt"} with any further fields, such as {"answer"}, for reward functions
    Demonstration  {"prompt", "response"}
    Ranking        {"prompt", "responses", "ranks"} with an optional {"ended": [true, ...]}, or a
                   comparison {"prompt", "chosen", "rejected"} with an optional {"tie": true}
    Scored         {"prompt", "response", "score"}

Prompts include their whole template. Responses may be empty (a model that stops at once).
"""

import dataclasses
import gzip
import json
import math
import numbers
import os
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.strict_json import parse_json

MOST_RANK = 2**31


def _require(ok: bool, field: str, value: Any, allowed: str) -> None:
    if not ok:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise RecordError(f"field {field!r}: expected {allowed}, got {shown}")


def _check_text(field: str, value: Any, empty_allowed: bool = False) -> None:
    _require(isinstance(value, str), field, value, "a string")
    _require(empty_allowed or value != "", field, value, "a string that is not empty")
    _require("\0" not in value, field, value, "text without NUL")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        _require(False, field, value, "text that UTF-8 can hold (no lone surrogates)")


def _check_json(field: str, value: Any) -> None:
    """Requires a JSON value of finite numbers and valid text; `field` must be valid text too."""
    try:
        json.dumps({field: value}, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        allowed = "a JSON value of finite numbers and of text that UTF-8 can hold"
        _require(False, field, value, allowed)


@dataclass(frozen=True)
class Text:
    """A plain-text document."""

    text: str

    def __post_init__(self) -> None:
        _check_text("text", self.text)


@dataclass(frozen=True)
class Prompt:
    """The text that a response follows, template included.

    fields: further JSON values by name, such as {"answer": "42"}, for reward functions
    """

    prompt: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        _require(isinstance(self.fields, Mapping), "fields", self.fields, "JSON values by name")
        _require("prompt" not in self.fields, "fields", self.fields, "other names than prompt")
        for name, value in self.fields.items():
            _require(isinstance(name, str), "fields", name, "names that are strings")
            _check_json(name, value)
        object.__setattr__(self, "fields", json.loads(json.dumps(dict(self.fields))))


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the response that a labeler wrote for it."""

    prompt: str
    response: str

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        _check_text("response", self.response, empty_allowed=True)


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

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    ended: tuple[bool, ...] | None = None  # one per response; None: all have ended

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        for field in ("responses", "ranks"):
            value = getattr(self, field)
            _require(isinstance(value, list | tuple), field, value, "a list")
        _require(len(self.responses) >= 2, "responses", self.responses, "at least 2 responses")
        for i, response in enumerate(self.responses):
            _check_text(f"responses[{i}]", response, empty_allowed=True)
        _require(
            len(self.ranks) == len(self.responses),
            "ranks",
            self.ranks,
            f"{len(self.responses)} ranks, one a response",
        )
        for i, rank in enumerate(self.ranks):
            whole = isinstance(rank, numbers.Integral) and not isinstance(rank, bool)
            allowed = f"a whole number in [0, {MOST_RANK})"
            _require(whole and 0 <= rank < MOST_RANK, f"ranks[{i}]", rank, allowed)
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
    _require(isinstance(ended, list | tuple), "ended", ended, "a list")
    _require(len(ended) == responses, "ended", ended, f"{responses} values, one a response")
    for i, value in enumerate(ended):
        _require(isinstance(value, bool), f"ended[{i}]", value, "true or false")


@dataclass(frozen=True)
class Scored:
    """A response with an absolute score, such as a rating from 0 to 4; a higher score is better."""

    prompt: str
    response: str
    score: float

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        _check_text("response", self.response, empty_allowed=True)
        number = isinstance(self.score, numbers.Real) and not isinstance(self.score, bool)
        _require(number and math.isfinite(self.score), "score", self.score, "a finite number")
        object.__setattr__(self, "score", float(self.score))


Record = Text | Prompt | Demonstration | Ranking | Scored
R = TypeVar("R", Text, Prompt, Demonstration, Ranking, Scored)

FIELDS = {
    Text: ("text",),
    Prompt: ("prompt",),
    Demonstration: ("prompt", "response"),
    Ranking: ("prompt", "responses", "ranks"),
    Scored: ("prompt", "response", "score"),
}
COMPARISON = ("prompt", "chosen", "rejected")


def to_json(record: Record) -> dict[str, Any]:
    """The fields of a record as JSON values, without `ended` if all responses have ended."""
    if isinstance(record, Prompt):
        return {"prompt": record.prompt} | record.fields
    fields = {field: getattr(record, field) for field in FIELDS[type(record)]}
    cut = isinstance(record, Ranking) and not all(record.ended)
    return fields | {"ended": record.ended} if cut else fields


def from_json(fields: Any, kind: type[R]) -> R:
    """The record that a JSON object describes.

    Raises:
      RecordError: a field is missing or wrong, or there is an unknown field (a prompt may have
        further fields).
    """
    if not isinstance(fields, dict):
        _require(False, "(line)", fields, "a JSON object")
    wanted, optional = FIELDS[kind], ("ended",) if kind is Ranking else ()
    comparison = kind is Ranking and ("chosen" in fields or "rejected" in fields)
    if comparison:
        wanted, optional = COMPARISON, ("tie",)
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
        if "ended" in fields:
            _require(fields["ended"] is not None, "ended", None, "a list")
        return kind(**fields)
    tie = fields.get("tie", False)
    _require(isinstance(tie, bool), "tie", tie, "true or false")
    for field in ("chosen", "rejected"):
        _check_text(field, fields[field], empty_allowed=True)
    ranks = (0, 0) if tie else (0, 1)
    return Ranking(fields["prompt"], (fields["chosen"], fields["rejected"]), ranks)


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
        return parse_json(line, _unique_fields)
    except UserError as error:
        raise RecordError(str(error)) from None


def read_lines(path: str | os.PathLike) -> Iterator[bytes]:
    """The lines of a file, decompressed if its name ends in .gz.

    Raises:
      RecordError: the file is missing or is not gzip.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordError(f"{path}: expected a whole gzip file, got: {error}") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None


def parse_jsonl(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """Pairs of "file:line" and the JSON value on that line; errors name the line.

    Raises:
      RecordError: invalid UTF-8 or JSON, an empty line, a repeated field, an unreadable file.
    """
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}:{number}"
        try:
            value = _parse_line(line)
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None
        yield where, value


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


def write_jsonl(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Writes one record per line (gzip if the name ends in .gz), atomically."""
    lines = (json.dumps(to_json(record), ensure_ascii=False) + "\n" for record in records)
    content = "".join(lines).encode("utf-8")
    write_atomically(
        path, gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content
    )


def deduplicate_by_prefix(prompts: Sequence[str], characters: int) -> tuple[list[str], int]:
    """Keeps the first prompt of each prefix of `characters` characters: (kept, number dropped).

    Source: InstructGPT, appendix A.2 (prompts that share a long common prefix).
    """
    require(characters >= 1, "characters", characters, "at least 1")
    kept = {}
    for prompt in prompts:
        kept.setdefault(prompt[:characters], prompt)
    return list(kept.values()), len(prompts) - len(kept)
