"""A reward term that combines several reward models."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from rlhf_jax.errors import require
from rlhf_jax.rewards.reward import Reward


@dataclasses.dataclass(frozen=True)
class EnsembleReward(Reward):
    """Several reward models r_1 ... r_n combined into one term:

        "mean":         mean_i r_i
        "worst":        min_i r_i
        "uncertainty":  mean_i r_i - coefficient var_i r_i (population variance)

    Source: Coste et al. 2023 (arXiv 2310.02743), section 3: worst-case and uncertainty-weighted
    optimisation.
    """

    stages: tuple[str, ...]  # the stages that end with the reward models
    way: Literal["mean", "worst", "uncertainty"] = "mean"  # how they are combined
    coefficient: float | None = None  # of the variance; only with way = "uncertainty"

    def __post_init__(self):
        super().__post_init__()
        alike = len(set(self.stages)) < len(self.stages)
        require(len(self.stages) > 1 and not alike, "stages", self.stages, "2 or more, each once")
        ways = ("mean", "worst", "uncertainty")
        require(self.way in ways, "way", self.way, f"one of {ways}")
        wanted = self.way == "uncertainty"
        ok = (self.coefficient is not None) == wanted and (self.coefficient or 0) >= 0
        allowed = ">= 0" if wanted else f"None: way = {self.way!r} has no variance"
        require(ok, "coefficient", self.coefficient, allowed)

    def scorers(self):
        return self.stages

    def of(self, judged):
        scores = jnp.stack([judged.scores[stage] for stage in self.stages])
        match self.way:
            case "worst":
                return scores.min(axis=0)
            case "uncertainty":
                return scores.mean(axis=0) - self.coefficient * scores.var(axis=0)
        return scores.mean(axis=0)
