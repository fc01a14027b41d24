"""The files of public benchmarks, in the folder that RLHF_JAX_DATA names. Errors name file, line
and field."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.data.formats import hub
from rlhf_jax.data.records import parse_jsonl, read_lines
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.strict_json import parse_json

FOLDER = "RLHF_JAX_DATA"
Fields = Mapping[str, type | tuple[type, ...]]


def find_file(folder: str | None, name: str) -> Path:
    """The path of a benchmark's file: in a folder, or "hub:OWNER/NAME" of a data set on the hub,
    whose files are then fetched by the same names.

    folder: None: the folder that the environment variable RLHF_JAX_DATA names.
    Raises UserError where the file is not there.
    """
    folder = folder or os.environ.get(FOLDER)
    if not folder:
        raise UserError(f"{name}: no folder is named: set {FOLDER}, or give --files FOLDER")
    if folder.startswith(hub.HUB):
        return hub.download(f"{folder}/{name}")
    path = Path(folder) / name
    if not path.is_file():
        raise UserError(f"{path}: no such file (docs/evaluation.md says where it is published)")
    return path


def read_text(path: Path) -> str:
    """The text of a file. Raises RecordError where it cannot be read or is not UTF-8."""
    content = b"".join(read_lines(path))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: expected UTF-8, got byte {content[error.start]:#04x}") from None


def read_json(path: Path) -> Any:
    """The value of a .json or .json.gz file."""
    try:
        return parse_json(b"".join(read_lines(path)))
    except UserError as error:
        raise RecordError(f"{path}: {error}") from None


def read_jsonl(path: Path, fields: Fields) -> list[tuple[str, dict[str, Any]]]:
    """("file:line", record) of each line. fields: as `checked` has them."""
    return [(where, checked(where, record, fields)) for where, record in parse_jsonl(path)]


def read_table(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[tuple[str, dict]]:
    """("file:line", {column: text}) of each row of a file whose first line names the columns.

    Raises RecordError where one of `columns` is missing or a row has another number of cells.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    head = next(reader, [])
    if missing := [name for name in columns if name not in head]:
        raise RecordError(f"{path}:1: expected the columns {', '.join(columns)}: "
                          f"{missing[0]!r} is missing")  # fmt: skip
    found, line = [], reader.line_num + 1
    for cells in reader:
        if len(cells) != len(head):
            raise RecordError(f"{path}:{line}: expected {len(head)} columns, got {len(cells)}")
        found.append((f"{path}:{line}", dict(zip(head, cells, strict=True))))
        line = reader.line_num + 1
    return found


def checked(where: str, record: Any, fields: Fields) -> dict[str, Any]:
    """The record, an object with these fields of these kinds. where: names it in errors."""
    if not isinstance(record, dict):
        raise RecordError(f"{where}: expected an object, got {record!r:.60}")
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if name not in record or not isinstance(record[name], kinds):
            allowed = " or ".join(each.__name__ for each in kinds)
            got = f"{record[name]!r:.60}" if name in record else "none"
            raise RecordError(f"{where}: field {name!r}: expected {allowed}, got {got}")
    return record
