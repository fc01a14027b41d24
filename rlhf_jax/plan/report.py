"""What a plan found: the table, the whole run's compute, and whether it fits."""

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.plan.chips import Topology
from rlhf_jax.plan.compiling import GIB, Compiled
from rlhf_jax.plan.flops import PETAFLOPS_DAY

PAPER = {"sft": 4.9, "ppo_ptx": 60.0}  # petaflop/s-days, 175B (Ouyang et al. 2022, section 5.1)
WHOSE = {"sft": "the paper's 175B baseline of 16 epochs", "ppo_ptx": "the paper's 175B"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """All programs of an experiment on one mesh of one topology."""

    experiment: str
    topology: Topology
    mesh: MeshShape
    programs: tuple[Compiled, ...]

    @property
    def capacity(self) -> float:
        return self.topology.chip.hbm * GIB

    @property
    def largest(self) -> Compiled:
        return max(self.programs, key=lambda program: program.total)

    @property
    def too_large(self) -> list[Compiled]:
        return [p for p in self.programs if not p.fits or p.total > self.capacity]

    @property
    def exit_code(self) -> int:
        return 1 if self.too_large else 0

    def compute_seconds(self, program: Compiled) -> float:
        """The compiler's cycles at the chip's clock."""
        return program.cycles / self.topology.chip.clock

    def link_seconds(self, program: Compiled) -> float:
        """The least that the chip's links need for what it sends."""
        return sum(program.sent.values()) / self.topology.chip.links

    def seconds(self, program: Compiled) -> float:
        """Of one call, where links work beside the rest."""
        return max(self.compute_seconds(program), self.link_seconds(program))

    def utilisation(self, program: Compiled) -> float | None:
        """Of the chips' peak, recomputation not counted as work; None without an estimate."""
        seconds = self.seconds(program)
        peak = self.topology.chip.peak * self.topology.chips
        return program.useful_flops / seconds / peak if seconds else None

    def petaflops_days(self, stage: str) -> float | None:
        """Of all calls of a stage, recomputation left out; None where their number is not known."""
        programs = [p for p in self.programs if p.stage == stage]
        if not programs or any(p.runs is None for p in programs):
            return None
        return sum(p.useful_flops * p.runs for p in programs) / PETAFLOPS_DAY

    def days(self, stage: str) -> float | None:
        programs = [p for p in self.programs if p.stage == stage]
        if not programs or any(p.runs is None or not p.fits for p in programs):
            return None
        return sum(self.seconds(p) * p.runs for p in programs) / 86400

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(p.stage for p in self.programs))


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
            table.add_row(
                f"  of it {name}", "", "", "", "", "", "", gib(sum(part["sent"].values())),
                f"{part['cycles'] / chip.clock:.3g}",
                f"{sum(part['sent'].values()) / chip.links:.3g}", "",
            )  # fmt: skip
    return table


NOTES = """\
arguments, temporary, output: as the compiler allots them, what is written over a donated argument
counted once. beside: what other programs of the stage keep in memory meanwhile. FLOPs: products of
matrices of all chips in one call, counted in the jaxpr, loops multiplied, recomputation included.
sent: by collectives, GiB a chip, loops multiplied. compute s: the compiler's cycles, loops
multiplied, waits left out. links s: what is sent over the chip's links at full speed. utilised: of
the peak, recomputation not counted, if both overlap."""


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
    for stage in plan.stages:
        days, work = plan.days(stage), plan.petaflops_days(stage)
        if work is None:
            console.print(f"{stage}: how many steps depends on the data", highlight=False)
            continue
        paper = f"; {WHOSE[stage]}: {PAPER[stage]:g}" if stage in PAPER else ""
        took = "" if days is None else f", {days:.2g} days at best"
        console.print(f"{stage}: {work:.3g} petaflop/s-days{paper}{took}", highlight=False)
    console.print(verdict(plan), highlight=False)


def verdict(plan: Plan) -> str:
    """One line: that it fits, or what does not and its largest consumers."""
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
    """Everything of the table, and more, as JSON."""
    programs = [
        {
            **dataclasses.asdict(p),
            "total": p.total,
            "compute_seconds": plan.compute_seconds(p),
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
        "paper_petaflops_days": PAPER,
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"
