"""rlhf-jax replay BATCH: one step again, on the batch that stopped a stage, number by number."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils.epath import Path

from rlhf_jax.config_json import from_json
from rlhf_jax.durable import checkpoint
from rlhf_jax.durable.batch_file import read_batch
from rlhf_jax.errors import UserError
from rlhf_jax.experiment import Experiment
from rlhf_jax.run import EXPERIMENT, STAGES, Run
from rlhf_jax.strict_json import read_json
from rlhf_jax.training import loop


class _Built(Exception):
    """Carries a stage's task out of the method that would train it."""


class _Builder(Run):
    def _train(self, stage: str, task: loop.Task) -> Any:
        raise _Built(task)


def replay(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The step's metrics, and lines that say where numbers are not finite.

    The step runs on the state that the stage stopped with: updates that were skipped left it as it
    was, so that it is the state of before the step wherever all of them were.

    Raises:
        UserError: no such batch, or its run is not beside it.
    """
    batch, about = read_batch(path)
    stage, step = about.get("stage"), about.get("step")
    if stage not in STAGES or not isinstance(step, int):
        raise UserError(f"{path}: expected a batch of one of {', '.join(STAGES)}, got {about}")
    directory = path.absolute().parent
    task = _task(directory.parent, stage)
    sick = checkpoint.restore(directory, task.state, step)[1]
    state = sick._replace(step=sick.step - 1)
    lines = [f"batch/{line}" for line in not_finite(batch)]
    lines += [f"state/{line}" for line in not_finite(state)]
    metrics = task.step(state, batch)[1]
    return {name: np.asarray(value).item() for name, value in metrics.items()}, lines


def _task(directory: Path, stage: str) -> loop.Task:
    """The task of a stage as it was trained in its directory."""
    file = directory / EXPERIMENT
    fields = read_json(file)
    config = dataclasses.replace(from_json(Experiment, fields), out=str(directory.parent))
    try:
        run = _Builder(config)
        getattr(run, f"_{stage}")()
    except _Built as built:
        task = built.args[0]
        if task.name == stage:
            return task
        raise UserError(
            f"{directory.parent}: {task.name} is not finished, {stage} needs it"
        ) from None
    raise AssertionError(f"{stage} trains nothing")


def not_finite(tree: Any) -> list[str]:
    """A line for each array of floats that holds numbers that are not finite."""
    lines = []
    for path, leaf in jax.tree.flatten_with_path(tree)[0]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        array = np.asarray(leaf)
        if np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_:
            continue
        if wrong := int((~np.isfinite(array.astype(np.float32))).sum()):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            lines.append(f"{name}: {wrong} of {array.size} numbers are not finite")
    return lines


def show(path: Path) -> None:
    """Prints what `replay` gives."""
    metrics, lines = replay(path)
    print(f"{path}: one step again")
    for name, value in sorted(metrics.items()):
        mark = "" if np.isfinite(value) else "   <- not finite"
        print(f"  {name:<24}{value:>14.6g}{mark}")
    for line in lines or ["batch and state hold finite numbers only"]:
        print(f"  {line}")
