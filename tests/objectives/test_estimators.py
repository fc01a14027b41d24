"""Estimator = advantage function x surrogate: the whole table against the exact policy gradient.

A policy over responses of 2 tokens from a vocabulary of 3, with a first-token-dependent second
token. All 9 responses are enumerated and weighted by their probability, so that an estimator's
expectation is a sum and unbiasedness an equality.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.advantages import (
    gae,
    group_normalised,
    kl_shaped_rewards,
    leave_one_out,
    minus_baseline,
    moving_average,
    optimal_baseline,
    reward_to_go,
    vtrace,
)
from rlhf_jax.objectives.kl import kl_loss
from rlhf_jax.objectives.likelihood import token_log_probs
from rlhf_jax.objectives.surrogates import (
    cispo,
    gspo,
    importance_weighted,
    ppo_clip,
    ppo_penalty,
    reinforce,
    truncated_importance,
)

RNG = np.random.default_rng(8)
RESPONSES = np.array(list(itertools.product(range(3), repeat=2)))
# Logits of the first token, and of the second after each first.
THETA = {
    "first": jnp.asarray(RNG.normal(size=3), jnp.float32),
    "second": jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32),
}
REFERENCE = jax.tree.map(lambda x: x[::-1] * 0.5, THETA)
SCORES = jnp.asarray(RNG.normal(size=9), jnp.float32)
MASK = jnp.ones((9, 2))
# A critic must only know the state: one value before the first token, one per first token.
CRITIC = jnp.stack([jnp.full(9, 0.3), jnp.array([1.0, -0.5, 0.2])[RESPONSES[:, 0]]], axis=1)


def log_probs(theta, responses=RESPONSES):
    first = jnp.broadcast_to(theta["first"], (len(responses), 3))
    logits = jnp.stack([first, theta["second"][responses[:, 0]]], axis=1)
    return token_log_probs(logits, jnp.asarray(responses))


def probabilities(theta):
    return jnp.exp(jnp.sum(log_probs(theta), axis=1))


def sequence_kl(theta):
    log_ratio = jnp.sum(log_probs(theta) - log_probs(REFERENCE), axis=1)
    return jnp.sum(probabilities(theta) * log_ratio)


def last_token(score):
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


REWARDS = last_token(SCORES)
EXACT = jax.jit(jax.grad(lambda theta: -jnp.sum(probabilities(theta) * SCORES)))(THETA)
OLD = jax.jit(log_probs)(THETA)
SHAPED = kl_shaped_rewards(SCORES, OLD, jax.jit(log_probs)(REFERENCE), MASK, 0.1)

# Every row is (rewards, log_probs) -> advantages; baselines never look at the action they judge.
ADVANTAGES = {
    "reward to go": lambda rewards, p: reward_to_go(rewards, MASK),
    "moving average": lambda rewards, p: minus_baseline(
        rewards, MASK, moving_average(jnp.float32(2.0), jnp.ones((1, 2)), jnp.ones((1, 2)), 0.9)
    ),
    "scalar baseline": lambda rewards, p: minus_baseline(
        rewards, MASK, optimal_baseline(rewards, MASK, jnp.arange(9.0))
    ),
    "critic": lambda rewards, p: minus_baseline(rewards, MASK, CRITIC),
    "gae, lambda 1": lambda rewards, p: gae(rewards, CRITIC, MASK, 1.0, 1.0)[0],
    "v-trace": lambda rewards, p: vtrace(rewards, CRITIC, MASK, p, p)[0],
}
SURROGATES = {
    "reinforce": reinforce,
    "importance": importance_weighted,
    "truncated": truncated_importance,
    "cispo": functools.partial(cispo, clip=0.2),
    "ppo": functools.partial(ppo_clip, clip=0.2),
    "ppo, dual": functools.partial(ppo_clip, clip=0.2, dual_clip=3.0),
    "ppo, penalty": functools.partial(ppo_penalty, coefficient=1.0),
    "gspo": functools.partial(gspo, mask=MASK, clip=0.2),
}


def assert_same(one, other, atol=2e-5):
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=atol)


@functools.cache
def fresh_advantages(advantage):
    return jax.jit(ADVANTAGES[advantage])(REWARDS, OLD)


@functools.cache
def expected_gradient(surrogate):
    """(advantages, old log-probabilities) -> E over responses of the surrogate's gradient."""

    @jax.jit
    def gradient(advantages, old):
        def loss(theta):
            losses = SURROGATES[surrogate](log_probs(theta), old, advantages)
            return jnp.sum(jnp.exp(jnp.sum(old, axis=1)) * jnp.sum(losses, axis=1))

        return jax.grad(loss)(THETA)

    return gradient


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_every_advantage_goes_into_every_surrogate(advantage, surrogate):
    """On fresh rollouts each of the 48 pairs is an unbiased policy gradient."""
    advantages = fresh_advantages(advantage)
    assert_same(expected_gradient(surrogate)(advantages, OLD), EXACT)


@pytest.mark.parametrize(
    "name, factor", [("leave one out", 1.0), ("dr. grpo", 0.5)], ids=lambda x: str(x)
)
def test_group_baselines(name, factor):
    """Over all 81 pairs of responses: RLOO is unbiased, Dr. GRPO shrunk by (K - 1) / K."""
    pairs = np.array(list(itertools.product(range(9), repeat=2)))
    rows = pairs.reshape(-1)
    rewards, mask = REWARDS[rows], jnp.ones((len(rows), 2))

    def loss(theta):
        if name == "leave one out":
            advantages = leave_one_out(rewards, mask, 2)
        else:
            advantages = group_normalised(rewards, mask, 2, divide_by_std=False)
        weights = jnp.prod(probabilities(THETA)[pairs], axis=1)
        p = log_probs(theta, RESPONSES[rows])
        losses = jnp.sum(ppo_clip(p, jax.lax.stop_gradient(p), advantages, 0.2), axis=1)
        return jnp.sum(weights * jnp.mean(losses.reshape(-1, 2), axis=1))

    assert_same(jax.jit(jax.grad(loss))(THETA), jax.tree.map(lambda g: factor * g, EXACT))


def test_a_baseline_that_looks_at_the_action_is_caught():
    """The enumeration can fail: the response's own score as its baseline leaves no gradient."""
    advantages = minus_baseline(REWARDS, MASK, jnp.stack([SCORES, SCORES], axis=1))
    biased = expected_gradient("reinforce")(advantages, OLD)
    assert max(float(jnp.abs(biased[k] - EXACT[k]).max()) for k in EXACT) > 0.05


def test_importance_weights_make_one_token_rollouts_of_another_policy_unbiased():
    """Only the unclipped ratio is unbiased on stale rollouts; forgetting it is not."""
    old, new = THETA["second"][0], THETA["second"][1]
    scores = SCORES[:3]

    def expected(surrogate):
        def loss(logits):
            p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(old)
            return jnp.sum(jnp.exp(q) * surrogate(p, q, scores))

        return jax.jit(jax.grad(loss))(new)

    exact = jax.jit(jax.grad(lambda logits: -jnp.sum(jax.nn.softmax(logits) * scores)))(new)
    free = functools.partial(truncated_importance, ratio_ceiling=1e9)
    for surrogate in (importance_weighted, free):
        np.testing.assert_allclose(expected(surrogate), exact, atol=1e-6)
    assert jnp.max(jnp.abs(expected(reinforce) - exact)) > 0.05


def test_ppo_penalty_has_the_gradient_of_kl_old_new_on_stale_tokens():
    old, new = THETA["second"][0], THETA["second"][1]

    def penalty(logits):
        p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(old)
        return jnp.sum(jnp.exp(q) * ppo_penalty(p, q, jnp.zeros(3), 1.0))

    def exact(logits):
        p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(old)
        return jnp.sum(jnp.exp(q) * (q - p))

    one, other = (jax.jit(jax.value_and_grad(f))(new) for f in (penalty, exact))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    np.testing.assert_allclose(one[1], other[1], atol=1e-6)


def test_kl_in_the_reward_is_the_gradient_of_the_regularised_objective():
    """E[score] - beta KL(policy || reference) over whole responses, by REINFORCE and by PPO."""

    def objective(theta):
        return -jnp.sum(probabilities(theta) * SCORES) + 0.1 * sequence_kl(theta)

    for surrogate in ("reinforce", "ppo"):
        gradient = expected_gradient(surrogate)(reward_to_go(SHAPED, MASK), OLD)
        assert_same(gradient, jax.jit(jax.grad(objective))(THETA))


def test_kl_in_the_loss_is_the_gradient_of_each_visited_tokens_kl():
    """kl_loss counts each token's own KL; that the first token changes the second's KL is left to
    the reward, so only the last token's parameters have the sequence KL's gradient."""
    weights = probabilities(THETA)

    def loss(theta):
        return jnp.sum(weights * jnp.sum(kl_loss(log_probs(theta), log_probs(REFERENCE)), axis=1))

    def first_token_kl(theta):
        p, q = jax.nn.log_softmax(theta["first"]), jax.nn.log_softmax(REFERENCE["first"])
        return jnp.sum(jnp.exp(p) * (p - q))

    gradient, whole, first = (
        jax.jit(jax.grad(f))(THETA) for f in (loss, sequence_kl, first_token_kl)
    )
    np.testing.assert_allclose(gradient["second"], whole["second"], atol=1e-5)
    np.testing.assert_allclose(gradient["first"], first["first"], atol=1e-5)
    assert jnp.max(jnp.abs(gradient["first"] - whole["first"])) > 1e-2
