"""The table of estimators: each an advantage function x a surrogate of `rlhf_jax.objectives`.

An estimate is made of the K responses of one `Rollouts` and is the gradient of
-mean over responses of the sum over tokens of the losses (aggregation "length" with length 1),
unless a row says otherwise: dividing by lengths is a bias of its own.
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
from rlhf_jax.objectives import kl, surrogates
from rlhf_jax.objectives.likelihood import sequence_log_prob
from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights, whiten

Array = jax.Array


class Rollouts(NamedTuple):
    """K responses and all that an estimator may read of them; zero outside the mask."""

    ids: Array  # int32[K]
    mask: Array  # [K,T]
    scores: Array  # [K]
    rewards: Array  # [K,T], the score with the KL penalty of the policy
    log_probs: Array  # [K,T], of the policy
    old_log_probs: Array  # [K,T], of the policy that sampled
    ref_log_probs: Array  # [K,T]
    exact_values: Array  # [K,T], expected return of each state under the policy
    learned_values: Array  # [K,T], its mean over a few other rollouts
    baseline: Array  # [K], the variance-optimal constant, from other rollouts
    average: Array  # [K], moving average of the returns before this batch


Advantages = Callable[[Rollouts], Array]
Surrogate = Callable[[Array, Rollouts, Array], Array]


@dataclasses.dataclass(frozen=True)
class Estimator:
    """advantages(rollouts) -> [K,T]; surrogate(log_probs, rollouts, advantages) -> [K,T] or [K].

    bias: None where theory says unbiased, else what theory says it converges to.
    """

    advantages: Advantages
    surrogate: Surrogate
    bias: theory.Bias | None = None
    stale: bool = False  # responses of the old policy
    pilot: Literal["none", "baseline", "values"] = "none"  # what costs rollouts of its own
    aggregation: str = "length"

    def loss(self, log_probs: Array, rollouts: Rollouts) -> Array:
        """The number whose negative gradient is the estimate; log_probs [K,T] of the policy."""
        losses = self.surrogate(log_probs, rollouts, self.advantages(rollouts))
        if losses.ndim == 1:
            return WeightedMean.of(losses).mean
        length = 1 if self.aggregation == "length" else None
        weights = aggregation_weights(rollouts.mask, self.aggregation, length)
        return WeightedMean.of(losses, *weights).mean


def tokens(surrogate: Callable) -> Surrogate:
    """The surrogate of every token: [K,T]."""
    return lambda p, r, advantages: surrogate(p, r.old_log_probs, advantages)


def responses(surrogate: Callable) -> Surrogate:
    """The surrogate of whole responses, with the advantage of the first token: [K]."""

    def whole(p, r, advantages):
        p, old = (sequence_log_prob(x, r.mask) for x in (p, r.old_log_probs))
        return surrogate(p, old, advantages[:, 0])

    return whole


def with_kl(penalty: Callable, coefficient: float, per_token: bool = False) -> Surrogate:
    """REINFORCE plus coefficient * penalty(log p, log ref), of whole responses or of tokens."""

    def loss(p, r, advantages):
        ref = r.ref_log_probs
        if per_token:
            policy_loss = surrogates.reinforce(p, r.old_log_probs, advantages)
            return policy_loss + coefficient * penalty(p, ref)
        p_K, ref_K = (sequence_log_prob(x, r.mask) for x in (p, ref))
        policy_loss = responses(surrogates.reinforce)(p, r, advantages)
        return policy_loss + coefficient * penalty(p_K, ref_K)

    return loss


def at_last_token(returns_K: Array, mask: Array) -> Array:
    """Rewards [K,T] that pay everything at the end."""
    zeros = jnp.zeros(mask.shape, returns_K.dtype)
    return adv.kl_shaped_rewards(returns_K, zeros, zeros, mask, 0.0)


def whole_return(r: Rollouts, baseline: Array | float = 0.0) -> Array:
    """R - b for every token, b one number a response."""
    rewards = at_last_token(jnp.sum(r.rewards, axis=1), r.mask)
    if not isinstance(baseline, float):
        baseline = jnp.broadcast_to(baseline[:, None], r.mask.shape)
    return adv.minus_baseline(rewards, r.mask, baseline)


def _group(r: Rollouts) -> int:
    return r.mask.shape[0]


def leave_one_out(r: Rollouts) -> Array:
    return adv.leave_one_out(r.rewards, r.mask, _group(r))


def score_leave_one_out(r: Rollouts) -> Array:
    """Without the KL penalty, for rows that have it in the loss."""
    return adv.leave_one_out(at_last_token(r.scores, r.mask), r.mask, _group(r))


def grouped(r: Rollouts, divide_by_std: bool) -> Array:
    return adv.group_normalised(r.rewards, r.mask, _group(r), divide_by_std)


def critic(r: Rollouts, learned: bool, lam: float) -> Array:
    values = r.learned_values if learned else r.exact_values
    return adv.gae(r.rewards, values, r.mask, 1.0, lam)[0]


def whitened(r: Rollouts) -> Array:
    return whiten(critic(r, learned=True, lam=1.0), r.mask)


def off_policy_critic(r: Rollouts) -> Array:
    return adv.vtrace(r.rewards, r.learned_values, r.mask, r.log_probs, r.old_log_probs)[0]


def baseline_return(r: Rollouts) -> Array:
    return whole_return(r, r.baseline)


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """What the rows of the table leave open."""

    group: int = 4  # responses an estimate, K
    lam: float = 0.5  # GAE
    clip: float = 0.2

    def __post_init__(self):
        require(self.group >= 2, "group", self.group, "at least 2")
        require(0 <= self.lam < 1, "lam", self.lam, "in [0, 1): at 1 no critic biases GAE")
        require(0 < self.clip < 1, "clip", self.clip, "in (0, 1)")


def fresh_estimators(config: RowsConfig, kl_coefficient: float) -> dict[str, Estimator]:
    """Rows whose responses the policy itself sampled."""
    beta, lam = kl_coefficient, config.lam
    reinforce = tokens(surrogates.reinforce)
    clip = tokens(partial(surrogates.ppo_clip, clip=config.clip))
    rest = lambda penalty, bias, **over: Estimator(
        score_leave_one_out, with_kl(penalty, beta, **over), bias
    )
    return {
        "reinforce": Estimator(whole_return, reinforce),
        "reinforce_moving_average": Estimator(lambda r: whole_return(r, r.average), reinforce),
        "reinforce_optimal_baseline": Estimator(baseline_return, reinforce, pilot="baseline"),
        "reward_to_go": Estimator(lambda r: adv.reward_to_go(r.rewards, r.mask), reinforce),
        "rloo": Estimator(leave_one_out, reinforce),
        "dr_grpo": Estimator(partial(grouped, divide_by_std=False), clip, theory.dr_grpo),
        "grpo": Estimator(partial(grouped, divide_by_std=True), clip, theory.grpo),
        "grpo_per_sequence": Estimator(
            partial(grouped, divide_by_std=True),
            clip,
            theory.grpo_per_sequence,
            aggregation="sequence",
        ),
        "a2c_exact_value": Estimator(partial(critic, learned=False, lam=1.0), reinforce),
        "a2c_learned_value": Estimator(
            partial(critic, learned=True, lam=1.0), reinforce, pilot="values"
        ),
        "gae_exact_value": Estimator(partial(critic, learned=False, lam=lam), reinforce),
        "gae_learned_value": Estimator(
            partial(critic, learned=True, lam=lam),
            reinforce,
            partial(theory.gae, lam),
            pilot="values",
        ),
        "ppo_first_step": Estimator(partial(critic, learned=True, lam=1.0), clip, pilot="values"),
        "ppo_whitened": Estimator(whitened, clip, theory.whitened, pilot="values"),
        "k2_in_loss": rest(kl.kl_loss, None),
        "k2_in_loss_per_token": rest(
            kl.kl_loss, partial(theory.k2_per_token, beta), per_token=True
        ),
        "k1_in_loss": rest(kl.k1, theory.no_kl),
        "k3_in_loss": rest(kl.k3, partial(theory.reverse_kl, beta)),
    }


def stale_estimators(config: RowsConfig) -> dict[str, Estimator]:
    """Rows whose responses the old policy sampled. All but V-trace share one baseline, so that
    only what they do with the ratio p / old sets them apart."""
    e = config.clip
    row = lambda surrogate, bias: Estimator(
        baseline_return, surrogate, bias, stale=True, pilot="baseline"
    )
    return {
        "stale_reinforce": row(tokens(surrogates.reinforce), theory.stale_reinforce),
        "importance": row(responses(surrogates.importance_weighted), None),
        "importance_per_token": row(
            tokens(surrogates.importance_weighted), theory.importance_per_token
        ),
        "importance_truncated": row(
            responses(surrogates.truncated_importance), theory.importance_truncated
        ),
        "vtrace": Estimator(
            off_policy_critic,
            tokens(surrogates.truncated_importance),
            theory.vtrace,
            stale=True,
            pilot="values",
        ),
        "ppo_clip": row(tokens(partial(surrogates.ppo_clip, clip=e)), partial(theory.ppo_clip, e)),
        "cispo": row(tokens(partial(surrogates.cispo, clip=e)), partial(theory.cispo, e)),
        "gspo": row(
            lambda p, r, a: surrogates.gspo(p, r.old_log_probs, a, r.mask, e),
            partial(theory.gspo, e),
        ),
    }


def all_estimators(config: RowsConfig, kl_coefficient: float) -> dict[str, Estimator]:
    return fresh_estimators(config, kl_coefficient) | stale_estimators(config)
