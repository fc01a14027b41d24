"""The first lines that a run prints: devices, number formats, and what will run."""

from collections.abc import Sequence

import jax

from rlhf_jax.models.matmul import resolve_dtype
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.parallel.runner import Runner
from rlhf_jax.runs.experiment import Experiment


def lines(
    config: Experiment, runner: Runner, stages: Sequence[str], left: Sequence[str]
) -> list[str]:
    """The lines that are printed once, before data are read.

    stages: all stages of the command. left: the stages that have not finished yet.
    """
    mesh, processes = runner.layout.mesh, jax.process_count()
    kind = mesh.devices.flat[0].device_kind
    dtype = resolve_dtype(config.model.compute_dtype)
    return [
        f"devices: {mesh.size} x {kind}, mesh {MeshShape(**mesh.shape)}, runner "
        f"{config.parallel.runner}, {processes} process{'es' * (processes > 1)}",
        f"numbers: parameters float32, products of matrices {dtype}",
        *_stages(config, stages, left),
    ]


def _stages(config: Experiment, stages: Sequence[str], left: Sequence[str]) -> list[str]:
    """Lines: the stages that will run, that have finished here, and that are read elsewhere."""
    own = lambda stage: config.directory_of(stage) == config.directory / stage
    finished = [stage for stage in stages if own(stage) and stage not in left]
    there = [f"{s} ({config.directory_of(s)})" for s in stages if not own(s)]
    named = {"to run": left, "finished": finished, "read elsewhere": there}
    found = [f"{about}: {', '.join(names)}" for about, names in named.items() if names]
    if not left:
        place = config.directory_of(stages[-1])
        found.append(f"nothing is left to run: the result of {stages[-1]} is in {place}")
    return found
