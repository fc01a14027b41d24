"""The rows of a file of any kind: JSON lines, JSON, CSV, TSV, Parquet, plain text, TFDS, the hub.

.gz and .zst are decompressed. A row is named by file and line, or by file and number.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.data.formats import hub
from rlhf_jax.data.formats.item import Row
from rlhf_jax.data.formats.text import read_text
from rlhf_jax.data.records import parse_jsonl, read_lines
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.strict_json import parse_json

PACKED = (".gz", ".zst")
TFDS = "tfds:"
INFO = "dataset_info.json"  # in the folder of a TFDS data set


def located(name: str) -> Path:
    """The file that a name stands for; one of the hub, "hub:OWNER/NAME/PATH", is downloaded.

    Raises UserError where there is none.
    """
    path = hub.download(name) if name.startswith(hub.HUB) else Path(name.removeprefix(TFDS))
    if not name.startswith(TFDS) and not path.exists():
        raise UserError(f"{name}: cannot be read: no such file")
    return path


def rows(name: str, path: Path) -> Iterator[Row]:
    """The rows of `located(name)`, in order.

    Raises RecordError or UserError, naming the file, where it cannot be read or its kind is
    unknown.
    """
    if name.startswith(TFDS):
        return _tfds(name)
    if path.is_dir():
        raise UserError(f"{name}: is a folder; name its files, or tfds:NAME/SPLIT")
    kind = _suffix(path)
    if kind not in READERS:
        listed = ", ".join(READERS)
        raise UserError(f"{name}: expected a file named {listed} (or these with .gz or .zst), "
                        f"hub:OWNER/NAME/FILE or tfds:NAME/SPLIT")  # fmt: skip
    return READERS[kind](path)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _json(path: Path) -> Iterator[Row]:
    """A list of rows, or a row; or JSON lines, which some files named .json hold."""
    content = b"".join(read_lines(path))
    try:
        value = parse_json(content)
    except UserError as error:
        if _is_object(content.lstrip().partition(b"\n")[0]):
            return parse_jsonl(path)
        raise RecordError(f"{path}: {error}") from None
    if not isinstance(value, list | dict):
        raise RecordError(f"{path}: expected a list, got {type(value).__name__}")
    rows = value if isinstance(value, list) else [value]
    return ((f"{path}[{number}]", row) for number, row in enumerate(rows))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except UserError:
        return False


def _table(separator: str) -> Callable[[Path], Iterator[Row]]:
    """The reader of a table whose first row names the columns."""

    def read(path: Path) -> Iterator[Row]:
        # Longer fields than the module's 128 KiB occur: whole dialogues.
        csv.field_size_limit(2**31 - 1)
        lines = io.StringIO(_text(path), newline="")
        reader = csv.reader(lines, delimiter=separator, strict=True)
        try:
            names = next(reader, [])
            twice = {name for name in names if names.count(name) > 1}
            if not names or twice:
                expected = "a row of different names of columns"
                raise RecordError(f"{path}:1: expected {expected}, got {names!r:.60}")
            for values in reader:
                if len(values) != len(names):
                    raise RecordError(f"{path}:{reader.line_num}: expected {len(names)} fields, "
                                      f"got {len(values)}")  # fmt: skip
                yield f"{path}:{reader.line_num}", dict(zip(names, values, strict=True))
        except csv.Error as error:
            raise RecordError(f"{path}:{reader.line_num}: expected CSV, got: {error}") from None

    return read


def _text(path: Path) -> str:
    try:
        return b"".join(read_lines(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise RecordError(f"{path}: expected UTF-8, got {byte}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow: pip install 'rlhf-jax[data]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}[{number}]", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).partition("\n")[0]
        raise RecordError(f"{path}[{number}]: expected Parquet, got: {first}") from None


def _documents(path: Path) -> Iterator[Row]:
    """Plain text in documents (text.py)."""
    for number, document in enumerate(read_text(path)):
        yield f"{path}[{number}]", {"text": document}


def _tfds(name: str) -> Iterator[Row]:
    """A data set of TFDS that is on this machine in ArrayRecord files: tfds:NAME/SPLIT, where NAME
    may be NAME/CONFIG or the folder of the data set."""
    import tensorflow_datasets as tfds

    whole, _, split = name.removeprefix(TFDS).rpartition("/")
    try:
        folder = Path(whole)
        builder = (
            tfds.builder_from_directory(folder)
            if (folder / INFO).is_file()
            else tfds.builder(whole)
        )
        source = builder.as_data_source(split)
        count = len(source)
    except Exception as error:  # of many types, from protobuf, JSON and files
        reason = re.sub(r"\s+", " ", str(error)).strip()[:200]
        raise UserError(f"{name}: cannot be read as tfds:NAME/SPLIT: {reason}") from None
    for number in range(count):
        yield f"{name}[{number}]", _plain(source[number])


def _plain(value: Any) -> Any:
    """A value of TFDS as JSON values: bytes are text, arrays are lists."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".jsonl": parse_jsonl,
    ".ndjson": parse_jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".txt": _documents,
}
