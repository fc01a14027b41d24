"""Attention: for training, with a gradient of its own, and for decoding, over a KV cache."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rlhf_jax.models.matmul import on_cpu, product

HIDDEN = -1e30  # softmax makes this score 0; unlike -inf it gives no NaN in a fully masked row


class View(NamedTuple):
    """The keys that queries attend to: those of their segment that are not after them, and of these
    the last `window`. The queries are those of the last T of S columns."""

    segments: jax.Array  # [B, S], 0 = padding, documents numbered from 1
    visible: jax.Array  # [B, T, S] bool, the same as a mask
    window: int | None  # None: all

    def last(self, queries: int | None) -> "View":
        """Of the last queries only; None: of all."""
        return self if queries is None else self._replace(visible=self.visible[:, -queries:])


def view_of(segments: jax.Array, window: int | None = None) -> View:
    """What each token of rows [B, T] attends to."""
    same = segments[:, :, None] == segments[:, None, :]
    visible = same & jnp.tri(segments.shape[1], dtype=bool)[None]
    if window is not None:
        visible &= ~jnp.tri(segments.shape[1], k=-window, dtype=bool)[None]
    return View(segments, visible, window)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    view: View,
    dtype: jnp.dtype,
    scale: float,
    softcap: float | None = None,
) -> jax.Array:
    """softmax(scale q k) v over the keys in view: [B, T, KV, G, hd], float32.

    Products take operands in `dtype`.

    Args:
      q: [B, KV, G, T, hd]; G queries share a key.
      k, v: [B, KV, S, hd].
      view: a query without visible keys gives all keys equal weight.
      softcap: c: scores become c tanh(score / c) before the softmax (Gemma 2).
    """
    return _attention(q, k, v, view.visible, dtype, scale, softcap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attention(q, k, v, visible, dtype, scale, softcap):
    """The gradient is FlashAttention's (Dao et al. 2022, appendix B.2), with weights P, result O,
    and D = sum_h dO O, which equals sum_s P dP:

        dV = P' dO    dP = dO V'    dS = P (dP - D)    dQ = scale dS K    dK = scale dS' Q

    With a soft cap c, dS is multiplied by 1 - tanh(score / c)^2.
    """
    return _forward(q, k, v, visible, dtype, scale, softcap)[0]


def cached_attention(
    q: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    visible: jax.Array,
    dtype: jnp.dtype,
    scale: float,
    softcap: float | None = None,
) -> jax.Array:
    """`attention` over the cache of a decode loop: keys [B, KV, hd, S], values [B, KV, S, hd],
    visible [B, T, S].

    Keys and values were rounded to `dtype` when they were written. On CPUs the rounded values are
    stored as float32.
    """
    groups, time = q.shape[2:4]
    # On TPUs XLA makes no matrix product of a single row: that takes twice the cycles of 8 rows.
    pad = 7 if groups * time == 1 and not on_cpu() else 0
    more = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, pad), (0, 0)))
    scores = product("bkgth,bkhs->bkgts", more(_scaled(q, dtype, scale)), keys)[:, :, :, :time]
    weights = more(_weights(_capped(scores, softcap), visible, dtype))
    return product("bkgts,bksh->btkgh", weights, values)[:, :time]


def _scaled(q, dtype, scale):
    return (q * scale).astype(dtype)


def _capped(scores, softcap):
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def _weights(scores, visible, dtype):
    named = lambda x: checkpoint_name(x, "attention scores")
    scores = named(jnp.where(visible[:, None, None], scores, HIDDEN))
    return named(jax.nn.softmax(scores, axis=-1).astype(dtype))


def _forward(q, k, v, visible, dtype, scale, softcap):
    q, k, v = _scaled(q, dtype, scale), k.astype(dtype), v.astype(dtype)
    scores = _capped(product("bkgth,bksh->bkgts", q, k), softcap)
    weights = _weights(scores, visible, dtype)
    out = product("bkgts,bksh->btkgh", weights, v)
    slope = None if softcap is None else (1 - (scores / softcap) ** 2).astype(dtype)
    return out, (q, k, v, weights, out, slope)


def _backward(dtype, scale, softcap, saved, g):
    q, k, v, weights, out, slope = saved
    # Sums over another axis than the last: XLA's CPU backend sums a short last axis number by
    # number.
    mean = (g * out).transpose(0, 2, 3, 4, 1).sum(3)[..., None]
    g = g.astype(dtype)
    dv = product("bkgts,btkgh->bksh", weights, g)
    dweights = product("btkgh,bksh->bkgts", g, v)
    dscores = weights.astype(jnp.float32) * (dweights - mean)
    dscores = (dscores if softcap is None else dscores * slope).astype(dtype)
    dq = product("bkgts,bksh->bkgth", dscores, k) * scale
    dk = product("bkgts,bkgth->bksh", dscores, q)
    return dq, dk, dv, None


_attention.defvjp(_forward, _backward)
