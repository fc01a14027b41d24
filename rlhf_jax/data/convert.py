"""Reads files of known formats as records, and writes these to a folder (data/folder.py).

    rlhf-jax data FILE... --to FOLDER

Everything that is read, left out or cut is counted, with the reason.
"""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.data.formats import files, known
from rlhf_jax.data.formats.item import (
    ASSISTANT,
    HUMAN,
    Dialogue,
    Document,
    Format,
    Item,
    Left,
    Message,
    Row,
    as_written,
)
from rlhf_jax.data.formats.public_tests import PUBLIC_TESTS
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Prompt,
    Ranking,
    Record,
    Scored,
    Text,
)
from rlhf_jax.errors import ConfigError, RecordError, UserError, require

KINDS = ("text", "demonstrations", "rankings", "scored", "prompts")
TEMPLATES = ("messages", "human")
TEST_NAME = re.compile(r"(?<![a-z])(test|eval)(set|ing|uation)?(?![a-z])", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files are read; docs/data.md describes the options."""

    format: str | None = None
    kinds: tuple[str, ...] = ()
    by: str | None = None
    template: str = "messages"
    user: str | None = None
    prompt_characters: int | None = None
    licence: str | None = None

    def __post_init__(self):
        named = self.format is None or self.format in known.BY_NAME
        require(named, "format", self.format, f"one of {', '.join(known.BY_NAME)}")
        for kind in self.kinds:
            require(kind in KINDS, "kinds", kind, f"some of {', '.join(KINDS)}")
        require(self.template in TEMPLATES, "template", self.template, f"one of {TEMPLATES}")
        most = self.prompt_characters
        require(most is None or most > 0, "prompt_characters", most, "positive, or None")


class Entry(NamedTuple):
    """A record, its kind, and the user whose prompt it is, if that is known."""

    kind: str
    record: Record
    user: str | None = None


@dataclasses.dataclass(frozen=True)
class FileRead:
    """The records of a file.

    counts   rows, records by kind, and the rows or parts of rows that are left out, by reason
    test     whether the file is public as a test set
    unread   names of fields that the reader does not read
    """

    name: str
    format: str
    licence: str
    test: bool
    sha256: str | None
    entries: Sequence[Entry]
    counts: Mapping[str, int]
    left_out: Mapping[str, int]

    def records(self, kind: str) -> list:
        return [entry.record for entry in self.entries if entry.kind == kind]

    def about(self) -> dict:
        """What is kept of the file beside the records, as JSON values."""
        named = {name: value for name, value in dataclasses.asdict(self).items()
                 if name not in ("entries",)}  # fmt: skip
        return named

    def told(self) -> str:
        """The counts in a line."""
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        licence = f", licence {self.licence}" if self.licence else ", licence not known"
        test = ", public as a test set" if self.test else ""
        return f"{self.name}: {self.format}{licence}{test}: {counts}" + (
            f"; left out: {left}" if left else ""
        )


def read_file(name: str, how: Reading = Reading()) -> FileRead:
    """The records of a file: a path, hub:OWNER/NAME/FILE or tfds:NAME/SPLIT.

    Raises UserError, naming file and line, where the file cannot be read, its format is unknown, a
    row is malformed, or the file has no record of the kinds asked for.
    """
    path = files.located(name)
    rows = files.rows(name, path)
    first = next(iter(rows), None)
    if first is None:
        raise UserError(f"{name}: expected records, got none")
    form = known.BY_NAME[how.format] if how.format else known.find(*first)
    if not form.fits(first[1]):
        raise UserError(f"{first[0]}: not of the format {form.name}; {known.seen(first[1])}")
    kinds = how.kinds or form.gives
    by = _judgement(form, how.by)
    counts, left, entries = Counter(rows=0), Counter(), []
    for where, row in form.rows(path, _counted(_from(first, rows), counts)):
        user = _user(where, row, how.user)
        for item in _items(form, where, row, by, left):
            entries += [Entry(kind, record, user)
                        for kind, record in _records(where, item, kinds, how, left)]  # fmt: skip
    if not entries:
        raise UserError(f"{name}: {form.name}: no {' or '.join(kinds)} of {counts['rows']} rows; "
                        f"left out: {dict(left)}")  # fmt: skip
    counts.update(entry.kind for entry in entries)
    digest = _digest(path)
    test = form.test or digest in PUBLIC_TESTS or bool(TEST_NAME.search(Path(name).name))
    licence = how.licence or form.licence
    return FileRead(name, form.name, licence, test, digest, entries, dict(counts), dict(left))


def _from(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _counted(rows: Iterator[Row], counts: Counter) -> Iterator[Row]:
    for row in rows:
        counts["rows"] += 1
        yield row


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _judgement(form: Format, by: str | None) -> str:
    if by is None:
        return form.by[0]
    if by not in form.by:
        allowed = f"one of {', '.join(form.by)}" if form.by[0] else "not given"
        raise ConfigError(f"by = {by!r}: must be {allowed} for {form.name}")
    return by


def _user(where: str, row: dict, name: str | None) -> str | None:
    if name is None:
        return None
    if not isinstance(row, dict) or name not in row:
        raise RecordError(f"{where}: field {name!r} is missing (--user)")
    return None if row[name] is None else str(row[name])


def _items(
    form: Format, where: str, row: dict, by: str, left: Counter
) -> Iterator[Item | Document]:
    """The items of a row; parts that are left out are counted."""
    try:
        for found in form.read(where, row, by):
            if isinstance(found, Left):
                left[str(found)] += 1
            else:
                yield found
    except Left as reason:
        left[str(reason)] += 1


def _records(
    where: str, item: Item | Document, kinds: Sequence[str], how: Reading, left: Counter
) -> Iterator[tuple[str, Record]]:
    """The records of an item, each with its kind."""
    try:
        if isinstance(item, Document):
            if "text" in kinds and item.text:
                yield "text", Text(item.text)
            return
        item, cut = shortened(item, how.prompt_characters)
        left["older turns cut"] += cut
        if not item.prompt:
            raise Left("an empty prompt")
        item = rendered(item, how.template)
        for kind in kinds:
            for record in MAKERS[kind](item):
                yield kind, record
    except Left as reason:
        left[str(reason)] += 1
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None
