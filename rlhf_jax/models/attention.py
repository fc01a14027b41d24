"""Attention: for training, with a gradient of its own, and for decoding, over a KV cache."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rlhf_jax.models.matmul import on_cpu, product

HIDDEN = -1e30  # softmax makes this score 0; unlike -inf it gives no NaN in a fully masked row


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """softmax(q k / sqrt(hd)) v over the keys that are visible: [B, T, KV, G, hd], float32.

    Products take operands in `dtype`. The gradient is FlashAttention's (Dao et al. 2022, appendix
    B.2), with weights P, result O, and D = sum_h dO O, which equals sum_s P dP:

        dV = P' dO    dP = dO V'    dS = P (dP - D)    dQ = dS K / sqrt(hd)    dK = dS' Q / sqrt(hd)

    Args:
      q: [B, KV, G, T, hd]; G queries share a key.
      k, v: [B, KV, S, hd].
      visible: [B, T, S] bool. A query without visible keys gives all keys equal weight.
    """
    return _forward(q, k, v, visible, dtype)[0]


def cached_attention(
    q: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """`attention` over the cache of a decode loop: keys [B, KV, hd, S], values [B, KV, S, hd].

    Keys and values were rounded to `dtype` when they were written. On CPUs the rounded values are
    stored as float32.
    """
    groups, time = q.shape[2:4]
    # On TPUs XLA makes no matrix product of a single row: that takes twice the cycles of 8 rows.
    pad = 7 if groups * time == 1 and not on_cpu() else 0
    more = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, pad), (0, 0)))
    scores = product("bkgth,bkhs->bkgts", more(_scaled(q, dtype)), keys)[:, :, :, :time]
    weights = more(_weights(scores, visible, dtype))
    return product("bkgts,bksh->btkgh", weights, values)[:, :time]


def _scaled(q, dtype):
    return (q * q.shape[-1] ** -0.5).astype(dtype)


def _weights(scores, visible, dtype):
    named = lambda x: checkpoint_name(x, "attention scores")
    scores = named(jnp.where(visible[:, None, None], scores, HIDDEN))
    return named(jax.nn.softmax(scores, axis=-1).astype(dtype))


def _forward(q, k, v, visible, dtype):
    q, k, v = _scaled(q, dtype), k.astype(dtype), v.astype(dtype)
    weights = _weights(product("bkgth,bksh->bkgts", q, k), visible, dtype)
    out = product("bkgts,bksh->btkgh", weights, v)
    return out, (q, k, v, weights, out)


def _backward(dtype, saved, g):
    q, k, v, weights, out = saved
    # Sums over another axis than the last: XLA's CPU backend sums a short last axis number by
    # number.
    mean = (g * out).transpose(0, 2, 3, 4, 1).sum(3)[..., None]
    g = g.astype(dtype)
    dv = product("bkgts,btkgh->bksh", weights, g)
    dweights = product("btkgh,bksh->bkgts", g, v)
    dscores = (weights.astype(jnp.float32) * (dweights - mean)).astype(dtype)
    dq = product("bkgts,bksh->bkgth", dscores, k) * q.shape[-1] ** -0.5
    dk = product("bkgts,bkgth->bksh", dscores, q)
    return dq, dk, dv, None


attention.defvjp(_forward, _backward)
