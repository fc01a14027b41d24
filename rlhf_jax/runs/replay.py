"""rlhf-jax replay BATCH: one step again, on the batch that stopped a stage, number by number."""

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np
from etils.epath import Path, PathLike

from rlhf_jax.durable import checkpoint
from rlhf_jax.durable.batch_file import read_batch
from rlhf_jax.durable.files import absolute
from rlhf_jax.durable.fingerprint import differences
from rlhf_jax.errors import UserError
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.runs import chain
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.origin import Origin
from rlhf_jax.runs.run import Run


@dataclasses.dataclass(frozen=True)
class ReplayOptions:
    """Of the command.

    experiment  the experiment file, where it is not the one that the stage was started with; the
                options are those in any case
    """

    experiment: str | None = None


def replay(path: PathLike, config: Experiment | None = None) -> tuple[dict[str, Any], list[str]]:
    """The step's metrics, and lines that say where numbers are not finite.

    The step runs on the state that the stage stopped with: updates that were skipped left it as it
    was, so that it is the state of before the step wherever all of them were.

    config: the experiment; None: of the file and the options that the stage was started with.
    Raises UserError where there is no such batch, its run is not beside it, or the config is not
    the one that the stage was trained with.
    """
    batch, about = read_batch(path)
    stage, step = about.get("stage"), about.get("step")
    if not isinstance(stage, str) or not isinstance(step, int):
        raise UserError(f"{path}: expected a batch of a stage, got {about}")
    sick = absolute(path).parent
    config = _in_place(config or _origin(path, sick.parent).config(), sick.parent.parent)
    if stage not in config.stages or config.directory_of(stage) != sick.parent:
        here = ", ".join(config.stages)
        raise UserError(f"{path}: expected a batch of a stage of the experiment {config.name!r} "
                        f"({here}) in its directory, got one of {stage}")  # fmt: skip
    run = Run(config)
    if differ := differences(sick.parent, config.fingerprint(stage)):
        raise UserError(f"{sick.parent} was trained with another config than that to replay "
                        "with:\n" + "\n".join(differ))  # fmt: skip
    if left := run.left(chain.builds_on(config.stages, stage)):
        raise UserError(f"{run.directory}: {left[0]} is not finished, {stage} needs it")
    task, inputs = run.task(stage)
    state = checkpoint.restore(sick, task.state, step)[1]
    state = state._replace(step=state.step - 1)
    lines = [f"batch/{line}" for line in not_finite(batch)]
    lines += [f"state/{line}" for line in not_finite(state)]
    with contextlib.closing(inputs):
        metrics = task.step(state, batch)[1]
    return {name: np.asarray(value).item() for name, value in metrics.items()}, lines


def _in_place(config: Experiment, directory: Path) -> Experiment:
    """The config of the run in a directory, on the devices that are here."""
    return dataclasses.replace(config, out=str(directory), parallel=ParallelConfig())


def _origin(path: PathLike, directory: Path) -> Origin:
    """Raises UserError where a stage's directory names no experiment file that is there."""
    found, other = Origin.read(directory), f"rlhf-jax replay {path} --experiment FILE"
    if found is None:
        raise UserError(f"{directory} was not made by the command line: give the config, as in "
                        f"replay(path, config), or its file, {other}")  # fmt: skip
    if not Path(found.file).is_file():
        raise UserError(f"{directory} was made with {found.file}, which is not there: name its "
                        f"place, {other}")  # fmt: skip
    return found


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


def show(path: PathLike, options: ReplayOptions) -> None:
    """Prints what `replay` gives."""
    config = None
    if options.experiment is not None:
        origin = Origin.read(absolute(path).parent.parent)
        given = () if origin is None else origin.options
        config = Origin(options.experiment, given).config()
    metrics, lines = replay(path, config)
    print(f"{path}: one step again")
    for name, value in sorted(metrics.items()):
        mark = "" if np.isfinite(value) else "   <- not finite"
        print(f"  {name:<24}{value:>14.6g}{mark}")
    for line in lines or ["batch and state hold finite numbers only"]:
        print(f"  {line}")
