"""The one reduction: a sum of values and a sum of weights, divided once, at the very end."""

import dataclasses
from typing import Self

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array


def as_float(x: ArrayLike) -> Array:
    """x as float32, float64 stays float64. Integers and bfloat16 would round what follows."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WeightedMean:
    """mean = total / weight, kept as two sums so that micro-batches and devices add exactly.

    A mean of means is wrong where the parts hold different numbers of tokens. The sum of two
    WeightedMeans is the WeightedMean of all their values.
    """

    total: Array
    weight: Array

    @classmethod
    def of(
        cls,
        values: ArrayLike,
        weights: ArrayLike | None = None,
        weight: ArrayLike | None = None,
    ) -> Self:
        """total = sum(weights * values), weight = sum(weights).

        A value of weight 0 has no effect, even if it is NaN or infinite.

        Args:
          values: any shape.
          weights: same shape; None counts every value once.
          weight: the divisor, if it is not the sum of the weights (see `aggregation_weights`).
        """
        values = as_float(values)
        weights = jnp.ones_like(values) if weights is None else as_float(weights)
        chex.assert_equal_shape([values, weights])
        total = jnp.sum(jnp.where(weights != 0, values, 0) * weights)
        return cls(total, jnp.sum(weights) if weight is None else as_float(weight))

    def __add__(self, other: Self) -> Self:
        return WeightedMean(self.total + other.total, self.weight + other.weight)

    def psum(self, axis_name: str | None) -> Self:
        """Sums total and weight over a mapped axis; None: returns self."""
        return self if axis_name is None else jax.lax.psum(self, axis_name)

    @property
    def mean(self) -> Array:
        """total / weight, and 0 where nothing was counted."""
        empty = self.weight == 0
        return jnp.where(empty, 0, self.total / jnp.where(empty, 1, self.weight))


def masked_mean(x: Array, mask: Array, axis_name: str | None = None) -> Array:
    """Mean of x where mask is 1, over all axes and the mapped axis `axis_name`; 0 if none is 1."""
    return WeightedMean.of(x, mask).psum(axis_name).mean


def _centred(x: Array, mask: Array, axis_name: str | None) -> tuple[Array, Array]:
    """(x - centre, centre): the centre is about the mean, without gradient. x - centre is zero
    outside the mask. Means of x - centre keep digits that means of x lose where x is far from 0."""
    centre = jax.lax.stop_gradient(masked_mean(x, mask, axis_name))
    return jnp.where(mask != 0, as_float(x) - centre, 0), centre


def masked_var(x: Array, mask: Array, axis_name: str | None = None) -> Array:
    """Population variance of x where mask is 1: mean((x - mean(x))^2)."""
    x, _ = _centred(x, mask, axis_name)
    return masked_mean(jnp.square(x - masked_mean(x, mask, axis_name)), mask, axis_name)


def only_rounding(lowest: Array, highest: Array) -> Array:
    """highest - lowest <= 8 eps max(|lowest|, |highest|): values so close count as equal.

    So small a spread is rounding error; dividing by it would turn the error into noise. eps is
    float32's, 1.2e-7, or float64's for float64 values. Values that are not finite are never equal.
    """
    lowest, highest = as_float(lowest), as_float(highest)
    largest, spread = jnp.maximum(jnp.abs(lowest), jnp.abs(highest)), highest - lowest
    return (spread <= 8 * jnp.finfo(largest.dtype).eps * largest) & (spread < jnp.inf)


def all_alike(x: Array, mask: Array, axis_name: str | None = None) -> Array:
    """Whether the values where mask is 1 differ by rounding only; true if no mask is 1."""
    x = jax.lax.stop_gradient(as_float(x))
    lowest = jnp.min(jnp.where(mask != 0, x, jnp.inf))
    highest = jnp.max(jnp.where(mask != 0, x, -jnp.inf))
    if axis_name is not None:
        lowest, highest = jax.lax.pmin(lowest, axis_name), jax.lax.pmax(highest, axis_name)
    return only_rounding(lowest, highest)


def whiten(
    x: Array,
    mask: Array,
    shift_mean: bool = True,
    epsilon: float = 1e-8,
    axis_name: str | None = None,
) -> Array:
    """(x - mean) / sqrt(var + epsilon) [+ mean unless shift_mean], and 0 outside the mask.

    For advantages the mean is subtracted; for rewards it is kept (shift_mean=False). The variance
    is the population's. Where all values are equal up to rounding, x - mean counts as 0.
    Source: Huang et al. 2023, detail 18.
    """
    chex.assert_equal_shape([x, mask])
    alike = all_alike(x, mask, axis_name)
    x, centre = _centred(x, mask, axis_name)
    mean = masked_mean(x, mask, axis_name)
    whitened = (x - mean) * jax.lax.rsqrt(masked_var(x, mask, axis_name) + epsilon)
    whitened = jnp.where(alike, 0, whitened)
    return jnp.where(mask != 0, whitened if shift_mean else whitened + (mean + centre), 0)


def aggregation_weights(
    mask_BxT: Array, by: str = "token", length: int | None = None
) -> tuple[Array, Array]:
    """Weights that reduce per-token losses: `WeightedMean.of(values, *aggregation_weights(...))`.

    by="token":    sum over all tokens / number of tokens (InstructGPT's code, DAPO).
    by="sequence": mean over a sequence's tokens, then over sequences (GRPO).
    by="length":   sum over tokens / `length`, then mean over sequences (Dr. GRPO).

    Returns (weights [B, T], weight): the factor of each value, and the divisor of the sum. Rows
    without tokens do not count as sequences. Raises ValueError for another name, for "length"
    without a length, and for a length with another name.
    Source: Liu et al. 2025 (arXiv 2503.20783); Yu et al. 2025 (arXiv 2503.14476).
    """
    chex.assert_rank(mask_BxT, 2)
    mask = as_float(mask_BxT)
    tokens_Bx1 = jnp.sum(mask, axis=1, keepdims=True)
    sequences = jnp.sum(as_float(tokens_Bx1 > 0))
    match by, length:
        case "token", None:
            return mask, jnp.sum(mask)
        case "sequence", None:
            return mask / jnp.broadcast_to(jnp.maximum(tokens_Bx1, 1), mask.shape), sequences
        case "length", int() if length > 0:
            return mask / length, sequences
    raise ValueError(f"by = {by!r}, length = {length!r}: token, sequence, or length with a length")
