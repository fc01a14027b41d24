"""Tries meshes and numbers of micro-batches for an experiment, and says which is fastest."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import ConfigError
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.parallel.runner import divide
from rlhf_jax.plan.chips import Topology
from rlhf_jax.plan.plan import Plan, make_plan
from rlhf_jax.plan.programs import build_for
from rlhf_jax.plan.report import as_json, gib, print_plan
from rlhf_jax.runs.experiment import Experiment

LANES = 128  # shares of the model width in multiples of this are gathered without extra copies
GROWTH = (1, 4, 16)  # factors of the experiment's own number of micro-batches


def meshes(config: Experiment, chips: int, stages: Sequence[str]) -> list[MeshShape]:
    """Meshes to try for these stages. Meshes that send least come first: small tensor, then large
    fsdp. `tensor` divides every model's heads and `fsdp` every model's width; at least one batch
    has a row for each group of chips in each micro-batch."""
    models = _models(config, stages)
    batches = [rows for name in stages for rows in config.stages[name].batches()]
    most = max((rows.count // rows.pieces for rows in batches), default=chips)
    powers = [2**n for n in range(chips.bit_length())]
    found = []
    for tensor in powers:
        if chips % tensor or any(model.key_value_heads % tensor for model in models):
            continue
        rest = chips // tensor
        for fsdp in reversed(powers):
            cuts = fsdp == 1 or all(model.width % (fsdp * LANES) == 0 for model in models)
            if rest % fsdp == 0 and rest <= most and cuts:
                found.append(MeshShape(rest // fsdp, fsdp, tensor))
    return found


def _models(config: Experiment, stages: Sequence[str]) -> list[TransformerConfig]:
    """The shapes of all models that these stages read or produce."""
    found = []
    for name in stages:
        build = build_for(config, name)
        found += [*build.shapes.values(), config.stages[name].shape(build)]
    return found


def candidates(
    config: Experiment, chips: int, stages: Sequence[str]
) -> Iterator[tuple[MeshShape, int, Experiment]]:
    """Each mesh with 1, 4 and 16 times the micro-batches, as far as there are enough rows."""
    for mesh in meshes(config, chips, stages):
        before = None
        for times in GROWTH:
            changed = with_micro_batches(config, times, mesh, stages)
            if changed is not None and changed != before:
                yield mesh, times, changed
            before = changed


def with_micro_batches(
    config: Experiment, times: int, mesh: MeshShape, stages: Sequence[str]
) -> Experiment | None:
    """The experiment on the mesh with `times` as many micro-batches in these stages; None where the
    rows cannot be cut that way."""
    groups = mesh.data * mesh.fsdp
    parallel = dataclasses.replace(config.parallel, fsdp=mesh.fsdp, tensor=mesh.tensor)
    try:
        more = {name: config.stages[name].with_micro_batches(times, groups) for name in stages}
        changed = dataclasses.replace(config.with_stages(**more), parallel=parallel)
    except ConfigError:
        return None
    batches = [rows for stage in more.values() for rows in stage.batches()]
    fit = all(divide(rows.count // rows.pieces, groups) for rows in batches)
    return changed if fit else None


def seconds(plan: Plan) -> float:
    """Seconds of one call of every program: `suggest` looks for the smallest sum."""
    return sum(plan.seconds(p) for p in plan.programs)


def suggest(
    config: Experiment,
    topology: Topology,
    devices: list,
    stages: Sequence[str],
    most: int,
    out: Path | None = None,
    platform: str = "tpu",
) -> int:
    """Prints the fastest plan that fits, and its options; returns 1 where none fits.

    Every mesh is tried with 1, 4 and 16 times the experiment's micro-batches, until it fits.
    """
    best, nearest, fitting, tries = None, None, set(), 0
    for mesh, times, changed in candidates(config, topology.chips, stages):
        if mesh in fitting:
            continue
        if tries == most:
            print(f"stopped after {most} tries: --tries N makes more")
            break
        tries += 1
        plan = make_plan(changed, topology, devices, stages, platform)
        told = "too large" if plan.exit_code else f"fits, {seconds(plan):.3g} s"
        size = gib(plan.largest.total)
        print(f"{mesh}, micro-batches x {times}: {size} GiB, {told}", flush=True)
        if nearest is None or plan.largest.total < nearest.largest.total:
            nearest = plan
        if not plan.exit_code:
            fitting.add(mesh)
            if best is None or seconds(plan) < seconds(best[0]):
                best = (plan, changed)
    if best is None:
        if nearest is not None:
            print_plan(nearest)
        print(f"no mesh of {topology.name} that was tried fits")
        return 1
    plan, changed = best
    print_plan(plan)
    print(f"best: {options(plan, config, changed)}")
    if out is not None:
        write_atomically(out, as_json(plan).encode())
    return 0


def options(plan: Plan, config: Experiment, changed: Experiment) -> str:
    """The command-line options of a plan: its mesh, and the stages' fields that it changes."""
    told = [f"--parallel.fsdp {plan.mesh.fsdp} --parallel.tensor {plan.mesh.tensor}"]
    for name in plan.stages:
        old, new = config.stages[name], changed.stages[name]
        for field in dataclasses.fields(new):
            value = getattr(new, field.name)
            if value != getattr(old, field.name):
                option = f"--{name}.{field.name}".replace("_", "-")
                told.append(f"{option} {value}")
    return " ".join(told)
