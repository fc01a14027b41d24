"""rlhf-jax replay BATCH: repeats the step that stopped a stage, and shows what is not finite."""

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
    """Options of the replay command.

    experiment  the experiment file, if it has moved since the stage was started; the options are
                always those with which the stage was started
    """

    experiment: str | None = None


def replay(path: PathLike, config: Experiment | None = None) -> tuple[dict[str, Any], list[str]]:
    """(the step's metrics, lines that say where numbers are not finite).

    The step runs on the state with which the stage stopped. Skipped updates do not change a state,
    so if all updates of the step were skipped, this is the state before the step.

    config: the experiment; None: that of the file and options with which the stage was started.
    Raises UserError where the batch does not exist, is not in a run's directory, or the config is
    not the config with which the stage was trained.
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
        raise UserError(f"{sick.parent} was trained with another config than the one to replay "
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
    """The config for the run in a directory, on the devices of this machine."""
    return dataclasses.replace(config, out=str(directory), parallel=ParallelConfig())


def _origin(path: PathLike, directory: Path) -> Origin:
    """The origin of a stage. Raises UserError where it is not stored or its file has moved."""
    found, other = Origin.read(directory), f"rlhf-jax replay {path} --experiment FILE"
    if found is None:
        raise UserError(f"{directory} was not started from the command line: give the config, as "
                        f"in replay(path, config), or its file: {other}")  # fmt: skip
    if not Path(found.file).is_file():
        raise UserError(f"{directory} was made with {found.file}, which is not there any more: "
                        f"give its new place, {other}")  # fmt: skip
    return found


def not_finite(tree: Any) -> list[str]:
    """A line for each array of floats with numbers that are not finite."""
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
    """Prints the result of `replay`."""
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
