"""Tries meshes and micro-batches for an experiment, and says which is best."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import ConfigError
from rlhf_jax.experiment import Experiment
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.plan.chips import Topology
from rlhf_jax.plan.command import make_plan
from rlhf_jax.plan.report import Plan, as_json, gib, print_plan

LANES = 128  # cuts of the model width in multiples of this are gathered without a detour
GROWTH = (1, 4, 16)  # times the micro-batches of the experiment


def meshes(config: Experiment, chips: int) -> list[MeshShape]:
    """Meshes worth a try, those that send least first: little tensor, then much fsdp."""
    found = []
    widths = (config.model.width, config.scorer.width)
    heads = (config.model.key_value_heads, config.scorer.key_value_heads)
    powers = [2**n for n in range(chips.bit_length())]
    rows = config.ppo_ptx.batch_size // config.ppo_ptx.minibatches
    for tensor in powers:
        if chips % tensor or any(h % tensor for h in heads):
            continue
        rest = chips // tensor
        for fsdp in reversed(powers):
            cuts = fsdp == 1 or all(w % (fsdp * LANES) == 0 for w in widths)
            if rest % fsdp == 0 and rest <= rows and cuts:
                found.append(MeshShape(rest // fsdp, fsdp, tensor))
    return found


def candidates(config: Experiment, chips: int) -> Iterator[tuple[MeshShape, int, Experiment]]:
    """Each mesh with 1, 4 and 16 times the micro-batches, as far as there are rows for more."""
    for mesh in meshes(config, chips):
        before = None
        for pieces in GROWTH:
            changed = with_micro_batches(config, pieces, mesh)
            if changed is not None and changed != before:
                yield mesh, pieces, changed
            before = changed


def with_micro_batches(config: Experiment, pieces: int, mesh: MeshShape) -> Experiment | None:
    """The experiment with `pieces` times the micro-batches everywhere; None where rows run out."""
    groups = mesh.data * mesh.fsdp

    def stage(settings):
        more = divisor(settings.batch_size, settings.micro_batches * pieces)
        return dataclasses.replace(settings, micro_batches=more)

    def ppo(settings):
        rows = settings.batch_size // settings.minibatches
        policy = divisor(max(1, rows // groups), settings.micro_batches * pieces)
        text_rows = rows * settings.ptx_ratio
        text = divisor(max(1, text_rows // groups), settings.text_pieces * pieces)
        rollout = divisor(
            max(1, settings.batch_size // groups), settings.rollout_micro_batches * pieces
        )
        return dataclasses.replace(
            settings, micro_batches=policy, ptx_micro_batches=text, rollout_micro_batches=rollout
        )

    try:
        return dataclasses.replace(
            config,
            parallel=dataclasses.replace(config.parallel, fsdp=mesh.fsdp, tensor=mesh.tensor),
            pretrain=stage(config.pretrain),
            sft=stage(config.sft),
            reward=stage(config.reward),
            ppo=ppo(config.ppo),
            ppo_ptx=ppo(config.ppo_ptx),
            dpo=None if config.dpo is None else stage(config.dpo),
        )
    except ConfigError:
        return None


def divisor(rows: int, at_least: int) -> int:
    """The smallest divisor of rows that is at_least so large; rows where none is."""
    return next((n for n in range(at_least, rows) if rows % n == 0), rows)


def seconds(plan: Plan) -> float:
    """Of one call of each program, the measure of what is best."""
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
    """Prints the fastest plan that fits and the options that give it; 1 where none fits.

    Every mesh is tried with as few micro-batches as fit: 1, 4, 16 times the experiment's own.
    """
    best, nearest, fitting, tries = None, None, set(), 0
    for mesh, pieces, changed in candidates(config, topology.chips):
        if mesh in fitting:
            continue
        if tries == most:
            print(f"stopped after {most} tries: --tries N makes more")
            break
        tries += 1
        plan = make_plan(changed, topology, devices, stages, platform)
        told = "too large" if plan.exit_code else f"fits, {seconds(plan):.3g} s"
        size = gib(plan.largest.total)
        print(f"{mesh}, micro-batches x {pieces}: {size} GiB, {told}", flush=True)
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
    print(f"best: {options(plan, changed)}")
    if out is not None:
        write_atomically(out, as_json(plan).encode())
    return 0


def options(plan: Plan, config: Experiment) -> str:
    """The command-line options of a plan."""
    parts = [f"--parallel.fsdp {plan.mesh.fsdp} --parallel.tensor {plan.mesh.tensor}"]
    for stage in plan.stages:
        settings, name = getattr(config, stage), stage.replace("_", "-")
        parts.append(f"--{name}.micro-batches {settings.micro_batches}")
        if stage.startswith("ppo"):
            parts.append(f"--{name}.rollout-micro-batches {settings.rollout_micro_batches}")
            parts.append(f"--{name}.ptx-micro-batches {settings.text_pieces}")
    return " ".join(parts)
