"""rlhf-jax plan EXPERIMENT --topology v5p:4x4x4"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import require, writable_directory
from rlhf_jax.experiment import Experiment
from rlhf_jax.parallel.layout import layout_of
from rlhf_jax.parallel.runner import JitRunner, mesh_shape
from rlhf_jax.plan.chips import Topology, parse_topology
from rlhf_jax.plan.compiling import compile_program, topology_devices
from rlhf_jax.plan.programs import programs_of, stages_of
from rlhf_jax.plan.report import Plan, as_json, print_plan
from rlhf_jax.run import check_rows


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of the plan command, beside the experiment's fields.

    topology   chips, as "v5p:4x4x4"
    stages     those to plan; none: all that the experiment has
    suggest    try meshes and micro-batches, and print the best that fits
    tries      plans that `suggest` makes at most; each compiles every program
    json       a file for all that was found
    """

    topology: str
    stages: tuple[str, ...] = ()
    suggest: bool = False
    tries: int = 12
    json: Path | None = None

    def __post_init__(self):
        require(self.tries > 0, "tries", self.tries, "positive")


def plan_command(config: Experiment, options: PlanOptions) -> int:
    """Prints the plan; exit code 1 where it does not fit."""
    topology, name = parse_topology(options.topology), config.parallel.runner
    require(name == "jit", "parallel.runner", name, "'jit': pmap compiles for what is here only")
    here = stages_of(config)
    for stage in options.stages:
        require(stage in here, "stages", stage, f"of this experiment's own: {', '.join(here)}")
    stages = options.stages or here
    if options.json is not None:
        require(not options.json.is_dir(), "json", str(options.json), "a file, not a directory")
        writable_directory(options.json.parent, "json")
    devices = topology_devices(topology)
    if options.suggest:
        from rlhf_jax.plan.suggest import suggest

        return suggest(config, topology, devices, stages, options.tries, options.json)
    plan = make_plan(config, topology, devices, stages)
    print_plan(plan)
    if options.json is not None:
        write_atomically(options.json, as_json(plan).encode())
    return plan.exit_code


def make_plan(
    config: Experiment,
    topology: Topology,
    devices: list,
    stages: Sequence[str],
    platform: str = "tpu",
) -> Plan:
    """Compiles every program of the stages for the devices; says on standard error which.

    Raises ConfigError where mesh or batches do not fit the devices, as a run would.
    """
    mesh = mesh_shape(config.parallel, topology.chips)
    runner = JitRunner(layout_of(devices, mesh))
    for stage in stages:
        check_rows(runner, config, stage)
    plain = dataclasses.replace(
        config, model=_plain(config.model), reward_model=_plain(config.reward_model)
    )
    compiled, known = [], {}
    pairs = zip(programs_of(config, stages), programs_of(plain, stages), strict=True)
    for program, without_remat in pairs:
        print(f"compiling {program.stage} {program.name}", file=sys.stderr, flush=True)
        compiled.append(compile_program(program, runner, without_remat, platform, known))
    return Plan(config.name, topology, mesh, tuple(compiled))


def _plain(model):
    return None if model is None else dataclasses.replace(model, remat="off", logit_chunk=None)
