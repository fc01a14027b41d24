"""The training loop of all stages: resume, step, log, checkpoint, finish."""

import contextlib
import dataclasses
import functools
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from rlhf_jax.data.batches import BatchIterator
from rlhf_jax.durable import checkpoint
from rlhf_jax.durable.batch_file import write_batch
from rlhf_jax.durable.files import in_bucket
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.lock import lock
from rlhf_jax.durable.signals import SIGNALS
from rlhf_jax.errors import UserError, require
from rlhf_jax.fields import NOT_FINGERPRINTED
from rlhf_jax.parallel.processes import first_alone, is_first
from rlhf_jax.training.health import Health
from rlhf_jax.training.metrics import MetricsWriter, to_numbers
from rlhf_jax.training.progress import ProgressLine

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
TRACE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
WARM_STEPS = 3  # the first steps of a call with batches of one size, in which it may compile
SICK = "sick"  # a stage's folder with batches saved for replay, and the state of the last of them


class SickError(UserError):
    """Too many steps in a row gave numbers that are not finite, or no update was applied at all."""


def shapes_of(batch: Any) -> Hashable:
    """The shapes of a batch's arrays."""
    return tuple(jnp.shape(x) for x in jax.tree.leaves(batch))


@dataclasses.dataclass(frozen=True)
class Task:
    """What a stage gives to the loop.

    name             the stage's name: "sft", "reward", "ppo", ...
    state            initial state, a pytree of jax arrays. `step` may donate it, so nobody else may
                     use it after `run` has begun
    step             (state, batch) -> (state, {name: scalar}); one jitted call or several. Its
                     metrics skipped_steps and empty_steps, if any, are the numbers of updates that
                     were not applied: not finite, or of a batch without weight
    batches          the loop reads one batch per step
    total_steps      steps of the whole stage
    tokens_per_step  tokens that a step learns from or samples, for tokens/s
    show             metrics beside the progress bar; empty: the first three by name
    updates          updates of parameters in a step
    whole            this process's batch -> the batch of all processes, to save it for replay
    size             this process's batch -> the size for which the step that it was given to was
                     compiled
    best             the metric by which checkpoints are ranked, with "-" where lower is better
    model            state -> the whole parameters of the model that the stage ends with
    evaluate         (step, state after it) -> {name: number} to log with the step's metrics
    evaluated        the names that `evaluate` may give
    """

    name: str
    state: Any
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
    batches: BatchIterator
    total_steps: int
    tokens_per_step: int
    show: tuple[str, ...] = ()
    updates: int = 1
    whole: Callable[[Any], Any] = lambda batch: batch
    size: Callable[[Any], Hashable] = shapes_of
    best: str = "-loss"
    model: Callable[[Any], Any] = lambda state: state
    evaluate: Callable[[int, Any], dict[str, float]] = lambda step, state: {}
    evaluated: tuple[str, ...] = ()

    def __post_init__(self):
        require(self.total_steps > 0, "total_steps", self.total_steps, "1 or more")


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """What is written and how often, in steps; nothing here changes what is computed.

    checkpoint_every  a checkpoint is saved every so many steps, and at the end
    log_every         a line of metrics is written every so many steps
    keep              the number of newest checkpoints that are kept
    keep_best         the number of best checkpoints that are kept too, by the mean of a metric
                      since the checkpoint before
    best              the metric of keep_best, from an evaluator that measures the stage during
                      training ("evaluation/gold_score", or "-evaluation/pretraining_loss" with "-"
                      because lower is better); None, or a metric that the stage lacks: its loss, or
                      PPO's score
    max_skipped       the stage stops after so many steps in a row with a skipped update, and saves
                      the batch for replay
    wandb             the Weights & Biases project to which metrics are sent, besides the files
    """

    checkpoint_every: int = dataclasses.field(default=100, metadata=NOT_FINGERPRINTED)
    log_every: int = dataclasses.field(default=1, metadata=NOT_FINGERPRINTED)
    keep: int = dataclasses.field(default=2, metadata=NOT_FINGERPRINTED)
    keep_best: int = dataclasses.field(default=0, metadata=NOT_FINGERPRINTED)
    best: str | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)
    max_skipped: int = dataclasses.field(default=10, metadata=NOT_FINGERPRINTED)
    wandb: str | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)

    def __post_init__(self):
        for field in ("checkpoint_every", "log_every", "keep", "max_skipped"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "1 or more")
        require(self.keep_best >= 0, "keep_best", self.keep_best, "0 or more")


def run(
    task: Task,
    directory: epath.PathLike,
    config: LoopConfig,
    *,
    fingerprint: dict,
    stop_after_steps: int | None = None,
    insist: bool = False,
) -> Any:
    """Trains to the end, from the newest good checkpoint of `directory` if there is one; returns
    the state.

    If a run is killed, the same call resumes it, and state, data position and metrics.jsonl end
    bit-identical to those of an uninterrupted run (on CPUs and TPUs; GPU kernels may add in another
    order). A finished stage returns its state at once. On SIGTERM or SIGINT (where SIGNALS handles
    them) the running step is finished, a checkpoint saved, and the state returned.

    Args:
        fingerprint: the stage's config as `fingerprint_of` gives it.
        stop_after_steps: saves a checkpoint and stops once the stage has done so many steps.
        insist: resumes even if the directory was made with another config.
    Raises:
        UserError: the directory belongs to another config, or another process is using it; its
            checkpoint does not fit; the disk is full.
        SickError: config.max_skipped steps in a row were not finite, or no update of the whole
            stage was applied.
    """
    directory = epath.Path(directory)
    end = task.total_steps
    if stop_after_steps is not None:
        require(stop_after_steps > 0, "stop_after_steps", stop_after_steps, "1 or more")
        end = min(end, stop_after_steps)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_full_disk_told(directory))
        if is_first():
            stack.enter_context(lock(directory))
            check_fingerprint(directory, fingerprint, insist)
        stack.enter_context(SIGNALS.deferred())
        checkpoints = checkpoint.Checkpoints(directory, config.keep, config.keep_best)
        stack.callback(checkpoints.close)
        step, state, progress = 0, task.state, {"seconds": 0.0, "tokens": 0, "compilations": 0}
        if checkpoint.steps(directory):
            step, state, data, progress = checkpoint.restore(directory, task.state)
            first_alone(functools.partial(checkpoints.set_aside, after=step), "restored")
            task.batches.set_state(data)
        health = Health(task.name, progress.get("health"), task.updates)
        if step < end:
            with contextlib.closing(_Log(task, directory, config, step, progress, health)) as log:
                step, state = _train(task, state, step, end, config, checkpoints, log)
        if step == task.total_steps and (why := health.nothing_learnt):
            raise SickError(f"{task.name}: {why}; there is no model to save. Give it other data or "
                            "settings in another directory")  # fmt: skip
    return state


def _train(task, state, step, end, config, checkpoints, log):
    waiting = None  # the metrics of the previous step, fetched while this step runs
    while step < end:
        batch = next(task.batches)
        with log.compilations:
            state, metrics = task.step(state, batch)
        log.compilations.stepped(task.size(batch))
        if waiting is not None:
            log.write(*waiting)
        step += 1
        with log.measuring:
            evaluated = task.evaluate(step, state)  # the next step may donate the state
        waiting = (step, metrics, evaluated)
        end = step if SIGNALS.stop_at(step) else end
        save = step % config.checkpoint_every == 0 or step == end
        # If one more skipped step would stop the stage, its metrics must be read before the next.
        if save or log.health.in_a_row + 1 >= config.max_skipped:
            log.write(*waiting)
            waiting = None
            sick = log.health.in_a_row >= config.max_skipped
            useless = log.health.nothing_learnt if step == task.total_steps else None
            if save or sick:
                # The step's metrics must be on disk before a checkpoint says that it is done.
                log.sync()
                position = task.batches.get_state()
                checkpoints.save(step, state, position, log.progress(step) | log.quality())
            if sick or (useless and log.health.in_a_row):
                raise _sick(task, checkpoints, config, step, state, batch, useless)
    return step, state


def _sick(task, checkpoints, config, step, state, batch, useless) -> SickError:
    """Saves batch and state for `rlhf-jax replay`. Skipped steps have not changed the state.

    useless: why the whole stage has learnt nothing; None: only its last steps were skipped.
    """
    directory = checkpoints.directory / SICK
    path = directory / f"step_{step}.npz"
    batch = task.whole(batch)
    if is_first():
        write_batch(path, batch, {"stage": task.name, "step": step})
    copy = checkpoint.Checkpoints(directory, keep=1)
    copy.save(step, state, {}, {"total_steps": task.total_steps})
    copy.close()
    shown = f"rlhf-jax replay {_short(path)} shows where it comes from"
    if useless:
        return SickError(f"{task.name}: {useless}; there is no model to save. {shown}")
    return SickError(
        f"{task.name}: {config.max_skipped} steps in a row were not finite, the last of them step "
        f"{step}; they have changed no parameter. {shown}; the same command goes on with the "
        "batches after it"
    )


def _short(path: epath.Path) -> str:
    near = str(path) if in_bucket(path) else os.path.relpath(path)
    return str(path) if near.startswith("..") else near


@contextlib.contextmanager
def _full_disk_told(directory: epath.Path):
    try:
        yield
    except OSError as error:
        done = checkpoint.steps(directory)
        left = f"the last good checkpoint is of step {done[-1]}" if done else "no checkpoint yet"
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"{directory}: {(error.strerror or str(error)).lower()}{where}; {left}. The same "
            "command goes on from there"
        ) from error


class _Log:
    """Metrics, speed and progress of one call of `run`."""

    def __init__(
        self, task, directory: epath.Path, config, step: int, progress: dict, health: Health
    ):
        self._task, self._every, self._before = task, config.log_every, progress
        self._first, self._start = step, time.monotonic()
        self._last = (step, self._start)
        self._warned, self._best = False, []
        chosen = config.best is not None and config.best.removeprefix("-") in task.evaluated
        self._best_name = config.best if chosen else task.best
        self.compilations, self.measuring = _Compilations(), _Compilations()
        self.health = health
        self._open = contextlib.ExitStack()
        self._writer = self._line = None  # only process 0 writes and prints
        if is_first():
            self._writer = self._open.enter_context(
                contextlib.closing(MetricsWriter(directory, step, config.wandb))
            )
            total, tokens = task.total_steps, task.tokens_per_step
            self._line = self._open.enter_context(
                contextlib.closing(ProgressLine(task.name, step, total, tokens, task.show))
            )

    def write(self, step: int, metrics: dict, evaluated: dict[str, float]) -> None:
        """Waits for the metrics of `step`; writes them and `evaluated` if the step is logged or was
        evaluated."""
        numbers = to_numbers(jax.device_get(metrics))
        # If every update was finite, a NaN is the mean of a metric that counted nothing.
        healthy = numbers.get("skipped_steps") == 0
        uncounted = {name for name, value in numbers.items() if healthy and math.isnan(value)}
        numbers = self.health.count(step, numbers) | evaluated
        late = self.compilations.after_warm_steps
        if late and not self._warned:
            self._warned = True
            message = (
                f"{self._task.name}: step {self._first + late} still compiles: "
                "is a shape or a Python argument of the step changing? "
                "(docs/troubleshooting.md: Compiling again and again)"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        if math.isfinite(value := numbers.get(self._best_name.removeprefix("-"), math.nan)):
            self._best.append(value)
        if self._line is not None:
            compiled = self.compilations.count + self.measuring.count
            self._line.update(step, numbers, compiled)
        if step % self._every == 0 or step in (1, self._task.total_steps) or evaluated:
            now, (last, then) = time.monotonic(), self._last
            self._last = (step, now)
            speed = self.progress(step)
            del speed["total_steps"], speed["health"]
            tokens = (step - last) * self._task.tokens_per_step
            speed["tokens_per_second"] = tokens / max(now - then, 1e-9)
            if self._writer is not None:
                self._writer.write(step, numbers, speed, uncounted)

    def progress(self, step: int) -> dict:
        """Totals over all calls that led to `step`, without work that a kill has lost."""
        before = self._before
        return {
            "seconds": before["seconds"] + time.monotonic() - self._start,
            "tokens": before["tokens"] + (step - self._first) * self._task.tokens_per_step,
            "compilations": before["compilations"] + self.compilations.count,
            # Checkpoints of earlier versions do not have it.
            "compile_seconds": before.get("compile_seconds", 0.0) + self.compilations.seconds,
            "total_steps": self._task.total_steps,
            "health": self.health.state,
        }

    def quality(self) -> dict:
        """For a checkpoint's progress: the metric that ranks checkpoints, and its mean over the
        steps since the last call."""
        values, self._best = self._best, []
        return {"best": self._best_name, "mean": sum(values) / len(values)} if values else {}

    def sync(self) -> None:
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        self._open.close()


class _Compilations:
    """Counts XLA's compilations inside its `with` blocks, one block per step, and their seconds
    with those of tracing."""

    def __init__(self):
        self._spans = []  # (when it began, seconds)
        self.count, self.after_warm_steps, self._blocks = 0, 0, 0
        self._compiled, self._steps = False, Counter()

    def __enter__(self):
        self._blocks += 1
        self._compiled = False
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self._listen)

    @property
    def seconds(self) -> float:
        return math.fsum(seconds for _, seconds in self._spans)

    def _listen(self, event: str, seconds: float, **labels) -> None:
        if event in (COMPILE_EVENT, *TRACE_EVENTS):
            began = time.monotonic() - seconds
            # Tracing a function takes the time of the functions in it, which were told before.
            while self._spans and self._spans[-1][0] >= began:
                self._spans.pop()
            self._spans.append((began, seconds))
        if event == COMPILE_EVENT:
            self.count += 1
            self._compiled = True

    def stepped(self, size: Hashable) -> None:
        """Counts the step of the last block among those of its size."""
        self._steps[size] += 1
        if self._compiled and self._steps[size] > WARM_STEPS:
            self.after_warm_steps = self.after_warm_steps or self._blocks
