"""Penalties for how a response ends and how long it is."""

import dataclasses

import jax.numpy as jnp

from rlhf_jax.errors import require
from rlhf_jax.rewards.reward import Reward


@dataclasses.dataclass(frozen=True)
class MissingEnd(Reward):
    """-1 for a response that was cut before it ended, else 0.

    It is added to the other terms; `Experiment.ending.missing_eos_score` replaces their sum.
    """

    def of(self, judged):
        return -(~judged.ended).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class OverLong(Reward):
    """-clip((|y| - (longest - soft)) / soft, 0, 1), where |y| is the response's length in tokens:
    0 up to longest - soft tokens, falling to -1 at `longest`.

    Source: DAPO, Yu et al. 2025 (arXiv 2503.14476), equation 13.
    """

    longest: int  # tokens from which the penalty is whole
    soft: int  # tokens over which it grows

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.soft <= self.longest, "soft", self.soft, f"in [1, {self.longest}]")

    def of(self, judged):
        over = judged.mask.sum(axis=1) - (self.longest - self.soft)
        return -jnp.clip(over / self.soft, 0, 1)
