"""Several processes that train together: how they start, who writes, and how they end."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rlhf_jax.errors import UserError
from rlhf_jax.parallel.config import AUTO, ParallelConfig

LOST = 3  # exit code of a process that ends because another process has ended
# GPU kernels that add in varying order are left out. Unlike xla_gpu_deterministic_ops, which also
# turns autotuning off, this needs the choice of kernels to be kept (compile_cache.folder_of).
FIXED_ORDER = "--xla_gpu_exclude_nondeterministic_ops=true"


def start(config: ParallelConfig) -> None:
    """Connects to the other processes, if the config names a coordinator, and gives XLA its flags.
    Call it before anything else uses jax: XLA reads flags once.

    Raises UserError where the other processes cannot be reached.
    """
    if config.deterministic:
        flags = os.environ.get("XLA_FLAGS", "").split()
        os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*flags, FIXED_ORDER]))
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
    """Whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def count() -> int:
    return jax.process_count()


def wait_for_all(name: str) -> None:
    """Blocks until every process has called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def first_alone(function: Callable[[], None], name: str) -> None:
    """Process 0 calls the function; the other processes wait until it has returned."""
    if is_first():
        function()
    wait_for_all(name)


def total(number: int) -> int:
    """The sum of `number` over all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.asarray(number)).sum())


def own_share(count: int) -> slice:
    """This process's share of `count` items that every process has; the shares are of about equal
    size and together cover all items."""
    process, processes = jax.process_index(), jax.process_count()
    return slice(process * count // processes, (process + 1) * count // processes)


def gathered(content: bytes) -> list[bytes]:
    """The `content` of every process, by process number."""
    if jax.process_count() == 1:
        return [content]
    lengths = multihost_utils.process_allgather(np.array(len(content), np.int32))
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)  # few shapes to compile
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def measured(function: Callable[[int], Any], count: int) -> list:
    """[function(0), ..., function(count - 1)], JSON values, in every process. Each process calls
    the function for its share of the numbers."""
    own = own_share(count)
    parts = gathered(json.dumps([function(i) for i in range(own.start, own.stop)]).encode())
    return [found for part in parts for found in json.loads(part)]


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Where one of several processes fails, all of them end, each with one line.

    The failing process exits at once, without jax's shutdown, which would wait for the processes
    that still run. These then miss its heartbeat, or their next sum over all devices fails.
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
