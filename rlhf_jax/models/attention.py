"""Attention of queries to keys and values: for training with its own gradient, and of a cache."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rlhf_jax.models.matmul import on_cpu, product

HIDDEN = -1e30  # a score that softmax turns into 0 without making a NaN of a fully masked row


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """softmax(q k / sqrt(hd)) v over the keys that are visible: [B, T, KV, G, hd], float32.

    Products take operands in `dtype`. The gradient is FlashAttention's (Dao et al. 2022, appendix
    B.2), with weights P, result O and D = sum_h dO O in the place of sum_s P dP:

        dV = P' dO    dP = dO V'    dS = P (dP - D)    dQ = dS K / sqrt(hd)    dK = dS' Q / sqrt(hd)

    Args:
      q: [B, KV, G, T, hd]; G queries share a key.
      k, v: [B, KV, S, hd].
      visible: [B, T, S] bool. A query that sees nothing weighs all keys alike.
    """
    return _forward(q, k, v, visible, dtype)[0]


def cached_attention(
    q: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """`attention` to the cache of a decode loop: keys [B, KV, hd, S], values [B, KV, S, hd].

    The cache holds numbers of `dtype`, on CPUs in float32: rounded once, when they are written.
    """
    groups, time = q.shape[2:4]
    # Of one row alone XLA makes no matrix product for TPUs: twice the cycles of eight rows.
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
    # XLA's CPU backend sums over a short last axis one number at a time: let it be another one.
    mean = (g * out).transpose(0, 2, 3, 4, 1).sum(3)[..., None]
    g = g.astype(dtype)
    dv = product("bkgts,btkgh->bksh", weights, g)
    dweights = product("btkgh,bksh->bkgts", g, v)
    dscores = (weights.astype(jnp.float32) * (dweights - mean)).astype(dtype)
    dq = product("bkgts,bksh->bkgth", dscores, k) * q.shape[-1] ** -0.5
    dk = product("bkgts,bkgth->bksh", dscores, q)
    return dq, dk, dv, None


attention.defvjp(_forward, _backward)
