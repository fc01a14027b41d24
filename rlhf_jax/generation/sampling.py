"""From logits to a token: temperature, top-k, top-p, and one uniform number per row."""

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.errors import require

BLOCK = 128  # columns in a block of the two-level search in `inverse_cdf`


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn. Temperature 0 is greedy; top_k 0 and top_p 1 filter nothing."""

    temperature: float = 1.0  # divides the logits; 0 is greedy
    top_k: int = 0  # draws among so many of the likeliest tokens; 0: all
    top_p: float = 1.0  # draws among the fewest likeliest tokens of so much mass; 1: all

    def __post_init__(self):
        require(self.temperature >= 0, "temperature", self.temperature, ">= 0 (0: greedy)")
        require(self.top_k >= 0, "top_k", self.top_k, ">= 0 (0: off)")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1] (1: off)")


def greedy(logits: jax.Array) -> jax.Array:
    """The first column with the largest logit: [B, V] -> [B]. (argmax is slower on CPUs.)"""
    best = logits.max(axis=-1, keepdims=True)
    columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return jnp.where(logits == best, columns, logits.shape[-1]).min(axis=-1)


def _smallest_kept(weights: jax.Array, enough) -> jax.Array:
    """The largest threshold [B] for which `enough(weights >= threshold)` holds, found exactly.

    Non-negative floats have the same order as their bits, so that a search over 31 bits is enough;
    nothing is sorted.
    """

    def try_bit(i, bits):
        candidate = bits | (1 << (30 - i))
        threshold = jax.lax.bitcast_convert_type(candidate, jnp.float32)
        return jnp.where(enough(weights >= threshold[:, None]), candidate, bits)

    bits = jax.lax.fori_loop(0, 31, try_bit, jnp.zeros(weights.shape[0], jnp.int32))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def keep_top(weights: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Zeroes all but the `top_k` largest weights, then all but the smallest set of mass `top_p`.

    weights: [B, V], non-negative, not normalised. Equal weights are kept or zeroed together.
    Nucleus: Holtzman et al. 2020 (arXiv 1904.09751).
    """
    if 0 < top_k < weights.shape[-1]:
        kth = _smallest_kept(weights, lambda kept: kept.sum(-1) >= top_k)
        weights = jnp.where(weights >= kth[:, None], weights, 0.0)
    if top_p < 1:
        mass = top_p * weights.sum(-1)
        edge = _smallest_kept(weights, lambda kept: (weights * kept).sum(-1) >= mass)
        weights = jnp.where(weights >= edge[:, None], weights, 0.0)
    return weights


def inverse_cdf(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """The column at which the cumulative sum of weights [B, V] passes uniform [B] x their sum.

    The search has two levels, first blocks and then columns, and needs no long cumulative sum.
    A column of weight 0 is never drawn.
    """
    rows, columns = weights.shape
    padded = jnp.pad(weights, ((0, 0), (0, -columns % BLOCK))).reshape(rows, -1, BLOCK)
    ends = jnp.cumsum(padded.sum(-1), axis=-1)
    target = uniform * ends[:, -1]
    block = (ends <= target[:, None]).sum(-1)
    before = jnp.where(block > 0, jnp.take_along_axis(ends, block[:, None] - 1, axis=1)[:, 0], 0.0)
    inside = jnp.cumsum(jnp.take_along_axis(padded, block[:, None, None], axis=1)[:, 0], axis=-1)
    target = jnp.minimum(target - before, jnp.nextafter(inside[:, -1], 0.0))
    return block * BLOCK + (inside <= target[:, None]).sum(-1)


def sample(
    config: SamplingConfig, logits: jax.Array, uniform: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws one token per row: (tokens [B] int32, their log-probabilities [B]).

    Log-probabilities are those of softmax(logits / temperature) before top-k and top-p, as training
    computes them from the same logits. Greedy sampling counts as temperature 1.
    """
    scaled = logits / (config.temperature or 1.0)
    top = scaled.max(axis=-1, keepdims=True)
    weights = jnp.exp(scaled - top)
    if config.temperature == 0:
        token = greedy(logits)
    else:
        token = inverse_cdf(keep_top(weights, config.top_k, config.top_p), uniform)
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=1)[:, 0]
    return token.astype(jnp.int32), chosen - top[:, 0] - jnp.log(weights.sum(-1))
