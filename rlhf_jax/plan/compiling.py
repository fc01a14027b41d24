"""Compiles programs for a topology, and reads sizes and costs from the compiler."""

import contextlib
import dataclasses
import os
import re
import sys
import time

import jax

from rlhf_jax.errors import UserError
from rlhf_jax.jaxprs import count_flops, kernel_flops
from rlhf_jax.models.matmul import compiling_for
from rlhf_jax.parallel.layout import bytes_a_device
from rlhf_jax.parallel.runner import JitRunner
from rlhf_jax.plan import hlo
from rlhf_jax.plan.chips import Topology
from rlhf_jax.plan.programs import Planned
from rlhf_jax.stages.stage import Program

GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program as it would run on each chip. Sizes are bytes per chip.

    fits          false where the compiler ran out of memory: temporaries are then the memory that
                  it needed, minus the arguments
    outputs       without outputs that are written over donated arguments
    arguments     arrays that are several arguments' count once
    beside        further arrays that other programs of the stage keep in memory meanwhile
    flops         of all chips, from the jaxpr, recomputation included
    useful_flops  the same without recomputation
    sent          bytes that a chip sends, by kind of collective
    cycles        the compiler's estimate, without waits for collectives and without kernels
    kernel_flops  of all chips, inside Pallas kernels, which the compiler does not see
    """

    stage: str
    name: str
    fits: bool
    arguments: float
    temporaries: float
    outputs: float
    beside: float
    flops: float
    useful_flops: float
    sent: dict[str, float]
    cycles: float
    unknown_loops: int
    compile_seconds: float
    runs: int | None
    parts: dict[str, dict]  # of a rollout: prefill and decode; else empty
    kernel_flops: float = 0.0

    @property
    def total(self) -> float:
        return self.arguments + self.temporaries + self.outputs + self.beside


def topology_devices(topology: Topology) -> list:
    """The chips of a topology as the TPU compiler describes them; they need not exist.

    Raises UserError where libtpu is not installed or does not know the topology.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask the network for a TPU
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is used: no lock is needed
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            "plan needs the TPU compiler, which is not installed here: pip install 'rlhf-jax[tpu]'"
        ) from None
    from jax.experimental import topologies

    try:
        with _quiet():
            # Both cores of a v4 chip as one device, as jax runs it; other chips need no option.
            more = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
            found = topologies.get_topology_desc(topology.name, platform="tpu", **more)
            return list(found.devices)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"topology {topology.name!r}: libtpu does not know it: {reason}") from None


@contextlib.contextmanager
def _quiet():
    """Hides libtpu's message on standard error that it finds no TPU."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def compile_program(
    planned: Planned,
    runner: JitRunner,
    without_remat: Program,
    platform: str = "tpu",
    known: dict[str, dict] | None = None,
) -> Compiled:
    """Compiles one program as the runner compiles it, for the devices of its mesh.

    without_remat: the same program without recomputation, for its useful FLOPs.
    known: results by the program's text, to compile equal programs once: PPO and PPO-ptx sample
        with the same program.
    """
    known, program = {} if known is None else known, planned.program
    count = lambda p: count_flops(p.function, *p.arguments, products_only=True, while_turns=p.turns)
    with compiling_for(platform):
        flops, useful = count(program), count(without_remat)
        traced = program.trace(runner)
        in_kernels, lowered = kernel_flops(traced.jaxpr.jaxpr, program.turns), traced.lower()
        text = lowered.as_text()
        if text not in known:
            arguments = bytes_a_device(program.placed(runner))
            known[text] = _compile(program, lowered, arguments)
    beside, shared = (bytes_a_device(runner.layout(x)) for x in (program.beside, program.shared))
    found = dict(known[text])
    found["arguments"] -= max(0, shared - beside)
    return Compiled(
        **found, stage=planned.stage, name=planned.name, runs=planned.runs, flops=flops,
        useful_flops=useful, beside=max(0, beside - shared), kernel_flops=in_kernels,
    )  # fmt: skip


def _compile(program: Program, lowered, arguments: float) -> dict:
    """The fields of `Compiled` that the compiler gives. arguments: bytes per chip."""
    started = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = _wanted_bytes(str(error))
        if wanted is None:
            raise
        return {
            "fits": False, "arguments": arguments, "temporaries": max(0.0, wanted - arguments),
            "outputs": 0.0, "sent": {}, "cycles": 0.0, "unknown_loops": 0,
            "compile_seconds": time.monotonic() - started, "parts": {},
        }  # fmt: skip
    seconds = time.monotonic() - started
    memory, parsed = compiled.memory_analysis(), hlo.parse(compiled.as_text())
    cost = parsed.cost()
    return {
        "fits": True,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        "outputs": max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        "sent": dict(cost.collectives),
        "cycles": cost.cycles,
        "unknown_loops": cost.unknown,
        "compile_seconds": seconds,
        "parts": _parts(parsed, cost, program),
    }


def _parts(parsed: hlo.Module, whole: hlo.Cost, program: Program) -> dict[str, dict]:
    """A rollout's two parts: decode is the loop with the most iterations, prefill is the rest."""
    if program.turns == 1:
        return {}
    loop, turns, times = max(parsed.loops(), key=lambda found: found[1] or 0)
    decode, prefill = hlo.Cost(hlo.Counter()), hlo.Cost(hlo.Counter())
    decode.add(parsed.cost_of(hlo.called(loop, "body")), times * (turns or program.turns))
    prefill.add(whole)
    prefill.add(decode, -1)
    return {
        name: {"cycles": cost.cycles, "sent": dict(+cost.collectives)}
        for name, cost in (("prefill", prefill), ("decode", decode))
    }


def _wanted_bytes(message: str) -> float | None:
    """The bytes that a program needed, from XLA's error: "Used 23.71G of 15.75G hbm", or "the total
    memory required for HLO temporaries (298.12G) exceeds available HBM (30.75G)". None: another
    error."""
    size = r"([\d.]+)([KMGT]?)"
    used = re.search(rf"[Uu]sed {size} of {size} hbm", message)
    found = used or re.search(rf"required for .*\({size}\) exceeds available HBM", message)
    return float(found[1]) * UNITS[found[2]] if found else None
