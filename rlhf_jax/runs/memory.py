"""Explains an out-of-memory error: the largest parts of a device's memory, and the config fields
that would make them smaller."""

import contextlib
import re
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
from jax.tree_util import DictKey, GetAttrKey, tree_flatten_with_path

from rlhf_jax.errors import UserError
from rlhf_jax.jaxprs import largest_arrays
from rlhf_jax.parallel.layout import bytes_a_device
from rlhf_jax.parallel.runner import Runner
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.stages.stage import MANY_STEPS, Build, Program
from rlhf_jax.training import optimizer

GIB = 2**30
SHOWN = 8  # the number of largest parts in the message
MADE = {"loop state": "KV cache"}  # other names for kinds of jaxprs.largest_arrays


class Part(NamedTuple):
    """A part of a device's memory."""

    size: int  # bytes
    of: tuple[str, ...] = ()  # the fields of the state that it contains
    program: str | None = None  # the program that makes it; None: it is there before programs run


@contextlib.contextmanager
def explained(config: Experiment, build: Build, runner: Runner) -> Iterator[None]:
    """Turns an out-of-memory error of this block into a UserError that explains it.

    build: of the stage that runs in the block. The original error is the cause; its frames are
    cleared, because the arrays that they hold would stay on the device.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_out_of_memory(str(error)):
            raise
        _clear_frames(error)
        print(f"{build.name}: out of memory; counting what a device holds", flush=True)
        parts = parts_of(config.stages[build.name].programs(build, MANY_STEPS), runner)
        largest = sorted(parts.items(), key=lambda pair: -pair[1].size)[:SHOWN]
        told = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise UserError(
            f"{build.name}: a device's memory{_capacity()} is full: {told}\n"
            f"GiB that a device holds, about: {', '.join(_shown(*part) for part in largest)}\n"
            f"Less memory is needed with {'; '.join(remedies(config, build.name, runner))}"
        ) from error


def _clear_frames(error: BaseException | None) -> None:
    """Clears the finished frames of an error and of its causes."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _capacity() -> str:
    """The memory of this process's first device, in words; "" if the device does not say."""
    found = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return f" of {found / GIB:.1f} GiB" if found else ""


def is_out_of_memory(message: str) -> bool:
    """Whether this error of XLA means that a device's main memory is too small, when XLA compiles a
    program for a TPU or allocates memory to run one."""
    if re.search(r"memory space (?!hbm)\w+", message):  # a kernel is too large for its core
        return False
    out = re.search(r"out of memory", message, re.IGNORECASE)
    return bool(out or re.search(r"RESOURCE_EXHAUSTED.* to (allocate|reserve)", message))


def parts_of(programs: Mapping[str, Program], runner: Runner) -> dict[str, Part]:
    """The parts of a device's memory by kind, each with its size in the program that needs most.

    Kinds: "parameters" (of all models, moving averages included), "optimizer", "batch", and the
    kinds of `jaxprs.largest_arrays` for arrays that programs make."""
    found: dict[str, Part] = {}
    for name, program in programs.items():
        parts = _held(program, runner)
        for kind, size in largest_arrays(program.function, *program.arguments).items():
            parts[MADE.get(kind, kind)] = Part(size // _devices(kind, runner), (), name)
        for kind, part in parts.items():
            if part.size >= found.get(kind, Part(0)).size:
                found[kind] = part
    return found


def _devices(kind: str, runner: Runner) -> int:
    """The number of devices over which arrays of this kind are cut, if they divide. Gradients are
    cut like parameters, over two axes of the mesh; other arrays over all devices."""
    mesh = runner.layout.mesh
    return mesh.shape["fsdp"] * mesh.shape["tensor"] if kind == "gradients" else mesh.size


def _held(program: Program, runner: Runner) -> dict[str, Part]:
    """The parts of memory for a program's arguments and for what is in memory beside them."""
    trees = [
        (number in program.rows, tree) for number, tree in enumerate(program.placed(runner))
    ] + [(False, tree) for tree in runner.layout(program.beside)]
    sizes, fields = Counter(), {}
    for rows, tree in trees:
        for path, leaf in tree_flatten_with_path(tree, is_leaf=optimizer.is_state)[0]:
            if optimizer.is_state(leaf):
                kind = "optimizer"
            else:  # parameters are in dicts, by name
                named = any(isinstance(key, DictKey) for key in path)
                kind = "parameters" if named and not rows else "batch"
            sizes[kind] += bytes_a_device(leaf)
            if kind != "batch" and path and isinstance(path[0], GetAttrKey):
                fields.setdefault(kind, {})[path[0].name] = None
    sizes["parameters"] -= bytes_a_device(runner.layout(program.shared))
    return {kind: Part(size, tuple(fields.get(kind, ()))) for kind, size in (+sizes).items()}


def _shown(kind: str, part: Part) -> str:
    about = part.of if part.program is None else (part.program,)
    return f"{kind} {part.size / GIB:.3g}" + (f" ({', '.join(about)})" if about else "")


def remedies(config: Experiment, name: str, runner: Runner) -> list[str]:
    """Config fields, with their values, whose change would make a stage need less memory."""
    stage, model, parallel = config.stages[name], config.model, config.parallel
    ways: dict[str, list[str]] = {"more": [], "less": []}
    for field, way in stage.memory_fields().items():
        ways[way].append(f"{name}.{field} = {vars(stage)[field]!r}")
    cut, devices = parallel.fsdp * parallel.tensor, runner.layout.mesh.size
    found = []
    if parallel.runner == "pmap" and devices > 1:
        found.append("parallel.runner = 'jit' instead of 'pmap', where each device holds all")
    elif cut < devices:
        ways["more"].append(f"parallel.fsdp = {parallel.fsdp}, of {devices} devices")
    chunk = "None, all tokens" if model.logit_chunk is None else model.logit_chunk
    ways["less"].append(f"model.logit_chunk = {chunk}")
    if model.remat != "full":
        found.append(f"model.remat = 'full' instead of {model.remat!r}")
    return [*(f"{way} of {', '.join(f)}" for way, f in ways.items() if f), *found]
