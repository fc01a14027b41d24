"""Attention: two products with a gradient of their own, over a KV cache too, or a fused kernel.

A kernel never holds the scores [B, heads, T, T]. On TPUs it is that of models/splash.py, where the
config asks for it. On NVIDIA GPUs it is cuDNN's, through jax.nn.dot_product_attention; on CPUs that
function multiplies twice, which serves as a check. cuDNN's has no segments: a row holds one
segment, with padding on its right, so that no token of the segment sees padding.
"""

import functools
import math
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rlhf_jax.models import splash
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.matmul import on_cpu, on_gpu, on_tpu, product, resolve_dtype
from rlhf_jax.models.placement import on_parts, placed

# cuDNN trains at even lengths only; other lengths are padded to a multiple of this.
STEP = 64
HIDDEN = -1e30  # softmax makes this score 0; unlike -inf it gives no NaN in a fully masked row


class View(NamedTuple):
    """The keys that queries attend to: those of their segment that are not after them, and of these
    the last `window`. The queries are those of the last T of S columns."""

    # [B, S], 0 = padding, documents numbered from 1; None: only the mask says it.
    segments: jax.Array | None
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
    """softmax(scale q k) v over the keys in view: [B, T, KV, G, hd], in the dtype of q.

    Products take operands in `dtype`.

    Args:
      q: [B, KV, G, T, hd]; G queries share a key.
      k, v: [B, KV, S, hd].
      view: a query without visible keys gives all keys equal weight.
      softcap: c: scores become c tanh(score / c) before the softmax (Gemma 2).
    """
    return _attention(q, k, v, view.visible, dtype, scale, softcap)


QUERIES = ("rows", "heads", "groups", "time", "head_width")
KEYS = ("rows", "heads", "time", "head_width")


def by_segments(
    config: TransformerConfig, q: jax.Array, k: jax.Array, v: jax.Array, view: View
) -> jax.Array | None:
    """`attention` of whole rows by the kernel of TPUs; None where it is not to be taken: stderr may
    say why."""
    time, dtype = q.shape[3], resolve_dtype(config.compute_dtype)
    short = time < splash.BLOCKS[-1]
    if config.attention != "fused" or not on_tpu() or view.segments is None or short:
        return None
    found, reason = None, splash.refused(time, dtype)
    if reason is None:
        function = functools.partial(
            splash.splash_attention, dtype=dtype, scale=config.score_scale,
            softcap=config.attention_softcap, window=view.window,
        )  # fmt: skip
        axes = (QUERIES, KEYS, KEYS, ("rows", "time"))
        result = ("rows", "time", "heads", "groups", "head_width")
        found = on_parts(function, (q, k, v, view.segments), axes, result)
        reason = "a row or a head is cut over devices"
    if found is None:
        _say(f"attention: two products instead of the kernel: {reason}")
    return found


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
    return (q.astype(jnp.float32) * scale).astype(dtype)


def _capped(scores, softcap):
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def _weights(scores, visible, dtype):
    named = lambda x: checkpoint_name(x, "attention scores")
    scores = named(jnp.where(visible[:, None, None], scores, HIDDEN))
    return named(jax.nn.softmax(scores, axis=-1).astype(dtype))


def _forward(q, k, v, visible, dtype, scale, softcap):
    given = q.dtype
    q, k, v = _scaled(q, dtype, scale), k.astype(dtype), v.astype(dtype)
    scores = _capped(product("bkgth,bksh->bkgts", q, k), softcap)
    weights = _weights(scores, visible, dtype)
    out = product("bkgts,bksh->btkgh", weights, v)
    slope = None if softcap is None else (1 - (scores / softcap) ** 2).astype(dtype)
    return out.astype(given), (q, k, v, weights, out, slope)


def _backward(dtype, scale, softcap, saved, g):
    q, k, v, weights, out, slope = saved
    mean = _sums(g * out)[..., None]
    given, g = g.dtype, g.astype(dtype)
    dv = product("bkgts,btkgh->bksh", weights, g)
    dweights = product("btkgh,bksh->bkgts", g, v)
    dscores = weights.astype(jnp.float32) * (dweights - mean)
    dscores = (dscores if softcap is None else dscores * slope).astype(dtype)
    dq = product("bkgts,bksh->bkgth", dscores, k) * scale
    dk = product("bkgts,bkgth->bksh", dscores, q)
    return *(x.astype(given) for x in (dq, dk, dv)), None


def _sums(x):
    """x [B, T, KV, G, hd] summed over hd: [B, KV, G, T]. On CPUs blocks of 16 numbers are summed
    first, because XLA sums a last axis number by number there."""
    if not on_cpu():
        return x.transpose(0, 2, 3, 4, 1).sum(3)
    blocks = x.reshape(*x.shape[:-1], -1, math.gcd(x.shape[-1], 16))
    return blocks.sum(-2).sum(-1).transpose(0, 2, 3, 1)


_attention.defvjp(_forward, _backward)


def fused(config: TransformerConfig, time: int) -> bool:
    """Whether rows [B, time] of one segment each take the kernel; if not, stderr may say why."""
    asked = config.attention == "fused" and not on_tpu()  # there it is `by_segments`
    if config.attention == "product" or not (on_gpu() or asked):
        return False
    reason = refused(config, time)
    if reason:
        _say(f"attention: two products instead of the fused kernel: {reason}")
    return not reason


def refused(config: TransformerConfig, time: int) -> str | None:
    """Why the kernel does not compute this model's attention over `time` tokens; None: it does."""
    if config.attention_softcap is not None:
        return "it has no soft cap"
    if config.window is not None:
        return "it has no window"
    if placed() and config.attention == "auto":
        return "arrays are cut over a mesh"
    dtype = resolve_dtype(config.compute_dtype)
    if on_gpu() and dtype != jnp.bfloat16:
        return f"it multiplies bfloat16, not {dtype}"
    heads = config.key_value_heads, config.heads // config.key_value_heads
    if not on_gpu():
        return None
    return _not_compiled(_padded(time), *heads, config.head_width, config.score_scale)


@functools.cache
def _not_compiled(time: int, heads: int, groups: int, width: int, scale: float) -> str | None:
    """What cuDNN answers to the kernel and its gradient for one row of this shape; None: it is
    compiled. Its limits depend on its version and on the GPU."""
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    q, k = of(1, heads, groups, time, width), of(1, heads, time, width)
    dtype = jnp.dtype("bfloat16")
    loss = lambda *x: fused_attention(*x, dtype, scale).astype(jnp.float32).sum()
    try:
        jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k).compile()
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return (str(error).strip() or repr(error)).splitlines()[0]
    return None


@functools.cache
def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _padded(time: int) -> int:
    return -(-time // STEP) * STEP


def fused_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, dtype: jnp.dtype, scale: float
) -> jax.Array:
    """softmax(scale q k) v of each query over the keys up to its own column: [B, T, KV, G, hd].

    The kernel takes operands in `dtype`, sums in float32, and rounds its weights and its result to
    `dtype`.

    Args:
      q: [B, KV, G, T, hd]; G queries share a key.
      k, v: [B, KV, T, hd].
    """
    batch, heads, groups, time, width = q.shape
    more = _padded(time) - time if on_gpu() else 0
    rows = lambda x: jnp.pad(x.astype(dtype), ((0, 0), (0, more), (0, 0), (0, 0)))
    q = rows(q.transpose(0, 3, 1, 2, 4).reshape(batch, time, heads * groups, width))
    k, v = (rows(x.transpose(0, 2, 1, 3)) for x in (k, v))
    found = jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=True, implementation="cudnn" if on_gpu() else "xla"
    )
    return found[:, :time].reshape(batch, time, heads, groups, width)


def left_aligned(tokens: jax.Array, segments: jax.Array):
    """Rows [B, T] with padding on the right only: (the new column of each old one [B, T], tokens,
    segments, whether the row holds at most one segment [B])."""
    length = tokens.shape[1]
    time = jnp.arange(length)[None]
    start = jnp.argmax(segments > 0, axis=1)[:, None]
    turned = lambda x: jnp.take_along_axis(x, (time + start) % length, axis=1)
    tokens, segments = turned(tokens), turned(segments)
    filled = (segments > 0).sum(axis=1, keepdims=True)
    expected = jnp.where(time < filled, segments[:, :1], 0)
    return (time - start) % length, tokens, segments, (segments == expected).all(axis=1)
