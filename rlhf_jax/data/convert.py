"""Reads files of known formats as records, and writes these to a folder (data/folder.py).

    rlhf-jax data FILE... --to FOLDER

Everything that is read, left out or cut is counted, with the reason.
"""

import dataclasses
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.about import NOT_KNOWN
from rlhf_jax.data.formats import files, known
from rlhf_jax.data.formats.item import Document, Format, Item, Left, Noted, Row
from rlhf_jax.data.formats.public_tests import PUBLIC_TESTS
from rlhf_jax.data.formats.to_records import KINDS, MAKERS, TEMPLATES, rendered, shortened
from rlhf_jax.data.records import Record, Text
from rlhf_jax.errors import ConfigError, RecordError, UserError, require

TEST_NAME = re.compile(r"(?<![a-z])(test|eval)(set|ing|uation)?(?![a-z])", re.IGNORECASE)
TEST_FOLDER = re.compile(r"(test|eval)([-_ ]?set|ing|uation)?", re.IGNORECASE)
OTHER_NAME = re.compile(r"(?<![a-z])(train|dev|valid)(ing|ation)?(?![a-z])", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files are read.

    format             the format's name; None: the one that the first row fits
    kinds              the kinds of records that are made; none: those that the format gives
    by                 the judgement that ranks or scores responses; None: the format's first
    template           "messages": prompts are messages, which the chat template of the run's
                       tokenizer renders; "human": text, "\\n\\nHuman: ... \\n\\nAssistant:"
    user               the field that names the user of a prompt
    prompt_characters  older turns of a longer prompt are removed; None: of none
    licence            the data's licence, in place of the one of the format's data set
    """

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

    source    the paper or page that describes the format; "" if there is none
    licence   "" if it is not known, or "licence not known (if this is GSM8K: MIT)"
    test      whether the file is public as a test set
    sha256    of the file; None for a TFDS data set
    counts    rows; records by kind; prompts that lost their oldest turns
    left_out  rows, or parts of rows, of which no record is made, by reason
    """

    name: str
    format: str
    source: str
    licence: str
    test: bool
    sha256: str | None
    entries: Sequence[Entry]
    counts: Mapping[str, int]
    left_out: Mapping[str, int]

    def records(self, kind: str) -> list:
        return [entry.record for entry in self.entries if entry.kind == kind]

    def facts(self) -> dict:
        """All but the records, as JSON values."""
        return {"name": self.name, "format": self.format, "source": self.source,
                "licence": self.licence, "test": self.test, "sha256": self.sha256,
                "counts": dict(self.counts), "left_out": dict(self.left_out)}  # fmt: skip

    def told(self) -> str:
        """The counts in a line."""
        counts, left = (", ".join(f"{count} {what}" for what, count in numbers.items())
                        for numbers in (self.counts, self.left_out))  # fmt: skip
        known = self.licence and not self.licence.startswith(NOT_KNOWN)
        licence = f"licence {self.licence}" if known else self.licence or NOT_KNOWN
        test = ", public as a test set" if self.test else ""
        more = f"; left out: {left}" if left else ""
        return f"{self.name}: {self.format}, {licence}{test}: {counts}{more}"


class _Tally(NamedTuple):
    """Counts of a file while it is read."""

    counts: Counter
    left_out: Counter

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, which are counted."""
        for row in rows:
            self.counts["rows"] += 1
            yield row


def read_file(name: str, how: Reading = Reading()) -> FileRead:
    """The records of a file: a path, hub:OWNER/NAME/FILE or tfds:NAME/SPLIT.

    Raises UserError, naming file and line, where the file cannot be read, its format is unknown, a
    row is malformed, or no record of the kinds asked for is left.
    """
    path = files.located(name)
    rows = iter(files.rows(name, path))
    first = next(rows, None)
    if first is None:
        raise UserError(f"{name}: expected records, got none")
    form = known.find(*first, named=how.format)
    kinds, by = how.kinds or form.gives, _judgement(form, how.by)
    tally, entries = _Tally(Counter(rows=0), Counter()), []
    for where, row in form.rows(path, tally.rows(itertools.chain([first], rows))):
        user = _user(where, row, how.user)
        for item in _items(form, where, row, by, tally):
            found = _records(where, item, kinds, how, tally)
            entries += [Entry(kind, record, user) for kind, record in found]
    tally.counts.update(entry.kind for entry in entries)
    digest = _digest(path)
    test = form.test or digest in PUBLIC_TESTS or is_test_name(name)
    licence, counted = how.licence or _licence(form, name, digest), map(dict, tally)
    found = FileRead(name, form.name, form.source, licence, test, digest, entries, *counted)
    if not entries:
        raise UserError(f"{found.told()}: no {' or '.join(kinds)}")
    return found


def is_test_name(name: str) -> bool:
    """Whether a file is a test set by its name, or else by the folder nearest to it that names a
    split, as in hub:OWNER/NAME/test/0000.parquet."""
    file, *folders = reversed(Path(name).parts)
    if TEST_NAME.search(file) or OTHER_NAME.search(file):
        return bool(TEST_NAME.search(file))
    for folder in folders:
        if TEST_FOLDER.fullmatch(folder) or OTHER_NAME.fullmatch(folder):
            return bool(TEST_FOLDER.fullmatch(folder))
    return False


def _licence(form: Format, name: str, digest: str | None) -> str:
    """The licence of the format's data set, if the file is known to be of it."""
    if not form.licence or digest in PUBLIC_TESTS or form.is_called(name):
        return form.licence
    return f"{NOT_KNOWN} (if this is {form.name}: {form.licence})"


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _judgement(form: Format, by: str | None) -> str:
    if by is None or by in form.by:
        return by or form.by[0]
    allowed = f"one of {', '.join(form.by)}" if form.by[0] else "left out"
    raise ConfigError(f"by = {by!r}: must be {allowed} for {form.name}")


def _user(where: str, row: Any, name: str | None) -> str | None:
    if name is None:
        return None
    if not isinstance(row, dict) or name not in row:
        raise RecordError(f"{where}: field {name!r} is missing (user)")
    return None if row[name] is None else str(row[name])


def _items(form: Format, where: str, row: Any, by: str, tally: _Tally) -> Iterator[Item | Document]:
    """The items of a row; the parts that are left out are counted."""
    try:
        for found in form.read(where, row, by):
            if isinstance(found, Left):
                tally.left_out[str(found)] += 1
            elif isinstance(found, Noted):
                tally.counts[found.what] += 1
            else:
                yield found
    except Left as reason:
        tally.left_out[str(reason)] += 1


def _records(
    where: str, item: Item | Document, kinds: Sequence[str], how: Reading, tally: _Tally
) -> Iterator[tuple[str, Record]]:
    """The records of an item, each with its kind."""
    if isinstance(item, Document):
        others = len(kinds) - ("text" in kinds)
        tally.left_out.update({"texts, of which no other records are made": 1} if others else {})
        if "text" in kinds and item.text:
            yield "text", Text(item.text)
        elif "text" in kinds:
            tally.left_out["an empty text"] += 1
        return
    item, cut = shortened(item, how.prompt_characters)
    tally.counts.update({"prompts without their oldest turns": 1} if cut else {})
    if not item.prompt:
        tally.left_out["an empty prompt"] += 1
        return
    for kind in kinds:
        try:
            found = MAKERS[kind](rendered(item, how.template))
        except Left as reason:
            tally.left_out[str(reason)] += 1
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None
        else:
            yield from ((kind, record) for record in found)
