"""Off-policy drift: many gradient steps on one batch, measured by the exact objective.

All surrogates start at the old policy, with the same batch, the same advantages and plain gradient
steps. Their first steps are equal. Later steps differ, because surrogates differ in how they
correct for the batch being off policy.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.errors import require
from rlhf_jax.estimators.rows import Surrogate, responses, tokens
from rlhf_jax.estimators.task import (
    TabularTask,
    all_log_probs,
    divergence,
    objective,
    sample,
    table_log_probs,
)
from rlhf_jax.objectives.advantages import kl_shaped_rewards
from rlhf_jax.objectives.estimator import (
    Episodes,
    ImportanceWeighted,
    LeaveOneOut,
    PPOClip,
    PPOPenalty,
    Reinforce,
)
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights

Array = jax.Array
FRESH = "fresh batches"


@dataclasses.dataclass(frozen=True)
class DriftConfig:
    """One batch, `epochs` full-batch steps; repeated for `batches` independent batches."""

    batch: int = 32  # responses
    epochs: int = 40  # steps on one batch
    batches: int = 200  # independent batches, for the intervals
    learning_rate: float = 1.0  # of each step, plain gradient ascent
    clip: float = 0.2  # half-width of the ratio's range
    penalty: float = 1.0  # the coefficient of ppo_penalty

    def __post_init__(self):
        require(self.batch >= 2, "batch", self.batch, "at least 2")
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batches >= 2, "batches", self.batches, "at least 2, for an interval")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        require(0 < self.clip < 1, "clip", self.clip, "in (0, 1)")
        require(self.penalty >= 0, "penalty", self.penalty, ">= 0")


class Curve(NamedTuple):
    """Values after 0 .. epochs steps, for each batch: [batches, epochs + 1]."""

    objective: np.ndarray  # the exact J
    kl: np.ndarray  # KL(policy || old policy), nats per response


def drift_surrogates(config: DriftConfig) -> dict[str, Surrogate]:
    """Surrogates that are compared with the same advantages, from no ratio at all to PPO."""
    return {
        "no ratio": tokens(Reinforce()),
        "ratio of responses": responses(ImportanceWeighted()),
        "ratio of tokens": tokens(ImportanceWeighted()),
        "PPO penalty": tokens(PPOPenalty(FixedController(config.penalty))),
        "PPO clip": tokens(PPOClip(config.clip)),
    }


def measure_drift(task: TabularTask, config: DriftConfig, seed: int) -> dict[str, Curve]:
    """The curves of every surrogate, and of REINFORCE with a new batch for each step (FRESH), which
    costs `epochs` times as many responses."""
    keys = jax.random.split(jax.random.key(seed), config.batches)
    names = list(drift_surrogates(config))
    follow = jax.jit(jax.vmap(partial(_follow, task, config), in_axes=(None, None, 0)))
    runs = {name: (index, False) for index, name in enumerate(names)} | {FRESH: (0, True)}
    return {name: Curve(*map(np.asarray, follow(*run, keys))) for name, run in runs.items()}


def _follow(
    task: TabularTask, config: DriftConfig, index: Array, resample: Array, key: Array
) -> Curve:
    """The curve of one batch with surrogate number `index`; resample: a new batch for each step."""
    old_NxT, ref_NxT = all_log_probs(task, task.old), all_log_probs(task, task.reference)
    losses = [_mean_loss(surrogate) for surrogate in drift_surrogates(config).values()]

    def step(logits, epoch):
        sampler_NxT = jnp.where(resample, all_log_probs(task, logits), old_NxT)
        ids = sample(task, sampler_NxT, jax.random.fold_in(key, epoch * resample), (config.batch,))
        mask, old = task.mask[ids], sampler_NxT[ids]
        rewards = kl_shaped_rewards(task.scores[ids], old, ref_NxT[ids], mask, task.kl_coefficient)
        batch = Episodes(mask, rewards, old, old, None, config.batch)
        advantages, _ = LeaveOneOut()(batch)
        gradient = jax.grad(
            lambda x: jax.lax.switch(
                index, losses, table_log_probs(task, x, ids), batch, advantages
            )
        )(logits)
        logits = logits - config.learning_rate * gradient
        return logits, look(logits)

    def look(logits):
        log_probs = all_log_probs(task, logits)
        return Curve(objective(task, log_probs), divergence(task, log_probs, old_NxT))

    _, later = jax.lax.scan(step, task.old, jnp.arange(config.epochs))
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), look(task.old), later)


def _mean_loss(surrogate: Surrogate) -> Callable[[Array, Episodes, Array], Array]:
    """Mean over responses of the sum over tokens, as in `rows`."""

    def loss(log_probs, batch, advantages):
        losses = surrogate(log_probs, batch, advantages)
        if losses.ndim == 1:
            return WeightedMean.of(losses).mean
        return WeightedMean.of(losses, *aggregation_weights(batch.mask, "length", 1)).mean

    return loss
