"""rlax as a second, independent oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import rlax

from rlhf_jax.objectives.advantages import gae, reward_to_go, vtrace
from rlhf_jax.objectives.surrogates import ppo_clip, reinforce, truncated_importance
from tests.objectives.harness import assert_close

RNG = np.random.default_rng(9)
REWARDS, VALUES, ADVANTAGES = jnp.asarray(RNG.normal(size=(3, 3, 6)), jnp.float32)
LOG_PROBS, OLD = jnp.asarray(-np.abs(RNG.normal(size=(2, 3, 6))), jnp.float32)
MASK = jnp.ones((3, 6))
DISCOUNTS = 0.9 * MASK[0]


def test_gae():
    bootstrap = jnp.pad(VALUES, ((0, 0), (0, 1)))
    theirs = jax.vmap(rlax.truncated_generalized_advantage_estimation, (0, None, None, 0))
    expected = theirs(REWARDS, DISCOUNTS, 0.8, bootstrap)
    assert_close(gae(REWARDS, VALUES, MASK, 0.9, 0.8)[0], expected)


def test_reward_to_go():
    theirs = jax.vmap(rlax.discounted_returns, (0, None, 0))
    assert_close(reward_to_go(REWARDS, MASK, 0.9), theirs(REWARDS, DISCOUNTS, jnp.zeros((3, 6))))


def test_vtrace():
    following = jnp.pad(VALUES, ((0, 0), (0, 1)))[:, 1:]
    ratio = jnp.exp(LOG_PROBS - OLD)
    theirs = jax.vmap(rlax.vtrace_td_error_and_advantage, (0, 0, 0, None, 0, None))
    expected = theirs(VALUES, following, REWARDS, DISCOUNTS, ratio, 0.8)
    advantages, returns = vtrace(REWARDS, VALUES, MASK, LOG_PROBS, OLD, 0.9, 0.8)
    assert_close(returns - VALUES, expected.errors)
    assert_close(jnp.minimum(1, ratio) * advantages, expected.pg_advantage)


def test_surrogates():
    logits = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
    actions = jnp.array([0, 1, 2, 3, 0, 1])
    chosen = jax.nn.log_softmax(logits)[jnp.arange(6), actions]
    ratio = jnp.exp(chosen - OLD[0])
    theirs = rlax.policy_gradient_loss(logits, actions, ADVANTAGES[0], MASK[0])
    assert_close(jnp.mean(reinforce(chosen, OLD[0], ADVANTAGES[0])), theirs)
    theirs = rlax.clipped_surrogate_pg_loss(ratio, ADVANTAGES[0], 0.2)
    assert_close(jnp.mean(ppo_clip(chosen, OLD[0], ADVANTAGES[0], 0.2)), theirs)
    weighed = jnp.minimum(1, ratio) * ADVANTAGES[0]
    theirs = rlax.policy_gradient_loss(logits, actions, weighed, MASK[0])
    assert_close(jnp.mean(truncated_importance(chosen, OLD[0], ADVANTAGES[0])), theirs)
