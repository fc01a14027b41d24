"""Experience equals NumPy loops over unpadded sequences, token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.generation.decode import Rollout, row_uniforms
from rlhf_jax.generation.ending import Ending
from rlhf_jax.objectives.estimator import GAE, RewardToGo
from rlhf_jax.rewards.checked import CheckedReward
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.rewards.penalties import MissingEnd, OverLong
from rlhf_jax.stages import policy_update
from rlhf_jax.stages.experience import Experiences, Frozen, make_rollout
from rlhf_jax.stages.fitting import WHOLE, Fit
from tests.stages import tiny

PLAIN = tiny.ppo_config()
OTHER = tiny.ppo_config(
    whiten_rewards=True, whiten_advantages=False, advantage=GAE(0.9, 0.8), minibatches=1,
    prompt_length=9,
)  # fmt: skip
AS_READ = Ending(tiny.EOS, tiny.PAD)  # a missing end changes no score
KL = 0.3


def hand_made_rollout() -> Rollout:
    tokens, mask = tiny.right_padded(tiny.RESPONSES, tiny.RESPONSE)
    mask = mask.astype(np.float32)
    return Rollout(jnp.array(tokens), jnp.array(mask), jnp.zeros(mask.shape))


def state_of(policy, value):
    return tiny.state_of(PLAIN, policy, value, kl_coefficient=jnp.float32(KL))


@functools.cache
def networks():
    """(policy, value function, reference, reward model), all different."""
    return (tiny.policy_params(1), tiny.score_params(2), tiny.policy_params(3),
            tiny.score_params(4))  # fmt: skip


@functools.cache
def program(config, ending=tiny.ENDING):
    return jax.jit(Experiences(config, tiny.SHAPES, ending).fresh)


def frozen_of(config, reference=None):
    policy, _, other, reward = networks()
    return tiny.frozen_of(config, policy, other if reference is None else reference, reward)


def experience(config, ending=tiny.ENDING, reference=None, rollout=None, fit=WHOLE):
    policy, value, *_ = networks()
    batch, rollout = tiny.prompt_batch(config.prompt_length), rollout or hand_made_rollout()
    frozen, run = frozen_of(config, reference), program(config, ending)
    found, _, metrics = run(state_of(policy, value), frozen, batch, rollout, {}, fit)
    return jax.device_get((found, metrics))


def whitened_loops(rows, keep_mean):
    flat = np.concatenate(rows)
    mean = sum(flat) / len(flat)
    variance = sum((x - mean) ** 2 for x in flat) / len(flat)
    return [(row - mean) / np.sqrt(variance + 1e-8) + keep_mean * mean for row in rows]


def explained(values, returns) -> float:
    spread = lambda x: sum((x - sum(x) / len(x)) ** 2)
    return 1 - spread(returns - values) / spread(returns)


def oracle(config, ending):
    """Per row: log-probs, values, advantages, returns over the response's tokens; metrics."""
    sequences = [p + r for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)]
    policy, value, reference, reward = networks()
    starts = [len(p) - 1 for p in tiny.PROMPTS]
    cut = lambda rows: [row[start:] for row, start in zip(rows, starts, strict=True)]
    log_probs = cut(tiny.sequence_log_probs(policy, sequences, config.temperature))
    ref_log_probs = cut(tiny.sequence_log_probs(reference, sequences, config.temperature))
    values = [row[:-1] for row in cut(tiny.sequence_scores(value, sequences))]
    scores = [row[-1] for row in tiny.sequence_scores(reward, sequences)]
    rewards = []
    for b, response in enumerate(tiny.RESPONSES):
        if ending.missing is not None and response[-1] != tiny.EOS:
            scores[b] = ending.missing
        row = [-KL * (p - r) for p, r in zip(log_probs[b], ref_log_probs[b], strict=True)]
        row[-1] += scores[b]
        rewards.append(np.array(row))
    if config.whiten_rewards:
        rewards = whitened_loops(rewards, keep_mean=True)
    advantages, returns = [], []
    discount, lam = config.advantage.discount, config.advantage.lam
    for reward_row, value_row in zip(rewards, values, strict=True):
        row, advantage = np.zeros(len(reward_row)), 0.0
        for t in reversed(range(len(reward_row))):
            after = value_row[t + 1] if t + 1 < len(value_row) else 0.0
            delta = reward_row[t] + discount * after - value_row[t]
            advantage = delta + discount * lam * advantage
            row[t] = advantage
        advantages.append(row)
        returns.append(row + value_row)
    if config.whiten_advantages:
        advantages = whitened_loops(advantages, keep_mean=False)
    kl = [sum(p - r) for p, r in zip(log_probs, ref_log_probs, strict=True)]
    metrics = {
        "score": sum(scores) / len(scores),
        "kl": sum(kl) / len(kl),
        "entropy": -np.concatenate(log_probs).mean(),
        "response_tokens": np.mean([len(r) for r in tiny.RESPONSES]),
        "ended": np.mean([r[-1] == tiny.EOS for r in tiny.RESPONSES]),
        "kl_coefficient": KL,
        "explained_variance": explained(np.concatenate(values), np.concatenate(returns)),
    }
    rows = {"log_probs": log_probs, "values": values, "advantages": advantages, "returns": returns}
    return rows, metrics


@pytest.mark.parametrize(
    "config, ending", [(PLAIN, tiny.ENDING), (OTHER, AS_READ)], ids=["plain", "other"]
)
def test_experience_equals_loops_over_unpadded_sequences(config, ending):
    found, metrics = experience(config, ending)
    rows, expected = oracle(config, ending)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=2e-5, err_msg=name)
    for b, response in enumerate(tiny.RESPONSES):
        np.testing.assert_array_equal(found.mask[b], np.arange(tiny.RESPONSE) < len(response))
        for name, expected_rows in rows.items():
            ours = getattr(found, name)[b, : len(response)]
            np.testing.assert_allclose(ours, expected_rows[b], rtol=1e-4, atol=1e-4, err_msg=name)
    outside = found.mask == 0
    assert not found.advantages[outside].any() and not found.returns[outside].any()


def test_more_left_padding_changes_no_episode():
    near, _ = experience(PLAIN)
    far, _ = experience(dataclasses.replace(PLAIN, prompt_length=9))
    for name in ("log_probs", "values", "advantages", "returns"):
        ours, theirs = (getattr(x, name) * x.mask for x in (near, far))
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


def test_columns_after_the_longest_response_change_no_episode():
    """Of 12 columns of prompt and response 9 are left."""
    short = jax.tree.map(lambda x: x.at[:, 3:].set(0), hand_made_rollout())
    (whole, told), (cut, also) = (
        experience(PLAIN, rollout=short, fit=fit) for fit in (WHOLE, Fit(response=3))
    )
    for name in ("log_probs", "values", "advantages", "returns"):
        ours, theirs = (getattr(x, name)[:, :3] * x.mask[:, :3] for x in (whole, cut))
        assert getattr(cut, name).shape == (8, 3)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    tokens = short.mask.sum() + sum(map(len, tiny.PROMPTS))
    for metrics, places in ((told, 8 * 12), (also, 8 * 9)):
        np.testing.assert_allclose(metrics["padding"], 1 - tokens / places, rtol=1e-6)
    for name in set(told) - {"padding"}:
        np.testing.assert_allclose(told[name], also[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_kl_of_the_policy_to_itself_is_zero_at_any_temperature():
    _, metrics = experience(PLAIN, reference=networks()[0])
    assert abs(metrics["kl"]) < 1e-5
    _, metrics = experience(PLAIN)
    assert abs(metrics["kl"]) > 1e-2


def test_every_token_is_drawn_from_the_whole_distribution_at_the_temperature():
    """By the inverse of its running sum, from the uniform number of row and column."""
    key, rollout = jax.random.key(5), jax.device_get(sampled(0.7))
    uniforms = np.asarray(row_uniforms(key, jnp.arange(8), tiny.RESPONSE), np.float64)
    matrix, drawn = np.asarray(networks()[0]["tokens"], np.float64), 0
    for b, prompt in enumerate(tiny.PROMPTS):
        response = rollout.tokens[b][rollout.mask[b] > 0].tolist()
        states = tiny.sequence_states(networks()[0], [prompt + response])[0]
        for t, token in enumerate(response):
            logits = matrix @ states[len(prompt) - 1 + t] / 0.7
            ends = np.cumsum(np.exp(logits - logits.max()))
            edges = np.append(0.0, ends / ends[-1])
            assert edges[token] - 1e-5 <= uniforms[b, t] <= edges[token + 1] + 1e-5
            drawn += 1
    assert drawn > 20


@functools.cache
def sampled(temperature):
    config = dataclasses.replace(PLAIN, temperature=temperature)
    run = jax.jit(make_rollout(config, tiny.MODEL, tiny.ENDING))
    return run(networks()[0], jax.random.key(5), tiny.prompt_batch())


def gap(sampling_temperature, temperature):
    config = dataclasses.replace(PLAIN, temperature=temperature)
    rollout = sampled(sampling_temperature)
    assert float(rollout.mask.sum()) > 8
    return float(experience(config, rollout=rollout)[1]["sampler_gap"])


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampler_and_learner_agree_on_every_token(temperature):
    assert gap(temperature, temperature) < 1e-4


def iteration(rollout):
    """A step that samples so and updates nothing, and the first state."""
    programs = {"rollout": rollout, "experience": program(PLAIN)}
    programs["update"] = lambda state, *_: (state, {})
    step = tiny.iteration(PLAIN, programs, frozen_of(PLAIN))
    return step, policy_update.initial_state(PLAIN, *networks()[:2], jax.random.key(0))


def test_the_first_iteration_stops_where_sampler_and_learner_disagree():
    step, state = iteration(lambda *_: sampled(1.0))
    with pytest.raises(UserError) as caught:
        step(state, tiny.asked_batch())
    assert f"{gap(1.0, 0.7):.3g}" in str(caught.value)


def test_what_a_sick_sampler_drew_reaches_no_update():
    """One token was drawn from NaN; the learner's own numbers are all finite."""
    rollout = hand_made_rollout()
    rollout = rollout._replace(log_probs=rollout.log_probs.at[3, 1].set(jnp.nan))
    found, metrics = experience(PLAIN, rollout=rollout)
    assert metrics["sick_rows"] == 1 and np.isnan(metrics["kl"])
    for name in ("log_probs", "advantages", "returns"):  # a NaN in each row: no minibatch counts
        assert np.isnan(np.asarray(getattr(found, name))).any(axis=1).all(), name
    assert experience(PLAIN)[1]["sick_rows"] == 0


def test_the_sampler_is_compared_with_the_learner_where_samples_are_finite():
    """An iteration of sick samples is left to the update, which skips it and counts it."""
    sick = sampled(0.7)._replace(log_probs=jnp.full((8, tiny.RESPONSE), jnp.nan))
    given = iter([sick, sampled(0.7), sampled(1.0)])
    step, state = iteration(lambda *_: next(given))
    rows = [step(state, tiny.asked_batch())[1]["sick_rows"] for _ in range(2)]
    assert rows == [8, 0]


def test_with_a_stop_token_only_a_response_that_ends_in_it_is_scored():
    _, metrics = experience(PLAIN, Ending(tiny.EOS, tiny.PAD, stop=10, missing=-50.0))
    assert float(metrics["ended"]) == 1 / 8  # the second response ends in 10
    sequence = tiny.PROMPTS[1] + tiny.RESPONSES[1]
    expected = (tiny.sequence_scores(networks()[3], [sequence])[0][-1] - 7 * 50) / 8
    np.testing.assert_allclose(metrics["score"], expected, rtol=1e-5)


# Terms of two scorers of two shapes, of two functions, of the end and of the length.
TERMS = (
    LearnedReward("second", weight=2.0), CheckedReward("a:b", on_error=5.0), MissingEnd(weight=0.7),
    CheckedReward("a:c", on_error=-3.0, weight=0.5), LearnedReward("first", weight=-1.0),
    OverLong(6, 3, weight=0.3),
)  # fmt: skip
MIXED = tiny.ppo_config(
    rewards=TERMS, advantage=RewardToGo(), value_optimizer=None, whiten_advantages=False,
    minibatches=1,
)  # fmt: skip
SMALL = dataclasses.replace(tiny.MODEL, layers=1, width=8)
FOUND = np.random.default_rng(6).normal(size=(2, 8)).astype(np.float32)
FOUND[0, 2] = FOUND[1, 2] = FOUND[1, 5] = np.nan
SAID = {"1": FOUND[0], "3": FOUND[1]}


def mixed():
    shapes = tiny.SHAPES._replace(scorers={"first": tiny.MODEL, "second": SMALL})
    return Experiences(MIXED, shapes, AS_READ)


def test_each_term_reads_its_own_scorer_and_its_own_function():
    scorers = {"first": tiny.score_params(2), "second": tiny.score_params(4, SMALL)}
    frozen = Frozen({}, scorers, {"policy": {}, "value": {}})
    prompts = tiny.prompt_batch(MIXED.prompt_length)
    scores = jax.jit(mixed().scores)(frozen, prompts, hand_made_rollout(), SAID)
    sequences = [p + r for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)]
    first = [row[-1] for row in tiny.sequence_scores(scorers["first"], sequences)]
    second = [row[-1] for row in tiny.sequence_scores(scorers["second"], sequences, SMALL)]
    for b, response in enumerate(tiny.RESPONSES):
        said = [5.0 if np.isnan(FOUND[0, b]) else FOUND[0, b],
                -3.0 if np.isnan(FOUND[1, b]) else FOUND[1, b]]  # fmt: skip
        expected = 2 * second[b] + said[0] + 0.5 * said[1] - first[b]
        expected -= 0.7 * (response[-1] != tiny.EOS) + 0.3 * max(0, len(response) - 3) / 3
        np.testing.assert_allclose(scores[b], expected, rtol=1e-4, atol=1e-5)


def test_terms_and_failed_calls_are_told_by_their_numbers():
    rng, rollout = np.random.default_rng(7), hand_made_rollout()
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    log_probs, read = draw(8, tiny.RESPONSE), {"first": draw(8), "second": draw(8)}
    log_probs[0, -1] = 9.0  # of no token
    zeros, made = np.zeros((8, 12), np.int32), mixed()
    sampled = made._sampled(zeros, zeros, rollout, (log_probs, log_probs, read), SAID)
    state = tiny.state_of(MIXED, kl_coefficient=jnp.float32(KL))
    _, _, metrics = made._experience(state, sampled, None, log_probs)
    missing = np.mean([response[-1] != tiny.EOS for response in tiny.RESPONSES])
    expected = {
        "reward_0": read["second"].mean(), "reward_1": np.nan_to_num(FOUND[0], nan=5).mean(),
        "reward_2": -missing, "reward_3": np.nan_to_num(FOUND[1], nan=-3).mean(),
        "reward_4": read["first"].mean(), "reward_errors": 3, "ended": 1 - missing,
        "sampler_gap": np.abs(log_probs * np.asarray(rollout.mask)).max(),
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    alone = Experiences(PLAIN, tiny.SHAPES, AS_READ)
    evaluated = log_probs, log_probs, {"reward": read["first"]}
    about = alone._sampled(zeros, zeros, rollout, evaluated, {}).about
    assert about.keys() == {"ended", "sick_rows", "sampler_gap"}
