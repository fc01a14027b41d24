"""Prints a plan: the table, the compute of the whole run, and whether it fits."""

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from rlhf_jax.plan.compiling import GIB
from rlhf_jax.plan.plan import KERNEL_SHARE, Plan


def gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def as_table(plan: Plan) -> Table:
    chip = plan.topology.chip
    table = Table(
        title=f"{plan.experiment} on {plan.topology.name}: {plan.topology.chips} chips, "
        f"{plan.mesh}; GiB a chip, of {chip.hbm:g}"
    )
    table.add_column("program")
    for name in ("arguments", "temporary", "output", "beside", "total", "FLOPs", "sent",
                 "compute s", "links s", "utilised"):  # fmt: skip
        table.add_column(name, justify="right")
    for p in plan.programs:
        sizes = [gib(x) for x in (p.arguments, p.temporaries, p.outputs, p.beside, p.total)]
        if p in plan.too_large:
            sizes[-1] += " !"
        used = plan.utilisation(p)
        table.add_row(
            f"{p.stage} {p.name}", *sizes, f"{p.flops:.3g}", gib(sum(p.sent.values())),
            f"{plan.compute_seconds(p):.3g}", f"{plan.link_seconds(p):.3g}",
            "-" if used is None else f"{used:.0%}",
        )  # fmt: skip
        for name, part in p.parts.items():
            kernels = plan.kernel_seconds(p) if name == "prefill" else 0.0
            table.add_row(
                f"  of it {name}", "", "", "", "", "", "", gib(sum(part["sent"].values())),
                f"{part['cycles'] / chip.clock + kernels:.3g}",
                f"{sum(part['sent'].values()) / chip.links:.3g}", "",
            )  # fmt: skip
    return table


NOTES = """\
arguments, temporary, output: GiB per chip, as the compiler allocates them; an output that replaces
a donated argument counts once. beside: GiB per chip that other programs of the stage keep in memory
meanwhile. FLOPs: of all chips in one call, matrix products only, recomputation included. sent: GiB
that a chip sends in collectives. compute s: the compiler's cycles at the chip's clock, without
waits, and the time inside kernels. links s: sent at the full speed of the chip's links. utilised:
FLOPs without recomputation over the chips' peak in the longer of the two times. Loops count with
all their iterations."""


def print_plan(plan: Plan, console: Console | None = None) -> None:
    console = console or Console(width=130)
    console.print(as_table(plan))
    console.print(NOTES, style="dim", highlight=False)
    kinds = sorted({kind for p in plan.programs for kind in p.sent})
    for p in plan.programs:
        sent = [f"{kind} {gib(p.sent[kind])}" for kind in kinds if p.sent.get(kind, 0) > 0]
        loops = f"; {p.unknown_loops} loops counted once" if p.unknown_loops else ""
        console.print(
            f"{p.stage} {p.name}: sends GiB {', '.join(sent) or 'nothing'}{loops}; "
            f"compiled in {p.compile_seconds:.0f} s",
            highlight=False,
        )
        if p.kernel_flops:
            console.print(
                f"{p.stage} {p.name}: {plan.kernel_seconds(p):.3g} s of compute inside attention's "
                f"kernels: {p.kernel_flops:.3g} FLOPs, counted from shapes, at {KERNEL_SHARE:.0%} "
                "of the peak, which is assumed",
                highlight=False,
            )
    for stage in plan.stages:
        days, work = plan.days(stage), plan.petaflops_days(stage)
        if work is None:
            console.print(f"{stage}: how many steps depends on the data", highlight=False)
            continue
        took = "" if days is None else f", {days:.2g} days at best"
        console.print(f"{stage}: {work:.3g} petaflop/s-days{took}", highlight=False)
    console.print(verdict(plan), highlight=False)


def verdict(plan: Plan) -> str:
    """One line: that the plan fits, or which programs do not and their largest parts."""
    if not plan.too_large:
        p = plan.largest
        share = p.total / plan.capacity
        return f"fits: at most {gib(p.total)} GiB a chip, {share:.0%} of it ({p.stage} {p.name})"
    lines = []
    for p in plan.too_large:
        parts = {"arguments": p.arguments, "temporary": p.temporaries, "output": p.outputs,
                 "beside": p.beside}  # fmt: skip
        most = sorted(parts.items(), key=lambda pair: -pair[1])[:2]
        told = ", ".join(f"{name} {gib(size)}" for name, size in most)
        lines.append(f"{p.stage} {p.name} needs {gib(p.total)} GiB ({told})")
    return f"does not fit into {plan.topology.chip.hbm:g} GiB a chip: " + "; ".join(lines)


def as_json(plan: Plan) -> str:
    """The figures of the table, and more, as JSON."""
    programs = [
        {
            **dataclasses.asdict(p),
            "total": p.total,
            "compute_seconds": plan.compute_seconds(p),
            "kernel_seconds": plan.kernel_seconds(p),
            "link_seconds": plan.link_seconds(p),
            "utilisation": plan.utilisation(p),
        }
        for p in plan.programs
    ]
    found = {
        "experiment": plan.experiment,
        "topology": dataclasses.asdict(plan.topology),
        "mesh": dataclasses.asdict(plan.mesh),
        "capacity": plan.capacity,
        "fits": plan.exit_code == 0,
        "programs": programs,
        "petaflops_days": {stage: plan.petaflops_days(stage) for stage in plan.stages},
        "days": {stage: plan.days(stage) for stage in plan.stages},
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"
