"""Metrics of a stage on disk, and on the screen.

metrics.jsonl   {"step": 10, "loss": 2.5, ...}: nothing that differs between two equal runs
speed.jsonl     {"step": 10, "seconds": ..., "tokens_per_second": ..., "compilations": ...}
tensorboard/    both; and Weights & Biases where a project is named
"""

import contextlib
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json

METRICS, SPEED = "metrics.jsonl", "speed.jsonl"


class MetricsWriter:
    """Appends lines to the files of a stage directory, after cutting what lies beyond `step`.

    wandb: a Weights & Biases project to send them to as well; None: none.
    """

    def __init__(self, directory: Path, step: int, wandb: str | None = None):
        self._files = {}
        for name in (METRICS, SPEED):
            trim(directory / name, step)
            self._files[name] = (directory / name).open("a", encoding="utf-8")
        self._board = _Board(directory / "tensorboard", step + 1)
        self._wandb = None if wandb is None else _start_wandb(wandb, directory)
        self._warned: set[tuple[str, bool]] = set()

    def write(
        self, step: int, metrics: dict[str, float | int], speed: dict, uncounted: Collection = ()
    ) -> None:
        """One line to each file. A metric that is not finite becomes null, with a warning.

        uncounted: metrics that are NaN because nothing was counted.
        """
        for name, values in ((METRICS, metrics), (SPEED, speed)):
            line = {"step": step} | {
                k: self._finite(step, k, v, k in uncounted) for k, v in values.items()
            }
            self._files[name].write(json.dumps(line, allow_nan=False) + "\n")
            self._files[name].flush()
            self._board.write(step, values, "speed/" if name == SPEED else "")
        if self._wandb is not None:
            self._wandb.log(metrics | {f"speed/{k}": v for k, v in speed.items()}, step=step)

    def sync(self) -> None:
        """Everything written so far is on disk (before a checkpoint that counts on it)."""
        for file in self._files.values():
            os.fsync(file.fileno())
        self._board.flush()

    def close(self) -> None:
        for file in (*self._files.values(), self._board):
            with contextlib.suppress(OSError):  # told by write or sync, which came before
                file.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _finite(self, step: int, name: str, value: float, uncounted: bool) -> float | None:
        if math.isfinite(value):
            return value
        if (name, uncounted) not in self._warned:
            self._warned.add((name, uncounted))
            what = "counted nothing: no token or pair has weight" if uncounted else f"is {value}"
            message = f"step {step}: {name} {what}; written as null, here and from now on"
            warnings.warn(message, RuntimeWarning, stacklevel=5)
        return None


class _Board:
    """A TensorBoard event file, written in the caller's thread.

    tensorboardX's SummaryWriter has a thread of its own, which dies on a full disk and leaves the
    caller waiting. purge: the first step that earlier files hold in vain.
    """

    def __init__(self, directory: Path, purge: int):
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"), f".{os.getpid()}.{purge}")
        started = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=purge, session_log=started))

    def write(self, step: int, values: dict, prefix: str) -> None:
        for name, value in values.items():
            summary = scalar(prefix + name, value)
            event = Event(wall_time=time.time(), step=step, summary=summary)
            self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _start_wandb(project: str, directory: Path):
    """The W&B run of a stage directory: the same one after each resume."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "loop.wandb needs Weights & Biases: pip install 'rlhf-jax[wandb]'"
        ) from error
    place = directory.absolute()
    run_id = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    name = f"{place.parent.name}/{place.name}"
    return wandb.init(project=project, id=run_id, name=name, resume="allow", dir=directory)


def trim(path: Path, step: int) -> None:
    """Keeps the whole lines up to `step`; a line that a kill cut short goes as well."""
    if not path.exists():
        return
    content = path.read_bytes()
    kept = b"".join(line for line, values in read_lines(path) if values["step"] <= step)
    if len(kept) < len(content):
        write_atomically(path, kept)


def read_lines(path: Path) -> list[tuple[bytes, dict]]:
    """The whole lines of a file, as they are and as JSON objects with a step.

    Raises:
        UserError: a line is something else; the message names it.
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


def read_metrics(directory: str | Path, name: str = METRICS) -> list[dict]:
    """The lines of metrics.jsonl (or SPEED) of a stage directory."""
    return [values for _, values in read_lines(Path(directory) / name)]


def to_numbers(metrics: dict) -> dict[str, float | int]:
    """Scalars of a step (arrays or numbers) as Python numbers, in the order of their names.

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
