"""FLOPs and array sizes of a program, read from its jaxpr: nothing is run or allocated."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

MOVES = {
    "broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "dynamic_slice", "gather",
    "concatenate", "pad", "rev", "iota", "convert_element_type", "stop_gradient", "copy",
    "dynamic_update_slice", "split",
}  # fmt: skip


def count_flops(
    function: Callable, *arguments: Any, products_only: bool = False, while_turns: int = 1
) -> int:
    """Floating-point operations of one call, recomputation in backward passes included.

    A matrix product counts 2 m n k. Any other operation counts 1 for each number that it writes,
    a reduction 1 for each number that it reads; moving data counts 0. What no result needs is not
    counted, because XLA does not compute it, except in `while` loops. A loop's body counts once an
    iteration (XLA's own count takes it once in all). Of a `cond` the most expensive branch counts.
    A Pallas kernel's body counts once for each step of its grid, although it may skip some.

    Args:
        arguments: arrays or ShapeDtypeStructs.
        products_only: counts matrix products only; in a large model the rest is about 0.1 %.
        while_turns: iterations of every `while` loop, which a jaxpr does not say.
    """
    return _flops(_needed(jax.make_jaxpr(function)(*arguments).jaxpr), products_only, while_turns)


def kernel_flops(jaxpr, while_turns: int = 1) -> int:
    """FLOPs of the matrix products in the Pallas kernels of one call, on all devices of its
    `shard_map`s. XLA does not count them."""
    return _flops(_needed(jaxpr), True, while_turns, in_kernels=True)


def _needed(jaxpr):
    """The jaxpr without equations that no result needs. jax 0.10 drops a Pallas kernel only with
    the `jit` around it, which splash attention has."""
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _flops(jaxpr, products_only: bool, while_turns: int, in_kernels: bool = False) -> int:
    """in_kernels: counts only what is in a kernel."""
    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        outside = in_kernels and name != "pallas_call"
        inner = [
            _flops(j, products_only, while_turns, outside) for j in jaxprs_in_params(eqn.params)
        ]
        if name == "cond":
            total += max(inner)
        elif inner:
            total += _turns(eqn, while_turns) * sum(inner)
        elif in_kernels:
            continue
        elif name == "dot_general":
            total += _product_flops(eqn)
        elif not products_only:
            total += _other_flops(eqn)
    return total


def _turns(eqn, while_turns: int) -> int:
    """How often the body of an equation is computed."""
    name = eqn.primitive.name
    if name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    if name == "shard_map":
        return eqn.params["mesh"].size
    return {"scan": eqn.params.get("length", 1), "while": while_turns}.get(name, 1)


def _product_flops(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(left[axis] for axis in contracted) * math.prod(eqn.outvars[0].aval.shape)


def _other_flops(eqn) -> int:
    name = eqn.primitive.name
    if name.startswith(("reduce_", "arg", "cum", "scatter")):
        return math.prod(eqn.invars[-1 if name.startswith("scatter") else 0].aval.shape)
    return 0 if name in MOVES else sum(math.prod(out.aval.shape) for out in eqn.outvars)


def largest_arrays(function: Callable, *arguments: Any) -> dict[str, int]:
    """Bytes of the largest arrays that one call makes, summed over all devices.

    The keys are the names that models give to arrays (`jax.ad_checkpoint.checkpoint_name`), each
    with the largest array of that name; an array that a scan keeps for the backward pass counts
    for all iterations together. Three more keys:
    "kept activations": the other arrays that a scan keeps of all its iterations.
    "gradients": the outputs of a backward scan over all its iterations: the layers' gradients.
    "loop state": what a `while` loop carries; in a decode loop this is the KV cache.
    """
    found: dict[str, int] = {}
    _find_arrays(jax.make_jaxpr(function)(*arguments).jaxpr, found)
    return found


def _find_arrays(jaxpr, found: dict[str, int]) -> dict[int, str]:
    """Adds to `found`; returns the names of the jaxpr's own arrays, by their variables' ids."""
    names = {}

    def largest(name: str, size: int) -> None:
        found[name] = max(found.get(name, 0), size)

    for eqn in jaxpr.eqns:
        inner = [(j, _find_arrays(j, found)) for j in jaxprs_in_params(eqn.params)]
        if eqn.primitive.name == "name":
            names[id(eqn.outvars[0])] = eqn.params["name"]
            largest(eqn.params["name"], _bytes(eqn.outvars))
        elif eqn.primitive.name == "while":
            largest("loop state", _bytes(eqn.outvars))
        elif eqn.primitive.name == "scan":
            body, named = inner[0]
            other = "gradients" if eqn.params["reverse"] else "kept activations"
            kept: dict[str, int] = {}
            for one_turn, all_turns in zip(body.outvars, eqn.outvars, strict=True):
                if one_turn.aval.shape == all_turns.aval.shape:
                    continue  # carried from turn to turn, not stacked over them
                name = named.get(id(one_turn), other)
                kept[name] = kept.get(name, 0) + _bytes([all_turns])
            for name, size in kept.items():
                largest(name, size)
    return names


def _bytes(variables) -> int:
    known = [v.aval for v in variables if isinstance(v.aval.dtype, np.dtype)]  # keys are small
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in known)
