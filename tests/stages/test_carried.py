"""What a stage learns from, of sampled responses made by hand: the KL in the reward or out of it,
groups, averages; and what an iteration carries on to the next."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.estimator import (
    GroupNormalised,
    LeaveOneOut,
    MovingAverage,
    PPOPenalty,
    RewardToGo,
    VTrace,
)
from rlhf_jax.objectives.kl import DoublingController
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.stages import policy_update
from rlhf_jax.stages.experience import Experience, Experiences, Moved, Sampled
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.stages import tiny

FREE = tiny.ppo_config(advantage=RewardToGo(), value_optimizer=None, whiten_advantages=False)
LENGTHS = [len(response) for response in tiny.RESPONSES]
KL = 0.3


def sampled() -> Sampled:
    rng = np.random.default_rng(0)
    mask = (np.arange(tiny.RESPONSE) < np.array(LENGTHS)[:, None]).astype(np.float32)
    draw = lambda: rng.normal(size=mask.shape).astype(np.float32)
    tokens = np.zeros((8, 12), np.int32)
    about = {"ended": np.ones(8), "sick_rows": np.zeros(8), "sampler_gap": np.zeros(8)}
    log_probs = draw() - 2
    return Sampled(
        tokens, tokens, mask, log_probs, log_probs + 0.7 * draw(),
        rng.normal(size=8).astype(np.float32), about,
    )  # fmt: skip


S = sampled()
ESTIMATORS = {
    "k1": lambda d: d,
    "k2": lambda d: d**2 / 2,
    "k3": lambda d: np.exp(-d) - 1 + d,
}


def rewards(kl_estimator, coefficient=KL):
    """Of each token of each response."""
    found = []
    for b, count in enumerate(LENGTHS):
        difference = np.float64(S.log_probs[b, :count]) - S.ref_log_probs[b, :count]
        row = -coefficient * ESTIMATORS[kl_estimator](difference)
        row[-1] += S.scores[b]
        found.append(row)
    return found


def experience(config, values=None, log_probs=None, **carried):
    state = tiny.state_of(config, kl_coefficient=jnp.float32(KL), **carried)
    learner = S.log_probs if log_probs is None else log_probs
    made = Experiences(config, tiny.SHAPES, tiny.ENDING)
    return made._experience(state, jax.tree.map(jnp.asarray, S), values, jnp.asarray(learner))


def assert_rows(found, expected):
    for b, count in enumerate(LENGTHS):
        np.testing.assert_allclose(found[b, :count], expected[b], rtol=1e-4, atol=1e-5)
        assert not np.asarray(found[b, count:]).any()


@pytest.mark.parametrize("kl_estimator", ESTIMATORS)
def test_the_kl_of_each_token_stands_in_its_reward(kl_estimator):
    config = dataclasses.replace(FREE, kl_estimator=kl_estimator)
    found, moved, metrics = experience(config)
    of = [np.cumsum(row[::-1])[::-1] for row in rewards(kl_estimator)]
    assert_rows(found.advantages, of)
    assert found.ref_log_probs is None and found.returns is None and found.values is None
    assert "explained_variance" not in metrics
    # What is told and what moves the coefficient is k1's, whatever the penalty is of.
    gaps = [np.sum((S.log_probs - S.ref_log_probs)[b, :n]) for b, n in enumerate(LENGTHS)]
    np.testing.assert_allclose([moved.kl, metrics["kl"]], np.mean(gaps), rtol=1e-5)


def test_a_kl_in_the_loss_stands_in_no_reward():
    config = dataclasses.replace(FREE, kl_in="loss", kl_estimator="k3")
    found, _, metrics = experience(config)
    assert_rows(found.advantages, [np.full(n, S.scores[b]) for b, n in enumerate(LENGTHS)])
    np.testing.assert_array_equal(found.ref_log_probs, S.ref_log_probs)
    assert metrics["kl_coefficient"] == np.float32(KL)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("advantage", [LeaveOneOut(), GroupNormalised()])
def test_a_response_is_compared_with_those_of_its_group(advantage, group):
    """Of the whole reward, KL and score."""
    config = dataclasses.replace(FREE, advantage=advantage, group=group)
    found, _, _ = experience(config)
    returns, expected = [row.sum() for row in rewards("k1")], []
    for b, count in enumerate(LENGTHS):
        first = b // group * group
        own = returns[first : first + group]
        if advantage == LeaveOneOut():
            value = returns[b] - (sum(own) - returns[b]) / (group - 1)
        else:
            value = (returns[b] - np.mean(own)) / np.std(own)
        expected.append(np.full(count, value))
    assert_rows(found.advantages, np.array(expected, object))


def test_the_moving_average_of_the_state_is_subtracted_and_moves():
    config = dataclasses.replace(FREE, advantage=MovingAverage(0.8))
    found, moved, _ = experience(config, advantage=jnp.float32(0.25))
    returns = [row.sum() for row in rewards("k1")]
    assert_rows(found.advantages, [np.full(n, returns[b] - 0.25) for b, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(moved.advantage, 0.8 * 0.25 + 0.2 * np.mean(returns), rtol=1e-5)


def test_an_advantage_reads_the_policy_that_learns_and_the_one_that_sampled():
    """V-trace by its recursion, of stale responses."""
    config = tiny.ppo_config(advantage=VTrace(0.9, 0.8, 1.0), whiten_advantages=False)
    rng = np.random.default_rng(4)
    values, learner = (
        (offset + 0.4 * rng.normal(size=S.mask.shape)).astype(np.float32)
        for offset in (0, S.log_probs)
    )
    found, _, _ = experience(config, jnp.asarray(values * S.mask), learner)
    expected, returns = [], []
    for b, reward in enumerate(rewards("k1")):
        rho = np.minimum(1, np.exp(np.float64(learner[b]) - S.log_probs[b]))
        row, targets, excess = np.zeros(len(reward)), np.zeros(len(reward)), 0.0
        for t in reversed(range(len(reward))):
            following = values[b, t + 1] if t + 1 < len(reward) else 0.0
            row[t] = reward[t] + 0.9 * (following + 0.8 * excess) - values[b, t]
            excess = rho[t] * row[t]
            targets[t] = values[b, t] + excess
        expected.append(row)
        returns.append(targets)
    assert_rows(found.advantages, expected)
    assert_rows(found.returns, returns)
    np.testing.assert_array_equal(found.log_probs, S.log_probs)
    np.testing.assert_array_equal(found.values, values * S.mask)


def test_stale_responses_are_read_by_the_networks_of_the_iteration(monkeypatch):
    """Those in the place of the iteration, 4 of 3 places."""
    config = tiny.ppo_config(stale=2)
    prompts, responses = (
        tiny.left_padded(tiny.PROMPTS, 6), tiny.right_padded(tiny.RESPONSES, tiny.RESPONSE),
    )  # fmt: skip
    tokens, segments = map(np.hstack, zip(prompts, responses, strict=True))
    place = S._replace(tokens=tokens, segments=segments)
    other = jax.tree.map(np.zeros_like, place)
    queue = jax.tree.map(lambda *x: np.stack(x), other, place, other)
    policy, value = tiny.policy_params(1), tiny.score_params(2)
    given = lambda self, state, sampled, values, log_probs: (sampled, (values, log_probs), {})
    monkeypatch.setattr(Experiences, "_experience", given)
    state = tiny.state_of(config, policy, value, step=jnp.int32(4), queue=queue)
    frozen = tiny.frozen_of(config, policy, tiny.policy_params(3), tiny.score_params(4))
    run = jax.jit(Experiences(config, tiny.SHAPES, tiny.ENDING).stale)
    sampled, (values, log_probs), metrics = run(state, frozen)
    jax.tree.map(np.testing.assert_array_equal, sampled, place)
    sequences = [p + r for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)]
    learner, gaps = tiny.sequence_log_probs(policy, sequences, config.temperature), []
    critic = tiny.sequence_scores(value, sequences)
    for b, count in enumerate(LENGTHS):
        expected = learner[b][-count:]
        np.testing.assert_allclose(log_probs[b, :count], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(values[b, :count], critic[b][-count - 1 : -1], rtol=1e-4)
        gaps.extend((expected - S.log_probs[b, :count]) ** 2 / 2)
    np.testing.assert_allclose(metrics["stale_kl"], np.mean(gaps), rtol=1e-4)


# A step is the gradient: an epsilon that drowns it, and as large a rate.
PLAIN = OptimizerConfig(learning_rate=1e6, epsilon=1e6, b1=0.0, b2=0.0, max_grad_norm=None)
PENALTY = dataclasses.replace(
    FREE, policy_optimizer=PLAIN, epochs=1, batch_size=8, minibatches=2,
    surrogate=PPOPenalty(DoublingController(0.5, target=1.0)),
)  # fmt: skip


@pytest.fixture
def update(monkeypatch):
    """An update whose gradient is the surrogate's coefficient, and whose approximate KL is a mean
    of the log-probabilities by the mask."""

    def loss(params, batch, state):
        coefficient = 0.0 if state.surrogate is None else state.surrogate
        mean = WeightedMean.of(params["w"] * (coefficient + batch.advantages), batch.mask)
        return mean, {"approximate_kl": WeightedMean.of(batch.log_probs, batch.mask)}

    monkeypatch.setattr(policy_update, "policy_loss", lambda *_: loss)

    def build(config):
        state = policy_update.initial_state(config, {"w": jnp.ones(())}, None, jax.random.key(0))
        run = jax.jit(policy_update.make_update(config, tiny.SHAPES))
        return state, lambda state, experience, moved: run(state, experience, moved, None)

    return build


def episodes(kls, weights, advantages=0.0):
    mask = np.broadcast_to(np.float32(weights)[:, None], (8, 1))
    kl = np.broadcast_to(np.float32(kls)[:, None], (8, 1))
    zeros = np.zeros((8, 1), np.float32)
    return Experience(zeros, zeros, mask, kl, None, None, zeros + np.float32(advantages), None)


def test_a_penalty_s_coefficient_is_that_of_the_iteration_and_doubles_by_its_kl(update):
    """The KL is the mean over all tokens of the iteration, not over minibatches."""
    state, run = update(PENALTY)
    moved = Moved(jnp.float32(0.1), None)
    weights = np.array([1, 0, 0, 0, 0, 0, 0, 1.0])
    coefficient = 0.5
    # Tokens' mean of 1.6, 1.0 and 0.6 nats: above 1.5 target, between, below target / 1.5.
    for kls, factor in (([1.2, 2.0], 2), ([0.5, 1.5], 1), ([0.6, 0.6], 0.5)):
        at_ends = np.array([kls[0], 0, 0, 0, 0, 0, 0, kls[1]])
        before = state.policy["w"]
        state, metrics = run(state, episodes(at_ends, weights), moved)
        np.testing.assert_allclose(metrics["approximate_kl"], np.mean(kls), rtol=1e-6)
        steps = 2 - metrics["empty_steps"]
        np.testing.assert_allclose(before - state.policy["w"], steps * coefficient, rtol=1e-5)
        coefficient *= factor
        assert state.surrogate == coefficient


def test_a_sick_iteration_leaves_what_is_carried_as_it_was(update):
    state, run = update(PENALTY)
    sick = episodes(np.full(8, np.nan), np.ones(8), advantages=np.nan)
    state, metrics = run(state, sick, Moved(jnp.float32(np.nan), None))
    assert metrics["skipped_steps"] == 2 and state.surrogate == 0.5 and state.step == 1
    average = dataclasses.replace(PENALTY, advantage=MovingAverage(), surrogate=PENALTY.surrogate)
    state, run = update(average)
    assert state.advantage == 0
    healthy = episodes(np.ones(8), np.ones(8))
    state, _ = run(state, healthy, Moved(jnp.float32(0.1), jnp.float32(0.7)))
    assert state.advantage == np.float32(0.7)
    state, _ = run(state, healthy, Moved(jnp.float32(np.nan), jnp.float32(np.nan)))
    assert state.advantage == np.float32(0.7)
    state, _ = run(state, healthy, Moved(jnp.float32(0.1), jnp.float32(0.2)))
    assert state.advantage == np.float32(0.2)
