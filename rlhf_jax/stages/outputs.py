"""Numbers of the outputs of a ranking, from rows that hold the tokens of one or several outputs.

In a batch of rankings [B, M, T] the tokens of output k have the segment k + 1, in any of M rows.
"""

import jax
import jax.numpy as jnp


def _of_outputs(segments: jax.Array, outputs: int) -> jax.Array:
    """Which tokens belong to which output: [B, K, M T] bool."""
    numbers = 1 + jnp.arange(outputs)
    return segments.reshape(len(segments), 1, -1) == numbers[None, :, None]


def sums(values: jax.Array, segments: jax.Array, outputs: int) -> jax.Array:
    """The sum of values [B, M, T] over the tokens of each output: [B, K]; 0 for an absent one."""
    flat = values.reshape(len(values), 1, -1)
    return jnp.where(_of_outputs(segments, outputs), flat, 0).sum(axis=-1)


def at_last(values: jax.Array, segments: jax.Array, outputs: int) -> jax.Array:
    """values [B, M, T] at the last token of each output: [B, K]; 0 for an absent output."""
    found = _of_outputs(segments, outputs)
    last = jnp.max(jnp.where(found, jnp.arange(found.shape[-1]), -1), axis=-1)
    picked = jnp.take_along_axis(values.reshape(len(values), -1), jnp.maximum(last, 0), axis=-1)
    return jnp.where(last >= 0, picked, 0)
