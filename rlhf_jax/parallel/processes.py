"""Several processes that train together: how they start, who writes, and how they end."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from rlhf_jax.errors import UserError
from rlhf_jax.parallel.config import AUTO, ParallelConfig

LOST = 3  # the exit code where another process ended


def start(config: ParallelConfig) -> None:
    """Joins the other processes, where the config names any. Before anything else uses jax.

    Raises UserError where they cannot be reached.
    """
    if config.coordinator is None or jax.distributed.is_initialized():
        return
    place = {}
    if config.coordinator != AUTO:
        place = {
            "coordinator_address": config.coordinator,
            "num_processes": config.processes,
            "process_id": config.process,
        }
    try:
        jax.distributed.initialize(**place, heartbeat_timeout_seconds=config.heartbeat)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"parallel.coordinator = {config.coordinator!r}: {reason}") from None
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def is_first() -> bool:
    """Whether this process writes files and speaks."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Blocks until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def first_alone(function: Callable[[], None], name: str) -> None:
    """Process 0 does it; then all go on."""
    if is_first():
        function()
    wait_for_all(name)


def total(number: int) -> int:
    """The sum of a number of every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.asarray(number)).sum())


def own_share(count: int) -> slice:
    """Of things that every process has, those that this one works on; alike many in each."""
    process, processes = jax.process_index(), jax.process_count()
    return slice(process * count // processes, (process + 1) * count // processes)


def gathered(content: bytes) -> list[bytes]:
    """What every process gives, in their order."""
    if jax.process_count() == 1:
        return [content]
    lengths = multihost_utils.process_allgather(np.array(len(content), np.int32))
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)  # few shapes to compile
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Of several processes, one that fails ends at once, and the others after it, each with a line.

    Without jax's farewell, which would wait for those that still run; they miss its heartbeat, or
    the next sum over all devices fails.
    """
    try:
        yield
    except (UserError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1:
            raise
        told, cause = str(error), error
        while cause is not None and not isinstance(cause, jax.errors.JaxRuntimeError):
            cause = cause.__cause__
        if cause is not None:
            reason = str(cause).splitlines()[0][:200]
            told = (
                f"another process of this run has ended ({reason}); start all of them again: "
                "they go on from the last checkpoint"
            )
        place = f"process {jax.process_index()} of {jax.process_count()}"
        print(f"rlhf-jax: {place}: {told}", file=sys.stderr, flush=True)
        os._exit(2 if cause is None else LOST)
