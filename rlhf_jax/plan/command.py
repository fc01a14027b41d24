"""rlhf-jax plan EXPERIMENT --topology v5p:4x4x4"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.data.records import write_atomically
from rlhf_jax.errors import UserError, require
from rlhf_jax.experiment import Experiment
from rlhf_jax.parallel.layout import MeshShape, layout_of
from rlhf_jax.plan.chips import Topology, parse_topology
from rlhf_jax.plan.compiling import compile_program, topology_devices
from rlhf_jax.plan.programs import programs_of, stages_of
from rlhf_jax.plan.report import Plan, as_json, print_plan

LANES = 128  # cuts of the model width in multiples of this are gathered without a detour


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of the plan command, beside the experiment's fields.

    topology   chips, as "v5p:4x4x4"
    fsdp       chips over which parameters are cut along the width; 0: chosen by the model
    tensor     chips over which heads are cut; 0: enough that a minibatch's rows go round
    stages     those to plan; none: all that the experiment has
    suggest    try meshes and micro-batches, and print the best that fits
    json       a file for all that was found
    """

    topology: str
    fsdp: int = 0
    tensor: int = 0
    stages: tuple[str, ...] = ()
    suggest: bool = False
    json: Path | None = None

    def __post_init__(self):
        for field in ("fsdp", "tensor"):
            require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")


def plan_command(config: Experiment, options: PlanOptions) -> int:
    """Prints the plan; exit code 1 where it does not fit."""
    topology = parse_topology(options.topology)
    here = stages_of(config)
    for stage in options.stages:
        require(stage in here, "stages", stage, f"of this experiment's own: {', '.join(here)}")
    stages = options.stages or here
    devices = topology_devices(topology)
    if options.suggest:
        from rlhf_jax.plan.suggest import suggest

        return suggest(config, topology, devices, stages, options.json)
    mesh = mesh_for(config, topology, options.fsdp, options.tensor)
    plan = make_plan(config, topology, devices, mesh, stages)
    print_plan(plan)
    if options.json is not None:
        write_atomically(options.json, as_json(plan).encode())
    return plan.exit_code


def make_plan(
    config: Experiment,
    topology: Topology,
    devices: list,
    mesh: MeshShape,
    stages: Sequence[str],
    platform: str = "tpu",
) -> Plan:
    """Compiles every program of the stages for the devices; says on standard error which."""
    layout = layout_of(devices, mesh)
    plain = dataclasses.replace(
        config, model=_plain(config.model), reward_model=_plain(config.reward_model)
    )
    compiled, known = [], {}
    pairs = zip(programs_of(config, stages), programs_of(plain, stages), strict=True)
    for program, without_remat in pairs:
        print(f"compiling {program.stage} {program.name}", file=sys.stderr, flush=True)
        compiled.append(compile_program(program, layout, without_remat, platform, known))
    return Plan(config.name, topology, mesh, tuple(compiled))


def _plain(model):
    return None if model is None else dataclasses.replace(model, remat=False)


def mesh_for(config: Experiment, topology: Topology, fsdp: int = 0, tensor: int = 0) -> MeshShape:
    """The mesh with these sides; those that are 0 from the model and the smallest minibatch.

    tensor: the smallest power of two that leaves each group of chips a row of a minibatch. fsdp:
    the largest that cuts the widths of both models into multiples of 128.
    Raises UserError where the sides do not divide the chips or the heads.
    """
    chips = topology.chips
    if not tensor:
        rows = config.ppo_ptx.batch_size // config.ppo_ptx.minibatches
        tensor = 1
        while chips // tensor > rows and config.model.heads % (2 * tensor) == 0:
            tensor *= 2
    if chips % tensor:
        raise UserError(f"tensor = {tensor}: must divide the {chips} chips of {topology.name}")
    rest = chips // tensor
    if not fsdp:
        widths = (config.model.width, config.scorer.width)
        sides = [n for n in range(1, rest + 1) if rest % n == 0]
        fsdp = max(n for n in sides if n == 1 or all(w % (n * LANES) == 0 for w in widths))
    if rest % fsdp:
        raise UserError(f"fsdp = {fsdp}: must divide {rest}, chips / tensor of {topology.name}")
    for name, model in (("model", config.model), ("reward_model", config.scorer)):
        ok = model.key_value_heads % tensor == 0
        require(ok, "tensor", tensor, f"a divisor of {name}'s {model.key_value_heads} heads")
    return MeshShape(rest // fsdp, fsdp, tensor)
