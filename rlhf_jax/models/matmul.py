"""The one matrix product of the model: operands in the compute dtype, sums in float32."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint


@functools.cache
def resolve_dtype(name: str) -> jnp.dtype:
    """Dtype of the operands: "auto" is bfloat16 where the hardware multiplies it faster.

    That is every accelerator, and CPUs with AMX; other CPUs multiply float32 faster.
    """
    if name != "auto":
        return jnp.dtype(name)
    if jax.default_backend() != "cpu":
        return jnp.dtype("bfloat16")
    flags = Path("/proc/cpuinfo")
    amx = flags.exists() and "amx_bf16" in flags.read_text(encoding="utf-8")
    return jnp.dtype("bfloat16" if amx else "float32")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def einsum(spec: str, a: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Product of two arrays: operands cast to `dtype`, result and gradients in float32.

    Every index of an operand stands in the other operand or in the result, as in
    "btd,df->btf". The gradients are products of the same kind, so that the backward pass
    multiplies `dtype` operands too:

        da = einsum("out,b->a", g, b)        db = einsum("a,out->b", a, g)
    """
    return _product(spec, a.astype(dtype), b.astype(dtype))


def _product(spec, a, b):
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _forward(spec, a, b, dtype):
    low_a, low_b = a.astype(dtype), b.astype(dtype)
    return _product(spec, low_a, low_b), (low_a, low_b)


def _backward(spec, dtype, saved, g):
    a, b = saved
    g = g.astype(dtype)
    operands, out = spec.split("->")
    in_a, in_b = operands.split(",")
    da = _product(f"{out},{in_b}->{in_a}", g, b)
    if set(in_b) & set(out) & set(in_a) or dtype == jnp.float32 or jax.default_backend() != "cpu":
        db = _product(f"{in_a},{out}->{in_b}", a, g)
    else:
        db = _weight_gradient(in_a, out, in_b, a, g)
    return da, db


def _weight_gradient(in_a, out, in_b, a, g):
    """einsum("a,out->b") by a transposed copy of the left operand.

    XLA's fast bfloat16 kernel for CPUs takes row-major operands only: without the copy the
    product of a transposed left operand falls back to one several times slower.
    """
    shared = [i for i in in_a if i in out]
    rows = [i for i in in_b if i in in_a]
    columns = [i for i in in_b if i in out]
    sizes = dict(zip(in_a + out, a.shape + g.shape, strict=True))
    size = lambda names: functools.reduce(lambda n, i: n * sizes[i], names, 1)
    left = jnp.einsum(f"{in_a}->{''.join(rows + shared)}", a).reshape(size(rows), size(shared))
    right = jnp.einsum(f"{out}->{''.join(shared + columns)}", g).reshape(size(shared), size(columns))
    left, right = (with_layout_constraint(m, Layout((0, 1))) for m in (left, right))
    product = jnp.dot(left, right, preferred_element_type=jnp.float32)
    product = with_layout_constraint(product, Layout((0, 1)))
    product = product.reshape([sizes[i] for i in rows + columns])
    return jnp.einsum(f"{''.join(rows + columns)}->{in_b}", product)


einsum.defvjp(_forward, _backward)
