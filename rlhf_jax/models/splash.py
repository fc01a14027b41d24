"""Attention on TPUs by a Pallas kernel that never holds the scores [B, heads, T, T].

The kernel is JAX's splash attention. It reads segments, so rows may be packed and padded anywhere.
It skips blocks that no token sees.
"""

import jax
import jax.numpy as jnp

BLOCKS = (512, 256, 128)  # queries, and keys, of a step of the kernel: the largest that divides T
RESULTS = "attention kernel"  # the name of its output and log-sum-exp, for `jax.checkpoint`


def refused(time: int, dtype: jnp.dtype) -> str | None:
    """Why the kernel does not compute rows of `time` tokens; None: it does."""
    if time % BLOCKS[-1]:
        return f"{time} tokens are no multiple of {BLOCKS[-1]}"
    return None if dtype == jnp.bfloat16 else f"it multiplies bfloat16, not {dtype}"


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    dtype: jnp.dtype,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """softmax(scale q k) v over the keys of the same segment that are not after the query, and of
    these the last `window`: [B, T, KV, G, hd], in the dtype of q.

    Products take operands in `dtype` and sum in float32; the result is rounded to `dtype`.

    Args:
      q: [B, KV, G, T, hd]; G queries share a key.
      k, v: [B, KV, T, hd].
      segments: [B, T] ints.
      softcap: c: scores become c tanh(score / c) before the softmax.
      interpret: computes the kernel on any platform, slowly.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    batch, heads, groups, time, width = q.shape
    block = next(size for size in BLOCKS if time % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    square = (time, time)
    near = pallas.CausalMask(square)
    if window is not None:
        near = pallas.LocalMask(square, (window - 1, 0), 0)
    kernel = pallas.make_splash_mha(
        pallas.MultiHeadMask([near] * (heads * groups)),
        block_sizes=pallas.BlockSizes(**{f"block_{name}": block for name in names}),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=RESULTS,
        interpret=interpret,
    )
    row = lambda q, k, v, segments: kernel(q, k, v, pallas.SegmentIds(segments, segments))
    scaled = (q.astype(jnp.float32) * scale).astype(dtype)
    scaled = scaled.reshape(batch, heads * groups, time, width)
    out = jax.vmap(row)(scaled, k.astype(dtype), v.astype(dtype), segments)
    out = out.reshape(batch, heads, groups, time, width).transpose(0, 3, 1, 2, 4)
    return out.astype(q.dtype)
