"""Policy-gradient surrogates and the value loss: per-token losses to minimise.

Every surrogate is f(log_probs, old_log_probs, advantages, ...), elementwise over arrays of equal
shape: [B, T] for tokens, or [B] for responses (`likelihood.sequence_log_prob`). No gradient flows
through the old log-probabilities and the advantages. Where p = old, all surrogates have the
gradient of REINFORCE. A2C is `reinforce` with the advantages of `gae` and a value term.
"""

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.objectives.kl import MAX_LOG_RATIO, k3
from rlhf_jax.objectives.likelihood import sequence_log_prob
from rlhf_jax.objectives.reductions import all_alike, masked_var

Array = jax.Array


def importance_ratio(log_probs: Array, old_log_probs: Array) -> Array:
    """p / old = exp(log p - log old), the exponent clipped to +-20.

    Outside +-20 the gradient is 0 in every surrogate whose gradient goes through the ratio
    (importance_weighted, ppo_clip, gspo). So a token with a negative advantage that has become
    exp(20) times as likely is no longer pushed down. Below -20 the gradient would be under 2e-9
    anyway.
    """
    chex.assert_equal_shape([log_probs, old_log_probs])
    chex.assert_type([log_probs, old_log_probs], float)
    difference = log_probs - jax.lax.stop_gradient(old_log_probs)
    return jnp.exp(jnp.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def reinforce(log_probs: Array, old_log_probs: Array, advantages: Array) -> Array:
    """-A log p. The rollouts must be the policy's own: the old log-probabilities are not read.

    Source: Williams 1992; Sutton et al. 1999 (policy gradient theorem).
    """
    chex.assert_equal_shape([log_probs, old_log_probs, advantages])
    chex.assert_type([log_probs, old_log_probs, advantages], float)
    return -jax.lax.stop_gradient(advantages) * log_probs


def importance_weighted(log_probs: Array, old_log_probs: Array, advantages: Array) -> Array:
    """-A p / old. Source: conservative policy iteration, Schulman et al. 2017, equation 6."""
    chex.assert_equal_shape([log_probs, old_log_probs, advantages])
    return -jax.lax.stop_gradient(advantages) * importance_ratio(log_probs, old_log_probs)


def truncated_importance(
    log_probs: Array, old_log_probs: Array, advantages: Array, ratio_ceiling: float = 1.0
) -> Array:
    """-A rho log p, with the constant rho = min(ceiling, p / old), for stale rollouts.

    Source: V-trace, Espeholt et al. 2018 (arXiv 1802.01561), section 4.2.
    """
    rho = jnp.minimum(ratio_ceiling, importance_ratio(log_probs, old_log_probs))
    return jax.lax.stop_gradient(rho) * reinforce(log_probs, old_log_probs, advantages)


def cispo(
    log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    clip: float,
    clip_high: float | None = None,
) -> Array:
    """-A rho log p, with the constant rho = clip(p / old, 1 - clip, 1 + clip_high or clip).

    Unlike ppo_clip, a clipped token keeps its gradient. clip = 1 leaves rho free below.
    Source: MiniMax-M1 2025 (arXiv 2506.13585), equation 4.
    """
    high = clip if clip_high is None else clip_high
    rho = jnp.clip(importance_ratio(log_probs, old_log_probs), 1 - clip, 1 + high)
    return jax.lax.stop_gradient(rho) * reinforce(log_probs, old_log_probs, advantages)


def ppo_clip(
    log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> Array:
    """-min(rho A, clip(rho, 1 - clip, 1 + clip_high) A), rho = p / old.

    Args:
      clip: half-width around 1, e.g. 0.2.
      clip_high: upper half-width (DAPO, arXiv 2503.14476, equation 10); None: clip.
      dual_clip: c > 1: for negative advantages the loss is at most -c A (Ye et al. 2020,
        arXiv 1912.09729, equation 2); None: no such bound, as in PPO.

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    chex.assert_equal_shape([log_probs, old_log_probs, advantages])
    advantages = jax.lax.stop_gradient(advantages)
    ratio = importance_ratio(log_probs, old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip, 1 + (clip if clip_high is None else clip_high))
    loss = jnp.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is None:
        return loss
    return jnp.where(advantages < 0, jnp.minimum(loss, -dual_clip * advantages), loss)


def ppo_penalty(
    log_probs: Array, old_log_probs: Array, advantages: Array, coefficient: chex.Numeric
) -> Array:
    """-rho A + coefficient KL(old || p); the KL is estimated by k3 on tokens sampled from old.

    The samples do not depend on the parameters here, so k3 has the gradient of this KL.
    Source: Schulman et al. 2017, equation 8; `kl.DoublingController` adapts the coefficient.
    """
    penalty = k3(jax.lax.stop_gradient(old_log_probs), log_probs)
    return importance_weighted(log_probs, old_log_probs, advantages) + coefficient * penalty


def mean_log_ratio(log_probs: Array, old_log_probs: Array, mask: Array) -> Array:
    """mean_t(log p_t - log old_t) over a response's tokens, repeated at each of them: [B, T]."""
    mean_B = sequence_log_prob(log_probs - old_log_probs, mask, per_token=True)
    return jnp.broadcast_to(mean_B[:, None], mask.shape)


def gspo(
    log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    mask: Array,
    clip: float,
    clip_high: float | None = None,
) -> Array:
    """ppo_clip with one ratio for a whole response: s = exp(mean_t(log p_t - log old_t)), [B, T].

    Each token has the value s and the gradient s grad log p_t (GSPO-token). Averaged over the
    tokens of a response with one advantage, this is GSPO: aggregate by "sequence".
    Source: Zheng et al. 2025 (arXiv 2507.18071), equations 7 and 14.
    """
    chex.assert_equal_shape([log_probs, old_log_probs, advantages, mask])
    log_ratio = mean_log_ratio(log_probs, old_log_probs, mask)
    through = jax.lax.stop_gradient(log_ratio - log_probs) + log_probs
    return ppo_clip(through, jnp.zeros_like(through), advantages, clip, clip_high)


def clipped_value_loss(
    values: Array, old_values: Array, returns: Array, clip: float | None
) -> Array:
    """0.5 max((V - R)^2, (V_old + clip(V - V_old, +-clip) - R)^2); clip=None: 0.5 (V - R)^2.

    Source: OpenAI baselines ppo2; Ziegler et al. 2019; Huang et al. 2023, detail 19.
    """
    chex.assert_equal_shape([values, old_values, returns])
    chex.assert_type([values, old_values, returns], float)
    old_values, returns = jax.lax.stop_gradient((old_values, returns))
    loss = jnp.square(values - returns)
    if clip is not None:
        near = old_values + jnp.clip(values - old_values, -clip, clip)
        loss = jnp.maximum(loss, jnp.square(near - returns))
    return 0.5 * loss


def explained_variance(
    values: Array, returns: Array, mask: Array, axis_name: str | None = None
) -> Array:
    """1 - Var(returns - values) / Var(returns) where mask is 1: how well values predict returns.

    1: exactly. 0: no better than a constant. Below 0: worse than a constant. Variances are the
    population's. NaN where Var(returns) is 0, that is, where the returns are alike up to rounding.

    Args:
      values, returns, mask: one shape, such as [B,T].

    Source: OpenAI baselines, common/math_util.py.
    """
    chex.assert_equal_shape([values, returns, mask])
    chex.assert_type([values, returns], float)
    variance = masked_var(returns, mask, axis_name)
    left = masked_var(returns - values, mask, axis_name)
    alike = all_alike(returns, mask, axis_name)
    return jnp.where(alike, jnp.nan, 1 - left / jnp.where(alike, 1, variance))


def ppo_diagnostics(
    log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    clip: float,
    clip_high: float | None = None,
) -> dict[str, Array]:
    """Per token: ratio, approximate_kl = (log p - log old)^2 / 2, clip_fraction (0 or 1).

    clip_fraction is 1 where clipping removes the token's gradient: the ratio is above
    1 + clip_high (or clip) and the advantage positive, or below 1 - clip and negative.
    Source: lm-human-preferences; the figures of Huang et al. 2023, detail 21.
    """
    ratio = importance_ratio(log_probs, old_log_probs)
    above = ratio > 1 + (clip if clip_high is None else clip_high)
    clipped = ((advantages > 0) & above) | ((advantages < 0) & (ratio < 1 - clip))
    return {
        "ratio": ratio,
        "approximate_kl": 0.5 * jnp.square(log_probs - old_log_probs),
        "clip_fraction": clipped.astype(ratio.dtype),
    }
