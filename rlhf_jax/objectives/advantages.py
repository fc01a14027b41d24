"""Rewards and advantages of whole responses.

Arrays are [B, T]. Tokens outside the mask are skipped: they have no effect, and the result there is
zero. Functions with a critic take (rewards, values, mask, ...) and return (advantages, returns);
the other functions take (rewards, mask, ...) and return advantages. Every surrogate accepts the
advantages of every function. A group is `group_size` consecutive rows: the responses to one prompt.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.objectives.kl import k1
from rlhf_jax.objectives.reductions import WeightedMean, as_float, only_rounding
from rlhf_jax.objectives.surrogates import importance_ratio

Array = jax.Array


def kl_shaped_rewards(
    score_B: Array,
    log_probs_BxR: Array,
    ref_log_probs_BxR: Array,
    mask_BxR: Array,
    kl_coefficient: chex.Numeric,
    estimator: Callable[[Array, Array], Array] = k1,
) -> Array:
    """r_t = -beta (log p_t - log ref_t) + [t is the last response token] score, zero outside.

    The last response token is the last 1 of the mask, whether it is EOS or not. Scores may be
    integers; the rewards are floats. A row without response tokens gets no reward. The estimator is
    `kl.k1`, the log-ratio of the formula, or `kl.k2` or `kl.k3` in its place.
    Source: Ouyang et al. 2022 (arXiv 2203.02155), equation 2; Ziegler et al. 2019, equation 2.
    """
    chex.assert_rank([score_B, mask_BxR], [1, 2])
    chex.assert_equal_shape([log_probs_BxR, ref_log_probs_BxR, mask_BxR])
    mask = mask_BxR != 0
    length = mask.shape[1]
    last_B = length - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    is_last_BxR = jax.nn.one_hot(last_B, length, dtype=bool)
    score_BxR = jnp.broadcast_to(as_float(score_B)[:, None], mask.shape)
    penalty_BxR = -kl_coefficient * as_float(estimator(log_probs_BxR, ref_log_probs_BxR))
    return jnp.where(mask, penalty_BxR + jnp.where(is_last_BxR, score_BxR, 0), 0)


def _backwards(step: Callable, carry: chex.ArrayTree, mask: Array, *arrays: Array):
    """carry, outputs = step(carry, *columns), from the last token to the first, skipping mask 0."""
    chex.assert_rank(mask, 2)
    chex.assert_equal_shape([mask, *arrays])

    def body(carry, columns):
        keep_B, *columns = columns
        moved, outputs = step(carry, *columns)
        carry = jax.tree.map(lambda new, old: jnp.where(keep_B, new, old), moved, carry)
        return carry, jax.tree.map(lambda y: jnp.where(keep_B, y, 0), outputs)

    columns = [x.T for x in (mask != 0, *(as_float(x) for x in arrays))]
    _, outputs = jax.lax.scan(body, carry, columns, reverse=True)
    return jax.tree.map(lambda y: y.T, outputs)


def _nothing(rewards: Array) -> Array:
    return jnp.zeros(rewards.shape[0], as_float(rewards).dtype)


def paid_at_end(rewards: Array, mask: Array) -> Array:
    """Each response's rewards moved to its last token, their sum unchanged: [B, T]."""
    nothing = jnp.zeros(mask.shape, as_float(rewards).dtype)
    return kl_shaped_rewards(_episode_returns(rewards, mask), nothing, nothing, mask, 0.0)


def reward_to_go(rewards: Array, mask: Array, discount: float = 1.0) -> Array:
    """G_t = r_t + discount G_{t+1}. Source: Williams 1992 (REINFORCE)."""

    def step(later_B, reward_B):
        return (reward_B + discount * later_B,) * 2

    return _backwards(step, _nothing(rewards), mask, rewards)


def minus_baseline(
    rewards: Array, mask: Array, baseline: chex.Numeric, discount: float = 1.0
) -> Array:
    """A_t = G_t - b. b is a scalar or [B, T]; b_t must not depend on the token at t or later ones.

    Source: Williams 1992; Sutton and Barto 2018, section 13.4.
    """
    return jnp.where(mask != 0, reward_to_go(rewards, mask, discount) - baseline, 0)


def gae(
    rewards: Array, values: Array, mask: Array, discount: float, lam: float
) -> tuple[Array, Array]:
    """A_t = delta_t + discount lam A_{t+1},  delta_t = r_t + discount V_{t+1} - V_t.

    V is 0 past the last response token: a response ends there, nothing is bootstrapped.

    Returns: (advantages, returns = advantages + values), both [B, T] and zero outside the mask.
    Source: Schulman et al. 2015 (arXiv 1506.02438), equation 16.
    """

    def step(carry, reward_B, value_B):
        next_value_B, next_advantage_B = carry
        delta_B = reward_B + discount * next_value_B - value_B
        advantage_B = delta_B + discount * lam * next_advantage_B
        return (value_B, advantage_B), (advantage_B, advantage_B + value_B)

    zeros_B = _nothing(rewards)
    return _backwards(step, (zeros_B, zeros_B), mask, rewards, values)


def vtrace(
    rewards: Array,
    values: Array,
    mask: Array,
    log_probs: Array,
    old_log_probs: Array,
    discount: float = 1.0,
    lam: float = 1.0,
    ratio_ceiling: float = 1.0,
) -> tuple[Array, Array]:
    """GAE for responses of an older policy: later terms are weighted by min(ceiling, rho).

    A_t = delta_t + discount lam (v_{t+1} - V_{t+1}),  v_t = V_t + min(ceiling, p_t / old_t) A_t,
    with the delta_t of `gae`. Where p = old and ceiling >= 1, this is `gae`. Use the advantages
    with `surrogates.truncated_importance`, which weights each by its token's own ratio rho.

    Returns: (advantages, returns v), both [B, T] and zero outside the mask.
    Source: Espeholt et al. 2018 (arXiv 1802.01561), section 4.1, with one ceiling, and lam as in
    its remark 2.
    """

    def step(carry, reward_B, value_B, rho_B):
        next_value_B, next_excess_B = carry
        delta_B = reward_B + discount * next_value_B - value_B
        advantage_B = delta_B + discount * lam * next_excess_B
        excess_B = rho_B * advantage_B
        return (value_B, excess_B), (advantage_B, value_B + excess_B)

    rho = jnp.minimum(ratio_ceiling, importance_ratio(log_probs, old_log_probs))
    zeros_B = _nothing(rewards)
    return _backwards(step, (zeros_B, zeros_B), mask, rewards, values, rho)


def _episode_returns(rewards: Array, mask: Array) -> Array:
    chex.assert_rank(mask, 2)
    chex.assert_equal_shape([rewards, mask])
    return jnp.sum(jnp.where(mask != 0, as_float(rewards), 0), axis=1)


def _over_tokens(advantage_B: Array, mask: Array) -> Array:
    return jnp.where(mask != 0, jnp.broadcast_to(advantage_B[:, None], mask.shape), 0)


def leave_one_out(rewards: Array, mask: Array, group_size: int) -> Array:
    """A = R - mean of the other responses' R, the same for all tokens; R = sum_t r_t.

    Source: RLOO, Ahmadian et al. 2024 (arXiv 2402.14740); Kool et al. 2019.
    """
    if group_size < 2:
        raise ValueError(f"group_size = {group_size}: leave-one-out needs at least 2 responses")
    centred = group_normalised(rewards, mask, group_size, divide_by_std=False)
    return centred * (group_size / (group_size - 1))


def group_normalised(
    rewards: Array, mask: Array, group_size: int, divide_by_std: bool = True, epsilon: float = 1e-6
) -> Array:
    """A = (R - mean(R)) / (std(R) + epsilon) over the group, the same for all tokens.

    divide_by_std=False is Dr. GRPO. The standard deviation is the population's. A group whose
    returns are equal up to rounding gets 0.
    Source: GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1; Liu et al. 2025 (2503.20783).
    """
    chex.assert_is_divisible(rewards.shape[0], group_size)
    returns_GxK = _episode_returns(rewards, mask).reshape(-1, group_size)
    lowest_Gx1, highest_Gx1 = (f(returns_GxK, 1, keepdims=True) for f in (jnp.min, jnp.max))
    alike_Gx1 = only_rounding(lowest_Gx1, highest_Gx1)
    # Changes no difference, and keeps the digits of returns that are far from 0.
    returns_GxK -= jax.lax.stop_gradient(lowest_Gx1)
    advantages_GxK = returns_GxK - jnp.mean(returns_GxK, axis=1, keepdims=True)
    if divide_by_std:
        variance_Gx1 = jnp.var(returns_GxK, axis=1, keepdims=True)
        # The gradient of sqrt at 0 is infinite.
        advantages_GxK /= jnp.sqrt(jnp.where(alike_Gx1, 1, variance_Gx1)) + epsilon
    # Exactly 0: rounding errors divided by epsilon could be as large as real advantages.
    advantages_GxK = jnp.where(alike_Gx1, 0, advantages_GxK)
    return _over_tokens(advantages_GxK.reshape(-1), mask)


def moving_average(average: Array, rewards: Array, mask: Array, decay: float) -> Array:
    """decay * average + (1 - decay) * mean(R) over responses: the baseline of the *next* batch.

    Rows without response tokens do not count. Source: Williams 1992 (reinforcement comparison).
    """
    counted_B = as_float(jnp.any(mask != 0, axis=1))
    mean = WeightedMean.of(_episode_returns(rewards, mask), counted_B).mean
    return decay * average + (1 - decay) * mean


def optimal_baseline(rewards: Array, mask: Array, squared_norms_B: Array) -> Array:
    """b = E[|grad log p|^2 R] / E[|grad log p|^2], the scalar that minimises the variance.

    squared_norms_B: |grad log p(response)|^2 of each response; its length is an approximation.
    Source: Weaver and Tao 2001 (arXiv 1301.2315); Hao et al. 2025 (arXiv 2505.23585) for lengths.
    """
    return WeightedMean.of(_episode_returns(rewards, mask), squared_norms_B).mean
