"""Preference losses on response log-probabilities: per-pair (or per-response) values, all [B].

Log-probabilities are `likelihood.sequence_log_prob` of the response tokens: sums for DPO, IPO and
KTO, means over tokens (per_token=True) for SimPO, ORPO and a second form of IPO. No gradient flows
through the reference's log-probabilities.
"""

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.objectives.reductions import as_float
from rlhf_jax.objectives.reward_models import pairwise_loss

Array = jax.Array


def implicit_reward(log_probs: Array, ref_log_probs: Array, beta: float) -> Array:
    """beta (log p - log ref): the reward for which p is optimal (DPO, equation 5)."""
    chex.assert_equal_shape([log_probs, ref_log_probs])
    return beta * (as_float(log_probs) - jax.lax.stop_gradient(as_float(ref_log_probs)))


def _log_ratio_difference(chosen, rejected, ref_chosen, ref_rejected) -> Array:
    """h = (chosen - ref_chosen) - (rejected - ref_rejected), before it is multiplied by beta."""
    return implicit_reward(chosen, ref_chosen, 1.0) - implicit_reward(rejected, ref_rejected, 1.0)


def dpo(
    chosen: Array,
    rejected: Array,
    ref_chosen: Array,
    ref_rejected: Array,
    beta: float,
    label_smoothing: float = 0.0,
) -> Array:
    """-log sigmoid(beta h),  h = (chosen - ref_chosen) - (rejected - ref_rejected).

    This is Bradley-Terry on implicit rewards. label_smoothing = e > 0 is cDPO: labels are wrong
    with probability e.
    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; Mitchell 2023 (cDPO note).
    """
    h = _log_ratio_difference(chosen, rejected, ref_chosen, ref_rejected)
    return pairwise_loss(beta * h, jnp.zeros_like(h), label_smoothing=label_smoothing)


def ipo(
    chosen: Array, rejected: Array, ref_chosen: Array, ref_rejected: Array, beta: float
) -> Array:
    """(h - 1 / (2 beta))^2,  h = (chosen - ref_chosen) - (rejected - ref_rejected).

    All four are sums over a response, as in equation 17, or all four are means over its tokens.
    trl 1.12 takes means, and a comment there says that the authors confirmed it; 1 / (2 beta) is
    then in nats per token.
    Source: Azar et al. 2023 (arXiv 2310.12036), equation 17, beta = its tau.
    """
    h = _log_ratio_difference(chosen, rejected, ref_chosen, ref_rejected)
    return jnp.square(h - 1 / (2 * beta))


def simpo(chosen_mean: Array, rejected_mean: Array, beta: float, margin: float) -> Array:
    """-log sigmoid(beta (chosen_mean - rejected_mean) - margin), without a reference.

    Source: Meng et al. 2024 (arXiv 2405.14734), equation 6, margin = its gamma.
    """
    chex.assert_equal_shape([chosen_mean, rejected_mean])
    h = as_float(chosen_mean) - as_float(rejected_mean)
    return pairwise_loss(beta * h, jnp.zeros_like(h), margin)


def orpo(chosen_mean: Array, rejected_mean: Array) -> Array:
    """-log sigmoid(log odds(chosen) - log odds(rejected)),  odds = p / (1 - p), p = exp(mean).

    The whole objective is term("nll", ...) + 0.1 * term("odds", orpo(...)). p = 1 has infinite
    odds, so it is replaced by p = 1 - 1e-12, in value and slope. Where the chosen response has
    p = 1, the slope is -odds(rejected), the limit of the formula; where the rejected response has
    p = 1, the slope is up to 1e12.
    Source: Hong et al. 2024 (arXiv 2403.07691), equation 7.
    """

    def log_odds(log_p: Array) -> Array:
        log_p = as_float(log_p)
        log_p += jax.lax.stop_gradient(jnp.minimum(log_p, -1e-12) - log_p)
        return log_p - jnp.log(-jnp.expm1(log_p))

    return pairwise_loss(log_odds(chosen_mean), log_odds(rejected_mean))


def kto(
    log_probs: Array,
    ref_log_probs: Array,
    desirable: Array,
    reference_point: Array,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Array:
    """w_D (1 - sigmoid(r - z)) for desirable responses, w_U (1 - sigmoid(z - r)) for undesirable.

    r = beta log(p / ref), z = beta max(0, reference_point); no gradient flows through z.

    Args:
      log_probs, ref_log_probs: [B], of responses that need not be in pairs.
      desirable: bool[B].
      reference_point: scalar estimate of KL(p || ref) in nats: the mean of log(p / ref) over
        responses to other prompts.
      beta, desirable_weight, undesirable_weight: > 0.

    Source: Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8.
    """
    chex.assert_equal_shape([log_probs, desirable])
    chex.assert_rank(reference_point, 0)
    z = beta * jax.lax.stop_gradient(jnp.maximum(reference_point, 0))
    gain = implicit_reward(log_probs, ref_log_probs, beta) - z
    sign = jnp.where(desirable, 1.0, -1.0)
    weight = jnp.where(desirable, desirable_weight, undesirable_weight)
    return weight * jax.nn.sigmoid(-sign * gain)
