"""The programs of an experiment, stage by stage, with the shapes of their arguments."""

import dataclasses
from collections.abc import Sequence

from rlhf_jax.errors import inside
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs.chain import build_of
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.stages.stage import MANY_STEPS, Build, Program


@dataclasses.dataclass(frozen=True)
class Planned:
    """A program of a stage.

    runs  its calls in the whole run; None where the number depends on the data
    """

    stage: str
    name: str
    program: Program
    runs: int | None


def stages_of(config: Experiment) -> tuple[str, ...]:
    """The stages that this experiment trains, without those read from another run."""
    directory_of = lambda stage: config.directory / stage
    here = {name: stage.elsewhere(directory_of) is None for name, stage in config.stages.items()}
    return tuple(name for name, runs in here.items() if runs)


def build_for(config: Experiment, stage: str) -> Build:
    """The `Build` of a stage, from which its programs are made, without a tokenizer."""
    return build_of(config.stages, stage, config.model, Ending.planned(config.ending))


def programs_of(
    config: Experiment, stages: Sequence[str], recomputed: bool = True
) -> list[Planned]:
    """Every program that a run compiles to train these stages, stage by stage.

    recomputed: whether backward passes recompute what the models' config says and what a kernel
        of attention does, or nothing.
    """
    found = []
    for name in stages:
        stage, build = config.stages[name], build_for(config, name)
        if not recomputed:
            shapes = {role: _keeping_all(shape) for role, shape in build.shapes.items()}
            build = dataclasses.replace(build, model=_keeping_all(build.model), shapes=shapes)
        steps = stage.steps(config.data.examples)
        with inside(name):
            programs = stage.programs(build, MANY_STEPS if steps is None else steps)
        found += [Planned(name, key, program, steps) for key, program in programs.items()]
    return found


def _keeping_all(model: TransformerConfig) -> TransformerConfig:
    return dataclasses.replace(model, remat="off", logit_chunk=None, attention="product")
