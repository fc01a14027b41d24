"""The one matrix product of the model: operands in the compute dtype, sums in float32."""

import contextlib
import contextvars
import dataclasses
import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from rlhf_jax.models.placement import place

BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # flags of CPUs, as Linux names them

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compiling_for(platform: str):
    """Programs traced inside are compiled for this platform instead of this process's own."""
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


def on_cpu() -> bool:
    """Whether the program that is being traced is for a CPU."""
    return (_target.get() or jax.default_backend()) == "cpu"


def on_gpu() -> bool:
    """Whether the program that is being traced is for an NVIDIA GPU."""
    return (_target.get() or jax.default_backend()) in ("gpu", "cuda")


def on_tpu() -> bool:
    """Whether the program that is being traced is for a TPU."""
    return (_target.get() or jax.default_backend()) == "tpu"


def resolve_dtype(name: str) -> jnp.dtype:
    """Dtype of the operands. "auto" is bfloat16 where the hardware multiplies it faster: on every
    accelerator and on CPUs with instructions for it. On other CPUs it is float32.
    """
    if name != "auto":
        return jnp.dtype(name)
    return jnp.dtype("float32" if on_cpu() and not _multiplies_bfloat16() else "bfloat16")


def result_dtype(name: str) -> jnp.dtype:
    """Dtype of the results of a layer's products with weights; their sums are float32. On
    accelerators it is the operands' dtype: bfloat16 halves the memory traffic."""
    return jnp.dtype("float32") if on_cpu() else resolve_dtype(name)


def cache_dtype(name: str) -> jnp.dtype:
    """Dtype of the KV cache: the operands' dtype, so that products are the same as without a cache.
    On CPUs it is float32, because conversions make their decode loop slower."""
    return jnp.dtype("float32") if on_cpu() else resolve_dtype(name)


@functools.cache
def _multiplies_bfloat16(about: Path = Path("/proc/cpuinfo")) -> bool:
    return about.exists() and not BFLOAT16.isdisjoint(about.read_text(encoding="utf-8").split())


@dataclasses.dataclass(frozen=True)
class WeightProduct:
    """A product of activations [B, T, ...] with weights, and the logical axes of its operands,
    result and gradients (models/placement.py).

    spec  as in einsum; every index of an operand is also in the other operand or in the result
    """

    spec: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    input_gradient: tuple[str, ...]
    output_gradient: tuple[str, ...]


def einsum(of: WeightProduct, a: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The product of a with weights b: operands cast to `dtype`, sums and the gradient of b in
    float32, result and the gradient of a in the dtype of a.

    The gradients are products of the same kind: the backward pass multiplies `dtype` operands too:

        da = einsum("out,b->a", g, b)        db = einsum("a,out->b", a, g)
    """
    return _einsum(of, a, b, dtype, a.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def _einsum(of, a, b, dtype, result):
    return _forward(of, a, b, dtype, result)[0]


def product(spec: str, a: jax.Array, b: jax.Array, result=jnp.float32) -> jax.Array:
    """The product with b cast to the dtype of a, summed in float32, then rounded to `result`. The
    compiler chooses where its arrays lie."""
    if a.dtype == jnp.bfloat16 and on_cpu():
        return _row_major_product(spec, a, b).astype(result)
    return jnp.einsum(spec, a, b.astype(a.dtype), preferred_element_type=result)


def _row_major_product(spec, a, b):
    """The product with its operands and its result copied into row-major order.

    XLA's fast bfloat16 kernel for CPUs needs this order. With a transposed operand the product
    falls back to a kernel that is several times slower; a transposed result is not implemented.
    """
    operands, out = spec.split("->")
    in_a, in_b = operands.split(",")
    batch = [i for i in in_a if i in in_b and i in out]
    rows = [i for i in in_a if i not in in_b]
    shared = [i for i in in_a if i in in_b and i not in out]
    columns = [i for i in in_b if i not in in_a]
    sizes = dict(zip(in_a + in_b, a.shape + b.shape, strict=True))
    if batch and math.prod(sizes[i] for i in rows) == 1:  # vectors: there is no such kernel
        return jnp.einsum(spec, a.astype(jnp.float32), b.astype(jnp.float32))
    b = b.astype(a.dtype)
    shape = lambda *groups: (
        [sizes[i] for i in batch] + [math.prod(sizes[i] for i in group) for group in groups]
    )
    order = lambda *groups: "".join(batch + [i for group in groups for i in group])
    left = jnp.einsum(f"{in_a}->{order(rows, shared)}", a).reshape(shape(rows, shared))
    right = jnp.einsum(f"{in_b}->{order(shared, columns)}", b).reshape(shape(shared, columns))
    result = jnp.matmul(_row_major(left), _row_major(right), preferred_element_type=jnp.float32)
    result = _row_major(result).reshape([sizes[i] for i in order(rows, columns)])
    return jnp.einsum(f"{order(rows, columns)}->{out}", result)


def transposed(matrix: jax.Array) -> jax.Array:
    """[V, D] -> [D, V], transposed in memory too: done once for all products that read it."""
    return _row_major(matrix.T)


def _row_major(x):
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _forward(of, a, b, dtype, result):
    low_a, low_b = place(a.astype(dtype), of.inputs), b.astype(dtype)
    if a.shape[1] > 1:  # with one token per row the activations are moved: weights are larger
        low_b = place(low_b, of.weights, "gathered")
    return place(product(of.spec, low_a, low_b, result), of.outputs), (low_a, low_b)


def _backward(of, dtype, result, saved, g):
    g = place(g.astype(dtype), of.output_gradient)
    da, db = _gradients(of.spec, saved, g, result)
    return place(da, of.input_gradient), place(db, of.weights, "kept")


def _gradients(spec, saved, g, result):
    a, b = saved
    operands, out = spec.split("->")
    in_a, in_b = operands.split(",")
    da = product(f"{out},{in_b}->{in_a}", g, b, result)
    # This product transposes its left operand, so the smaller operand goes there. On CPUs a
    # transpose right after an activation function takes longer than the product.
    if a.size <= g.size:
        return da, product(f"{in_a},{out}->{in_b}", a, g)
    natural = "".join(
        [i for i in out if i in in_a and i in in_b]
        + [i for i in out if i not in in_a]
        + [i for i in in_a if i not in out]
    )
    db = jnp.einsum(f"{natural}->{in_b}", product(f"{out},{in_a}->{natural}", g, a))
    # A copy of its own: transposing while layers are stacked takes twice the time on CPUs.
    return da, _row_major(db) if db.ndim == 2 and on_cpu() and a.dtype == jnp.bfloat16 else db


_einsum.defvjp(_forward, _backward)
