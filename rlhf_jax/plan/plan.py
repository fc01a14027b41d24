"""The plan: all programs of an experiment, compiled for a topology."""

import dataclasses
import sys
from collections.abc import Sequence

from rlhf_jax.parallel.layout import MeshShape, layout_of
from rlhf_jax.parallel.runner import JitRunner, mesh_shape
from rlhf_jax.plan.chips import Topology
from rlhf_jax.plan.compiling import GIB, Compiled, compile_program
from rlhf_jax.plan.programs import programs_of
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.run import check_rows

PETAFLOPS_DAY = 1e15 * 86400
KERNEL_SHARE = 0.4  # of the peak, at which kernels are assumed to compute


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

    def kernel_seconds(self, program: Compiled) -> float:
        """Seconds of one call inside Pallas kernels, at `KERNEL_SHARE` of the peak."""
        peak = self.topology.chip.peak * self.topology.chips
        return program.kernel_flops / (KERNEL_SHARE * peak)

    def compute_seconds(self, program: Compiled) -> float:
        """Seconds of one call: the compiler's cycles at the chip's clock, and `kernel_seconds`."""
        return program.cycles / self.topology.chip.clock + self.kernel_seconds(program)

    def link_seconds(self, program: Compiled) -> float:
        """Seconds that the chip's links need at full speed for the bytes that it sends."""
        return sum(program.sent.values()) / self.topology.chip.links

    def seconds(self, program: Compiled) -> float:
        """Seconds of one call, if sending overlaps completely with computing."""
        return max(self.compute_seconds(program), self.link_seconds(program))

    def utilisation(self, program: Compiled) -> float | None:
        """Useful FLOPs as a fraction of what the chips could do in `seconds`; None without an
        estimate of the seconds."""
        seconds = self.seconds(program)
        peak = self.topology.chip.peak * self.topology.chips
        return program.useful_flops / seconds / peak if seconds else None

    def petaflops_days(self, stage: str) -> float | None:
        """Petaflop/s-days of all calls of a stage, without recomputation; None where the number of
        calls is not known."""
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


def make_plan(
    config: Experiment,
    topology: Topology,
    devices: list,
    stages: Sequence[str],
    platform: str = "tpu",
) -> Plan:
    """Compiles every program of the stages for the devices; prints its name on standard error.

    Raises ConfigError where the mesh or a batch does not fit the devices, as in a run.
    """
    mesh = mesh_shape(config.parallel, topology.chips)
    runner = JitRunner(layout_of(devices, mesh))
    for stage in stages:
        check_rows(runner, config.stages[stage], stage)
    compiled, known = [], {}
    plain = programs_of(config, stages, recomputed=False)
    for planned, useful in zip(programs_of(config, stages), plain, strict=True):
        print(f"compiling {planned.stage} {planned.name}", file=sys.stderr, flush=True)
        compiled.append(compile_program(planned, runner, useful.program, platform, known))
    return Plan(config.name, topology, mesh, tuple(compiled))
