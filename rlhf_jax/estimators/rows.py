"""The table of estimators. Each is an advantage x a surrogate of objectives/estimator.py, the same
objects that a policy-gradient stage trains with.

An estimate is computed from the K responses of one `Rollouts`. It is minus the gradient of the
loss: the mean over responses of the sum over tokens of the losses (aggregation "length" with length
1), unless a row says otherwise. Dividing by a response's length would be a bias of its own.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.errors import require
from rlhf_jax.estimators import theory
from rlhf_jax.objectives import advantages as adv
from rlhf_jax.objectives import estimator as objects
from rlhf_jax.objectives import kl
from rlhf_jax.objectives.estimator import (
    CISPO,
    GAE,
    GSPO,
    Advantage,
    Episodes,
    GroupNormalised,
    ImportanceWeighted,
    LeaveOneOut,
    MovingAverage,
    PPOClip,
    Reinforce,
    RewardToGo,
    TruncatedImportance,
    VTrace,
    WholeReturn,
)
from rlhf_jax.objectives.likelihood import sequence_log_prob
from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights, whiten

Array = jax.Array


class Rollouts(NamedTuple):
    """K responses and all that an estimator may read about them; zero outside the mask."""

    ids: Array  # int32[K]
    mask: Array  # [K, T]
    scores: Array  # [K]
    rewards: Array  # [K, T], the score with the policy's KL penalty
    log_probs: Array  # [K, T], of the policy
    old_log_probs: Array  # [K, T], of the policy that sampled
    ref_log_probs: Array  # [K, T]
    exact_values: Array  # [K, T], expected return of each state under the policy
    learned_values: Array  # [K, T], mean return of each state over a few other rollouts
    baseline: Array  # [K], the variance-optimal constant, from other rollouts
    average: Array  # [K], moving average of the returns before this batch


Advantages = Callable[[Rollouts], Array]
Surrogate = Callable[[Array, Rollouts, Array], Array]


@dataclasses.dataclass(frozen=True)
class Estimator:
    """advantages(rollouts) -> [K, T]; surrogate(log_probs, rollouts, advantages) -> [K, T] or [K].

    bias: None if the estimator is unbiased in theory, else the function of theory.py that says to
    what it converges.
    """

    advantages: Advantages
    surrogate: Surrogate
    bias: theory.Bias | None = None
    stale: bool = False  # whether the old policy sampled the responses
    pilot: Literal["none", "baseline", "values"] = "none"  # what needs extra rollouts
    aggregation: str = "length"

    def loss(self, log_probs: Array, rollouts: Rollouts) -> Array:
        """The scalar whose negative gradient is the estimate; log_probs [K, T] of the policy."""
        losses = self.surrogate(log_probs, rollouts, self.advantages(rollouts))
        if losses.ndim == 1:
            return WeightedMean.of(losses).mean
        length = 1 if self.aggregation == "length" else None
        weights = aggregation_weights(rollouts.mask, self.aggregation, length)
        return WeightedMean.of(losses, *weights).mean


def of(advantage: Advantage, values: Literal["exact", "learned"] | None = None) -> Advantages:
    """The advantages [K, T] of K responses, which are one group; `average` is the carried state.

    values: which of the rollouts' values take the place of a value network.
    """
    return lambda r: advantage(episodes_of(r, values), r.average[0])[0]


def episodes_of(r: Rollouts, values: Literal["exact", "learned"] | None = None) -> Episodes:
    """The rollouts as `Episodes`, with the chosen values."""
    found = {"exact": r.exact_values, "learned": r.learned_values, None: None}[values]
    return Episodes(r.mask, r.rewards, r.log_probs, r.old_log_probs, found, group=len(r.mask))


def tokens(surrogate: objects.Surrogate) -> Surrogate:
    """The surrogate of every token, [K, T], with its initial state."""
    return lambda p, r, advantages: surrogate(
        p, r.old_log_probs, advantages, r.mask, surrogate.init()
    )


def responses(surrogate: objects.Surrogate) -> Surrogate:
    """The surrogate of whole responses, [K]: a response is one token with its first advantage."""

    def whole(p, r, advantages):
        p, old = (sequence_log_prob(x, r.mask)[:, None] for x in (p, r.old_log_probs))
        return surrogate(p, old, advantages[:, :1], jnp.ones_like(p), surrogate.init())[:, 0]

    return whole


def with_kl(penalty: Callable, coefficient: float, per_token: bool = False) -> Surrogate:
    """REINFORCE + coefficient * penalty(log p, log ref), per response or (per_token) per token."""

    def loss(p, r, advantages):
        if per_token:
            policy_loss = tokens(Reinforce())(p, r, advantages)
            return policy_loss + coefficient * penalty(p, r.ref_log_probs)
        p_K, ref_K = (sequence_log_prob(x, r.mask) for x in (p, r.ref_log_probs))
        policy_loss = responses(Reinforce())(p, r, advantages)
        return policy_loss + coefficient * penalty(p_K, ref_K)

    return loss


def without_kl(r: Rollouts) -> Rollouts:
    """The rollouts with only the score as reward, for rows with the KL in the loss."""
    rewards = adv.kl_shaped_rewards(r.scores, r.log_probs, r.ref_log_probs, r.mask, 0.0)
    return r._replace(rewards=rewards)


def score_leave_one_out(r: Rollouts) -> Array:
    return of(LeaveOneOut())(without_kl(r))


def whitened(r: Rollouts) -> Array:
    return whiten(of(GAE(lam=1.0), "learned")(r), r.mask)


def baseline_return(r: Rollouts) -> Array:
    """R - b for every token, where b is the optimal baseline."""
    return adv.minus_baseline(adv.paid_at_end(r.rewards, r.mask), r.mask, r.baseline[:, None])


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """Settings of the table's rows."""

    group: int = 4  # K, responses per estimate
    lam: float = 0.5  # of GAE
    clip: float = 0.2  # half-width of the ratio's range

    def __post_init__(self):
        require(self.group >= 2, "group", self.group, "at least 2")
        require(0 <= self.lam < 1, "lam", self.lam, "in [0, 1): at 1 no critic biases GAE")
        require(0 < self.clip < 1, "clip", self.clip, "in (0, 1)")


def fresh_estimators(config: RowsConfig, kl_coefficient: float) -> dict[str, Estimator]:
    """Rows with responses that the policy itself sampled."""
    beta, lam = kl_coefficient, config.lam
    reinforce, clip = tokens(Reinforce()), tokens(PPOClip(config.clip))
    grpo = of(GroupNormalised())
    rest = lambda penalty, bias, **over: Estimator(
        score_leave_one_out, with_kl(penalty, beta, **over), bias
    )
    return {
        "reinforce": Estimator(of(WholeReturn()), reinforce),
        "reinforce_moving_average": Estimator(of(MovingAverage()), reinforce),
        "reinforce_optimal_baseline": Estimator(baseline_return, reinforce, pilot="baseline"),
        "reward_to_go": Estimator(of(RewardToGo()), reinforce),
        "rloo": Estimator(of(LeaveOneOut()), reinforce),
        "dr_grpo": Estimator(of(GroupNormalised(divide_by_std=False)), clip, theory.dr_grpo),
        "grpo": Estimator(grpo, clip, theory.grpo),
        "grpo_per_sequence": Estimator(
            grpo, clip, theory.grpo_per_sequence, aggregation="sequence"
        ),
        "a2c_exact_value": Estimator(of(GAE(lam=1.0), "exact"), reinforce),
        "a2c_learned_value": Estimator(of(GAE(lam=1.0), "learned"), reinforce, pilot="values"),
        "gae_exact_value": Estimator(of(GAE(lam=lam), "exact"), reinforce),
        "gae_learned_value": Estimator(
            of(GAE(lam=lam), "learned"), reinforce, partial(theory.gae, lam), pilot="values"
        ),
        "ppo_first_step": Estimator(of(GAE(lam=1.0), "learned"), clip, pilot="values"),
        "ppo_whitened": Estimator(whitened, clip, theory.whitened, pilot="values"),
        "k2_in_loss": rest(kl.kl_loss, None),
        "k2_in_loss_per_token": rest(
            kl.kl_loss, partial(theory.k2_per_token, beta), per_token=True
        ),
        "k1_in_loss": rest(kl.k1, theory.no_kl),
        "k3_in_loss": rest(kl.k3, partial(theory.reverse_kl, beta)),
    }


def stale_estimators(config: RowsConfig) -> dict[str, Estimator]:
    """Rows with responses that the old policy sampled. All but V-trace use the same baseline, so
    that they differ only in how they use the ratio p / old."""
    e = config.clip
    row = lambda surrogate, bias: Estimator(
        baseline_return, surrogate, bias, stale=True, pilot="baseline"
    )
    return {
        "stale_reinforce": row(tokens(Reinforce()), theory.stale_reinforce),
        "importance": row(responses(ImportanceWeighted()), None),
        "importance_per_token": row(tokens(ImportanceWeighted()), theory.importance_per_token),
        "importance_truncated": row(responses(TruncatedImportance()), theory.importance_truncated),
        "vtrace": Estimator(
            of(VTrace(), "learned"),
            tokens(TruncatedImportance()),
            theory.vtrace,
            stale=True,
            pilot="values",
        ),
        "ppo_clip": row(tokens(PPOClip(e)), partial(theory.ppo_clip, e)),
        "cispo": row(tokens(CISPO(e)), partial(theory.cispo, e)),
        "gspo": row(tokens(GSPO(e, clip_high=e)), partial(theory.gspo, e)),
    }


def all_estimators(config: RowsConfig, kl_coefficient: float) -> dict[str, Estimator]:
    return fresh_estimators(config, kl_coefficient) | stale_estimators(config)
