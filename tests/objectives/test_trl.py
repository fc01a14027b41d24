"""The formulas of trl 1.12, restated from its trainers in NumPy, as second oracles.

trl itself needs PyTorch; each function here says where in trl the formula stands: below trl/trainer
or, for CPO, ORPO and PPO, below trl/experimental. Where trl differs on purpose, the test says how
and compares with that too; docs/objectives.md says why.
"""

import jax.numpy as jnp
import numpy as np

from rlhf_jax.objectives.advantages import (
    gae,
    group_normalised,
    kl_shaped_rewards,
    leave_one_out,
    reward_to_go,
)
from rlhf_jax.objectives.kl import k3
from rlhf_jax.objectives.likelihood import entropy
from rlhf_jax.objectives.preferences import dpo, kto, orpo, simpo
from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights, whiten
from rlhf_jax.objectives.reward_models import centering_loss, pairwise_loss
from rlhf_jax.objectives.surrogates import clipped_value_loss, ppo_clip
from rlhf_jax.stages.dpo import IPO, Response
from tests.objectives.harness import assert_close

RNG = np.random.default_rng(12)
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = -np.abs(RNG.normal(5, 3, size=(4, 6)))
LOG_PROBS, OLD, REF, VALUES, REWARDS = RNG.normal(size=(5, 6, 7))
LENGTHS = np.array([7, 1, 4, 6, 2, 5])
MASK = np.arange(7) < LENGTHS[:, None]


def f32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def sigmoid(x):
    return np.exp(log_sigmoid(x))


def masked_mean(x, mask):
    """core.py: sum of the kept values over their number."""
    return (x * mask).sum() / mask.sum()


def test_dpo_and_cdpo():
    """dpo_trainer.py: "sigmoid", which takes no label smoothing, and "robust", cDPO's loss less e
    times the loss of the other label, over 1 - 2e; cpo_trainer.py, "sigmoid": cDPO."""
    logits = (CHOSEN - REJECTED) - (REF_CHOSEN - REF_REJECTED)
    pairs = f32(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
    assert_close(dpo(*pairs, 0.3), -log_sigmoid(0.3 * logits))
    e = 0.1
    conservative = -log_sigmoid(0.3 * logits) * (1 - e) - log_sigmoid(-0.3 * logits) * e
    assert_close(dpo(*pairs, 0.3, e), conservative)
    robust = -(1 - e) * log_sigmoid(0.3 * logits) + e * log_sigmoid(-0.3 * logits)
    assert np.abs(robust / (1 - 2 * e) - conservative).min() > 0.01


def test_ipo():
    """dpo_trainer.py: "ipo", of means over the tokens of each response; eq. 17 is of sums."""
    chosen, rejected = CHOSEN - REF_CHOSEN, REJECTED - REF_REJECTED
    tokens = LENGTHS, LENGTHS[::-1]
    theirs = (chosen / tokens[0] - rejected / tokens[1] - 1 / (2 * 0.3)) ** 2
    sums = (chosen - rejected - 1 / (2 * 0.3)) ** 2
    better = Response(*f32(CHOSEN, tokens[0], REF_CHOSEN))
    worse = Response(*f32(REJECTED, tokens[1], REF_REJECTED))
    assert_close(IPO(0.3, per_token=True).loss(better, worse), theirs)
    assert_close(IPO(0.3).loss(better, worse), sums)
    assert np.abs(sums - theirs).max() > 1


def test_simpo():
    """cpo_trainer.py, cpo_loss: the margin enters as gamma / beta before beta multiplies."""
    beta, gamma = 2.0, 0.5
    theirs = -log_sigmoid(beta * (CHOSEN / 8 - REJECTED / 8 - gamma / beta))
    assert_close(simpo(*f32(CHOSEN / 8, REJECTED / 8), beta, gamma), theirs)


def test_orpo():
    """orpo_trainer.py, odds_ratio_loss, without its factor beta."""
    chosen, rejected = CHOSEN / 8, REJECTED / 8
    log_odds = (chosen - rejected) - (np.log1p(-np.exp(chosen)) - np.log1p(-np.exp(rejected)))
    assert_close(orpo(*f32(chosen, rejected)), -log_sigmoid(log_odds), rtol=1e-4)


def test_kto():
    """kto_trainer.py, kto_loss: desirable and undesirable responses apart, then concatenated."""
    for kl in (-0.2, 0.7):
        z = max(kl, 0)
        chosen = 1 - sigmoid(0.3 * ((CHOSEN - REF_CHOSEN) - z))
        rejected = 1 - sigmoid(0.3 * (z - (REJECTED - REF_REJECTED)))
        ours = kto(
            *f32(np.concatenate([CHOSEN, REJECTED]), np.concatenate([REF_CHOSEN, REF_REJECTED])),
            jnp.arange(12) < 6, jnp.float32(kl), 0.3, 1.5, 0.8,
        )  # fmt: skip
        assert_close(ours, np.concatenate([1.5 * chosen, 0.8 * rejected]))


def test_reward_model():
    """reward_trainer.py, compute_loss: margin, and the mean of squared sums for centering."""
    margin = np.abs(REF_CHOSEN)
    theirs = -log_sigmoid(CHOSEN - REJECTED - margin)
    assert_close(pairwise_loss(*f32(CHOSEN, REJECTED, margin)), theirs)
    assert_close(centering_loss(*f32(CHOSEN, REJECTED)), (CHOSEN + REJECTED) ** 2)


def test_rewards_and_gae():
    """ppo_trainer.py: KL by k1; advantages backwards. The score is added one column after the last
    token, where a row has one; with discount 1, reward to go is the same."""
    score = RNG.normal(size=6)
    penalties = np.where(MASK, -0.05 * (LOG_PROBS - REF), 0)
    rewards, theirs = penalties.copy(), penalties.copy()
    rewards[np.arange(6), LENGTHS - 1] += score
    theirs[np.arange(6), np.where(LENGTHS < 7, LENGTHS, LENGTHS - 1)] += score
    ours = kl_shaped_rewards(*f32(score, LOG_PROBS, REF), jnp.asarray(MASK), 0.05)
    assert_close(ours, rewards)
    differ = (rewards != theirs).any(axis=1)
    np.testing.assert_array_equal(differ, LENGTHS < 7)
    to_go = np.cumsum(theirs[:, ::-1], axis=1)[:, ::-1]
    assert_close(reward_to_go(ours, jnp.asarray(MASK)), to_go * MASK)

    values, last, reversed_advantages = np.where(MASK, VALUES, 0), np.zeros(6), []
    for t in reversed(range(7)):
        following = values[:, t + 1] if t < 6 else 0.0
        delta = rewards[:, t] + 0.99 * following - values[:, t]
        last = delta + 0.99 * 0.95 * last
        reversed_advantages.append(last)
    advantages = np.stack(reversed_advantages[::-1], axis=1)
    mine, returns = gae(*f32(rewards, values), jnp.asarray(MASK), 0.99, 0.95)
    assert_close(mine, advantages * MASK)
    assert_close(returns, (advantages + values) * MASK)


def test_whitening():
    """core.py, masked_whiten; trl's variance is the sample's (n - 1), ours the population's."""
    kept = LOG_PROBS[MASK]
    n = len(kept)
    theirs = (LOG_PROBS - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-8)
    assert_close(whiten(*f32(LOG_PROBS), MASK), theirs * MASK * np.sqrt(n / (n - 1)), rtol=1e-4)


def test_ppo_losses():
    """ppo_trainer.py: policy loss, and value loss with the clip around the old values."""
    ratio = np.exp(LOG_PROBS - OLD)
    losses = np.maximum(-REWARDS * ratio, -REWARDS * np.clip(ratio, 0.8, 1.2))
    ours = WeightedMean.of(ppo_clip(*f32(LOG_PROBS, OLD, REWARDS), 0.2), MASK).mean
    assert_close(ours, masked_mean(losses, MASK))
    near = np.clip(VALUES, OLD - 0.2, OLD + 0.2)
    losses = np.maximum((VALUES - REWARDS) ** 2, (near - REWARDS) ** 2)
    ours = WeightedMean.of(clipped_value_loss(*f32(VALUES, OLD, REWARDS), 0.2), MASK).mean
    assert_close(ours, 0.5 * masked_mean(losses, MASK))


def test_entropy():
    """ppo_trainer.py: logsumexp less the mean logit under the policy."""
    p = np.exp(LOG_PROBS) / np.exp(LOG_PROBS).sum(-1, keepdims=True)
    theirs = np.log(np.exp(LOG_PROBS).sum(-1)) - (p * LOG_PROBS).sum(-1)
    assert_close(entropy(*f32(LOG_PROBS)), theirs)


def test_leave_one_out():
    """rloo_trainer.py: baseline = (sum of the group - own) / (K - 1)."""
    groups = RNG.normal(size=(2, 3))
    theirs = groups - (groups.sum(1, keepdims=True) - groups) / 2
    rewards = jnp.asarray(groups.reshape(6, 1), jnp.float32)
    assert_close(leave_one_out(rewards, jnp.ones((6, 1)), 3)[:, 0], theirs.reshape(-1))


def test_grpo():
    """grpo_trainer.py: k3 in the loss, and the loss types "grpo", "bnpo" and "dr_grpo"; trl's
    standard deviation is the sample's and its epsilon 1e-4."""
    advantage = np.broadcast_to(RNG.normal(size=(6, 1)), MASK.shape)
    ratio = np.exp(LOG_PROBS - OLD)
    per_token = -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.3) * advantage)
    kl = np.exp(REF - LOG_PROBS) - (REF - LOG_PROBS) - 1
    per_token = per_token + 0.04 * kl
    theirs = {
        "sequence": ((per_token * MASK).sum(-1) / MASK.sum(-1)).mean(),
        "token": (per_token * MASK).sum() / MASK.sum(),
        "length": (per_token * MASK).sum() / (per_token.shape[0] * 7),
    }
    ours = ppo_clip(*f32(LOG_PROBS, OLD, advantage), 0.2, 0.3) + 0.04 * k3(*f32(LOG_PROBS, REF))
    for by, expected in theirs.items():
        weights = aggregation_weights(jnp.asarray(MASK), by, 7 if by == "length" else None)
        assert_close(WeightedMean.of(ours, *weights).mean, expected)

    groups = RNG.normal(size=(2, 3))
    deviations = groups - groups.mean(1, keepdims=True)
    spread = groups.std(1, ddof=1, keepdims=True)
    rewards = jnp.asarray(groups.reshape(6, 1), jnp.float32)
    mine = group_normalised(rewards, jnp.ones((6, 1)), 3)[:, 0]
    theirs = deviations / (spread + 1e-4) * np.sqrt(3 / 2)
    assert_close(mine, theirs.reshape(-1), rtol=2e-3)
