"""The rows that `rlhf-jax eval` has measured, kept as they come: one file a benchmark and model.

<to>/<benchmark>/<model>-<digest>.jsonl    a line that says what was measured, then a row a line
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.data.records import parse_jsonl
from rlhf_jax.data.source_files import digests
from rlhf_jax.durable import formats
from rlhf_jax.durable.fingerprint import fingerprint_of
from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark, Row
from rlhf_jax.runs.items import digest

# Fields that change no row. most_items: rows of fewer items are a part of those of more.
WITHOUT_EFFECT = ("data", "most_items", "batch_size", "every", "within", "only")


def measured_as(
    benchmark: Benchmark, model: str, judge: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What determines the rows: the benchmark's config and files, the model's digest, the judge's
    identity."""
    fields = fingerprint_of(benchmark)
    config = {name: value for name, value in fields.items() if name not in WITHOUT_EFFECT}
    files = {path.name: digests(path.parent, [path.name])[path.name] for path in benchmark.paths()}
    return {"benchmark": config, "files": files, "model": model, "judge": judge}


def tell_unread(benchmark: Benchmark, model: str, rows: Sequence[Row]) -> None:
    """Prints how many of the judge's answers hold no verdict; nothing where all hold one."""
    said = [row[field] for row in rows for field in benchmark.judged_fields if field in row]
    if unread := said.count(None):
        print(f"eval: {benchmark.called} of {model}: judge: {unread} of {len(said)} answers hold "
              "no verdict", flush=True)  # fmt: skip


class KeptRows:
    """A file of rows, which is read, and then grows.

    about: what was measured (`measured_as`). A last line that a kill has cut is removed.
    Raises RecordError, naming file and line, where the file is damaged.
    """

    def __init__(self, folder: Path, name: str, about: Mapping[str, Any]):
        self.path = folder / f"{name}-{digest(about)}.jsonl"
        self._about = {formats.FIELD: formats.MEASURED.now, **about}
        self.rows: dict[str, Row] = {}
        if self.path.is_file():
            self._cut_last_line()
            self._read()

    def _cut_last_line(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))

    def _read(self) -> None:
        lines = parse_jsonl(self.path)
        _, first = next(lines, (None, self._about))
        number = first.get(formats.FIELD) if isinstance(first, dict) else None
        formats.MEASURED.check(number, self.path)
        if first != self._about:
            raise RecordError(f"{self.path}:1: expected what this command measures, got something "
                              "else: remove the file")  # fmt: skip
        for where, row in lines:
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise RecordError(f"{where}: expected a row with an id, got {row!r:.60}: remove "
                                  "the line")  # fmt: skip
            self.rows.setdefault(row["id"], row)

    def add(self, rows: Sequence[Row]) -> None:
        """Writes rows behind those that are there. They are on the disk when it returns."""
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if file.tell() == 0:
                lines.insert(0, json.dumps(self._about, ensure_ascii=False))
            file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        self.rows |= {row["id"]: row for row in rows}
