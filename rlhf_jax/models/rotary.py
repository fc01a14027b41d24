"""Rotary position embedding (Su et al. 2021)."""

import jax
import jax.numpy as jnp

from rlhf_jax.models.config import RotaryScaling, TransformerConfig


def frequencies(config: TransformerConfig, local: bool) -> jax.Array:
    """Angle per position of each pair of numbers, for layers with a window (local) or without:
    base^(-2 i / n) for i < n / 2, with n the rotated width of a head. Scaling is not for layers
    with a base of their own.
    """
    half = config.rotary_width // 2
    own = config.rotary_local_base if local else None
    base = config.rotary_base if own is None else own
    plain = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if config.rotary_scaling is None or own is not None:
        return plain
    return scaled(plain, config.rotary_scaling)


def scaled(frequency: jax.Array, scaling: RotaryScaling) -> jax.Array:
    """Frequencies after `RotaryScaling`. A frequency that makes n turns in scaling.context tokens:

    (1 - s) f / factor + s f,   s = clip((n - low) / (high - low), 0, 1)
    """
    if scaling.low is None:
        return frequency / scaling.factor
    turns = scaling.context * frequency / (2 * jnp.pi)
    kept = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
    return (1 - kept) * frequency / scaling.factor + kept * frequency


def rotate(x: jax.Array, positions: jax.Array, frequency: jax.Array) -> jax.Array:
    """x [B, KV, G, T, hd] with its first 2 n numbers rotated as two halves, n = len(frequency)."""
    half = len(frequency)
    angle = positions[:, None, None, :, None] * frequency[None, None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half], x[..., half : 2 * half]
    turned = [first * cos - second * sin, second * cos + first * sin]
    rest = [] if x.shape[-1] == 2 * half else [x[..., 2 * half :]]
    return jnp.concatenate(turned + rest, axis=-1)
