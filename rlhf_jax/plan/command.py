"""rlhf-jax plan EXPERIMENT --topology v5p:4x4x4"""

import dataclasses
from pathlib import Path

from rlhf_jax.durable.files import writable_directory, write_atomically
from rlhf_jax.errors import require
from rlhf_jax.plan.chips import parse_topology
from rlhf_jax.plan.compiling import topology_devices
from rlhf_jax.plan.plan import make_plan
from rlhf_jax.plan.programs import stages_of
from rlhf_jax.plan.report import as_json, print_plan
from rlhf_jax.plan.suggest import suggest
from rlhf_jax.runs.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of the plan command, besides the experiment's fields.

    topology   the chips, such as "v5p:4x4x4"
    stages     stages to plan; none: all stages of the experiment
    suggest    tries meshes and micro-batches, and prints the fastest plan that fits
    tries      maximum number of plans that `suggest` makes; each compiles every program
    json       a file to which all figures are written
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
    allowed = "'jit': pmap compiles only for devices of this machine"
    require(name == "jit", "parallel.runner", name, allowed)
    here = stages_of(config)
    allowed = f"one that this experiment trains: {', '.join(here)}"
    for stage in options.stages:
        require(stage in here, "stages", stage, allowed)
    stages = options.stages or here
    if options.json is not None:
        require(not options.json.is_dir(), "json", str(options.json), "a file, not a directory")
        writable_directory(options.json.parent, "json")
    devices = topology_devices(topology)
    if options.suggest:
        return suggest(config, topology, devices, stages, options.tries, options.json)
    plan = make_plan(config, topology, devices, stages)
    print_plan(plan)
    if options.json is not None:
        write_atomically(options.json, as_json(plan).encode())
    return plan.exit_code
