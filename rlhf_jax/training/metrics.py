"""Metrics of a stage, written to files.

metrics.jsonl   {"step": 10, "loss": 2.5, ...}: only numbers that are equal in two equal runs
speed.jsonl     {"step": 10, "seconds": ..., "tokens_per_second": ..., "compile_seconds": ...}
tensorboard/    both; Weights & Biases gets both too if a project is given

A bucket has no append. There `sync`, called before each checkpoint, writes each .jsonl file as a
whole, and the TensorBoard events since the last `sync` as a new file.
"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Collection

import numpy as np
from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from rlhf_jax.durable.files import absolute, entries, in_bucket, write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json

METRICS, SPEED = "metrics.jsonl", "speed.jsonl"


class MetricsWriter:
    """Appends lines to the files of a stage directory, after removing lines beyond `step`.

    wandb: the Weights & Biases project to which metrics are sent too; None: none.
    """

    def __init__(self, directory: epath.Path, step: int, wandb: str | None = None):
        self._files = {}
        for name in (METRICS, SPEED):
            trim(directory / name, step)
            kind = _KeptLines if in_bucket(directory) else _Lines
            self._files[name] = kind(directory / name)
        self._board = _Board(directory / "tensorboard", step + 1)
        self._wandb = None if wandb is None else _start_wandb(wandb, directory)
        self._warned: set[tuple[str, bool]] = set()

    def write(
        self, step: int, metrics: dict[str, float | int], speed: dict, uncounted: Collection = ()
    ) -> None:
        """One line to each file. A metric that is not finite becomes null, with a warning.

        uncounted: metrics that are NaN though nothing diverged: a mean of nothing.
        """
        for name, values in ((METRICS, metrics), (SPEED, speed)):
            line = {"step": step} | {
                k: self._finite(step, k, v, k in uncounted) for k, v in values.items()
            }
            self._files[name].write(json.dumps(line, allow_nan=False) + "\n")
            self._board.write(step, values, "speed/" if name == SPEED else "")
        if self._wandb is not None:
            self._wandb.log(metrics | {f"speed/{k}": v for k, v in speed.items()}, step=step)

    def sync(self) -> None:
        """Makes everything written so far durable. A checkpoint relies on it."""
        for file in self._files.values():
            file.sync()
        self._board.sync()

    def close(self) -> None:
        for file in (*self._files.values(), self._board):
            with contextlib.suppress(OSError):  # an earlier write or sync has raised it
                file.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _finite(self, step: int, name: str, value: float, uncounted: bool) -> float | None:
        if math.isfinite(value):
            return value
        if (name, uncounted) not in self._warned:
            self._warned.add((name, uncounted))
            nothing = "is not defined: no token or pair has weight, or a variance is 0"
            what = nothing if uncounted else f"is {value}"
            message = (
                f"step {step}: {name} {what}; written as null, here and from now on "
                "(docs/troubleshooting.md: A metric is null)"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=5)
        return None


class _Lines:
    """A file on a disk, to which lines are appended."""

    def __init__(self, path: epath.Path):
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _KeptLines:
    """The same for a bucket: lines appear in the file at `sync` or `close`."""

    def __init__(self, path: epath.Path):
        self._path, self._new = path, False
        self._content = bytearray(path.read_bytes() if path.exists() else b"")

    def write(self, line: str) -> None:
        self._content += line.encode()
        self._new = True

    def sync(self) -> None:
        if self._new:
            write_atomically(self._path, bytes(self._content))
            self._new = False

    def close(self) -> None:
        self.sync()


class _Board:
    """A TensorBoard event file, written in the caller's thread; in a bucket one for each `sync`.

    tensorboardX's SummaryWriter writes in a thread of its own; on a full disk that thread dies and
    the caller waits forever. purge: TensorBoard ignores events of this step and later ones in
    earlier files.
    """

    def __init__(self, directory: epath.Path, purge: int):
        self._directory, self._purge, self._part = directory, purge, 0
        self._here = tempfile.TemporaryDirectory() if in_bucket(directory) else None
        directory.mkdir(parents=True, exist_ok=True)
        self._open()
        started = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=purge, session_log=started))

    def _open(self) -> None:
        part = "" if self._here is None else f".{self._part:06d}"  # files are read in name order
        folder = self._directory if self._here is None else epath.Path(self._here.name)
        suffix = f".{os.getpid()}.{self._purge}{part}"
        self._writer, self._some = EventsWriter(str(folder / "events"), suffix), False

    def write(self, step: int, values: dict, prefix: str) -> None:
        self._some = True
        for name, value in values.items():
            summary = scalar(prefix + name, value)
            event = Event(wall_time=time.time(), step=step, summary=summary)
            self._writer.write_event(event)

    def sync(self) -> None:
        if self._here is None:
            self._writer.flush()
            return
        self._upload()
        self._part += 1
        self._open()

    def _upload(self) -> None:
        self._writer.close()
        for file in entries(epath.Path(self._here.name)):
            if self._some:
                write_atomically(self._directory / file.name, file.read_bytes())
            file.unlink()

    def close(self) -> None:
        if self._here is None:
            self._writer.close()
            return
        self._upload()
        self._here.cleanup()


def _start_wandb(project: str, directory: epath.Path):
    """The W&B run of a stage directory: the same run after each resume."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "loop.wandb needs Weights & Biases: pip install 'rlhf-jax[wandb]'"
        ) from error
    place = absolute(directory)
    run_id = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    name = f"{place.parent.name}/{place.name}"
    local = None if in_bucket(place) else str(place)
    return wandb.init(project=project, id=run_id, name=name, resume="allow", dir=local)


def trim(path: epath.Path, step: int) -> None:
    """Keeps the complete lines up to `step`; removes a line that a kill has cut short, too."""
    if not path.exists():
        return
    content = path.read_bytes()
    kept = b"".join(line for line, values in read_lines(path) if values["step"] <= step)
    if len(kept) < len(content):
        write_atomically(path, kept)


def read_lines(path: epath.Path) -> list[tuple[bytes, dict]]:
    """The complete lines of a file, each as bytes and as a JSON object with a step.

    Raises:
        UserError: a line is not such an object; the message names the line.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # cut short by a kill
        try:
            values = parse_json(line)
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                raise UserError("no step in it")
        except UserError as error:
            raise UserError(
                f"{path}:{number}: is damaged ({error}); remove the line to go on without it"
            ) from None
        found.append((line, values))
    return found


def read_metrics(directory: epath.PathLike, name: str = METRICS) -> list[dict]:
    """The lines of metrics.jsonl (or SPEED) of a stage directory."""
    return [values for _, values in read_lines(epath.Path(directory) / name)]


def to_numbers(metrics: dict) -> dict[str, float | int]:
    """Scalars of a step (arrays or numbers) as Python numbers, sorted by name.

    Raises:
        ValueError: a metric is no scalar.
    """
    numbers = {}
    for name in sorted(metrics):
        value = np.asarray(metrics[name])
        if value.shape != ():
            raise ValueError(f"metric {name!r} must be a scalar, not of shape {value.shape}")
        integer = np.issubdtype(value.dtype, np.integer) or value.dtype == np.bool_
        numbers[name] = int(value) if integer else float(value)
    return numbers
