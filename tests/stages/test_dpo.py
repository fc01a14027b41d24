"""The DPO stage: explicit pairs of whole responses, against the frozen reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.arrays import ranking_rows
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import ConfigError
from rlhf_jax.stages import dpo, supervised
from rlhf_jax.training.gradients import accumulate_gradients
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Letters
from tests.objectives.harness import assert_close, central_differences
from tests.stages import tiny
from tests.stages.test_reward_model import RANKINGS, better_pairs, ids_of, mean_over_prompts

OBJECTIVES = [dpo.DPO(beta=0.3), dpo.DPO(beta=0.3, label_smoothing=0.2), dpo.IPO(beta=0.3),
              dpo.IPO(beta=0.3, per_token=True), dpo.SimPO(beta=2.0, margin=0.5),
              dpo.ORPO(coefficient=0.3)]  # fmt: skip
RATE = OptimizerConfig(learning_rate=1e-2)


@functools.cache
def ranking_batch(length=10):
    """With the reference's log-probabilities, taken in two micro-batches."""
    rows = ranking_rows(RANKINGS, Letters(), length, outputs=4, packed=1)
    batch = rows.to_batch(list(rows.rows))
    refer = jax.jit(dpo.reference_log_probs(tiny.MODEL, 2))
    return batch | {"ref_log_probs": refer(tiny.policy_params(7), sequences(batch))}


def sequences(batch):
    """What a reference reads of a batch."""
    return {name: batch[name] for name in ("tokens", "segments", "weights")}


def loops(params) -> list[list[float]]:
    """Sum of log p over the tokens of each response and its eos, prompts left out."""
    found = []
    for ranking in RANKINGS:
        prompt = len(Letters().encode(ranking.prompt))
        sequences = [ids_of(ranking.prompt, text) for text in ranking.responses]
        found.append([row[prompt:].sum() for row in tiny.sequence_log_probs(params, sequences)])
    return found


@functools.cache
def counts() -> list[list[int]]:
    """Tokens of each response, its eos included."""
    found = []
    for ranking in RANKINGS:
        prompt = len(ids_of(ranking.prompt, "")) - 1  # bos and prompt; the last is eos
        found.append([len(ids_of(ranking.prompt, text)) - prompt for text in ranking.responses])
    return found


def rewards_of(objective, log_probs, reference):
    """What each objective ranks responses by: the log-ratio, its mean a token, or the mean log p
    of a token."""
    by_token = getattr(objective, "per_token", not objective.reference)
    found = []
    for row, ref, tokens in zip(log_probs, reference, counts(), strict=True):
        row = np.array(row[: len(ref)]) - (np.array(ref) if objective.reference else 0)
        found.append(row / tokens if by_token else row)
    return found


def pair_loss(objective, better, worse):
    """Of the rewards of a pair."""
    h = better - worse
    match objective:
        case dpo.IPO(beta=beta):
            return (h - 1 / (2 * beta)) ** 2
        case dpo.DPO(beta=beta, label_smoothing=e):
            return (1 - e) * np.log1p(np.exp(-beta * h)) + e * np.log1p(np.exp(beta * h))
        case dpo.SimPO(beta=beta, margin=margin):
            return np.log1p(np.exp(-(beta * h - margin)))
        case dpo.ORPO(coefficient=coefficient):
            odds = [np.exp(x) / (1 - np.exp(x)) for x in (better, worse)]
            return -better + coefficient * np.log1p(odds[1] / odds[0])


def loss_loops(objective, log_probs, reference, divide_by="all_pairs"):
    of_prompt, rewards = {}, rewards_of(objective, log_probs, reference)
    for n, i, j in better_pairs():
        loss = pair_loss(objective, rewards[n][i], rewards[n][j])
        of_prompt.setdefault(n, []).append(loss)
    return mean_over_prompts(of_prompt, divide_by)


def evaluate(objective, length=10, divide_by="all_pairs"):
    loss = dpo.preference_loss(objective, tiny.MODEL, divide_by)
    run = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b)[0].mean))
    batch = ranking_batch(length)
    if not objective.reference:
        batch = {name: x for name, x in batch.items() if name != "ref_log_probs"}
    return run(tiny.policy_params(1), batch)


def test_log_probs_are_of_whole_responses_and_of_nothing_else():
    batch = ranking_batch()
    for params, found in (
        (tiny.policy_params(7), batch["ref_log_probs"]),
        (tiny.policy_params(1), dpo.response_log_probs(tiny.MODEL, tiny.policy_params(1), batch)),
    ):
        for n, row in enumerate(loops(params)):
            np.testing.assert_allclose(found[n, : len(row)], row, rtol=1e-5, atol=1e-4)
            np.testing.assert_array_equal(found[n, len(row) :], 0)


@functools.cache
def log_probs_and_pullback():
    """Of responses by the policy, and (params, cotangent) -> gradient of the parameters."""
    log_probs = lambda p: dpo.response_log_probs(tiny.MODEL, p, ranking_batch())
    pullback = jax.jit(lambda p, cotangent: jax.vjp(log_probs, p)[1](cotangent)[0])
    return jax.jit(log_probs)(tiny.policy_params(1)), pullback


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_loss_and_gradient_equal_explicit_pairs(objective):
    params, reference = tiny.policy_params(1), loops(tiny.policy_params(7))
    value, gradient = evaluate(objective)
    np.testing.assert_allclose(value, loss_loops(objective, loops(params), reference), rtol=1e-4)
    log_probs, pullback = log_probs_and_pullback()
    cotangent = central_differences(
        lambda logs: loss_loops(objective, logs, reference), np.asarray(log_probs, np.float64)
    )
    expected = pullback(params, jnp.asarray(cotangent, jnp.float32))
    assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_pairs_are_divided_as_asked():
    logs = loops(tiny.policy_params(1)), loops(tiny.policy_params(7))
    expected = loss_loops(OBJECTIVES[0], *logs, "untied_pairs")
    value, _ = evaluate(OBJECTIVES[0], divide_by="untied_pairs")
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert abs(expected - loss_loops(OBJECTIVES[0], *logs)) > 0.01


def test_at_the_reference_a_pair_s_loss_is_log_2_and_nothing_has_moved():
    """The first prompt has 5 untied pairs of 6, the two others all of theirs."""
    loss = dpo.preference_loss(dpo.DPO(), tiny.MODEL)
    mean, metrics = loss(tiny.policy_params(7), ranking_batch())
    np.testing.assert_allclose(mean.mean, np.log(2) * (5 / 6 + 1 + 1) / 3, rtol=1e-5)
    for name in ("margin", "better_reward", "worse_reward"):
        np.testing.assert_allclose(metrics[name].mean, 0, atol=1e-4)


@pytest.mark.parametrize("objective", [dpo.DPO(), dpo.IPO(per_token=True), dpo.SimPO()], ids=str)
def test_metrics_equal_the_loops(objective):
    params = tiny.policy_params(1)
    rewards = rewards_of(objective, loops(params), loops(tiny.policy_params(7)))
    pairs = {}
    for n, i, j in better_pairs():
        pairs.setdefault(n, []).append((rewards[n][i], rewards[n][j]))
    flat = [pair for found in pairs.values() for pair in found]
    mean = lambda f: np.mean([np.mean([f(*pair) for pair in found]) for found in pairs.values()])
    expected = {
        "accuracy": np.mean([better > worse for better, worse in flat]),
        "margin": mean(lambda better, worse: better - worse),
        "better_reward": mean(lambda better, worse: better),
        "worse_reward": mean(lambda better, worse: worse),
    }
    _, metrics = dpo.preference_loss(objective, tiny.MODEL)(params, ranking_batch())
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name].mean, value, rtol=1e-4, atol=1e-4)
    assert metrics["accuracy"].weight == len(flat) == 9


def test_more_right_padding_changes_neither_loss_nor_gradient():
    assert_close(evaluate(dpo.DPO(), 14), evaluate(dpo.DPO()), rtol=1e-4, atol=1e-5)


def test_micro_batches_of_uneven_pairs_give_the_whole_batch_s_gradient():
    loss, batch = dpo.preference_loss(dpo.DPO(), tiny.MODEL), ranking_batch()
    run = jax.jit(lambda params: [accumulate_gradients(loss, params, batch, n)[0] for n in (2, 4)])
    for micro in run(tiny.policy_params(1)):
        assert_close(micro, evaluate(dpo.DPO())[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", [dpo.DPO(), dpo.SimPO(), dpo.ORPO()], ids=str)
def test_updates_bring_the_policy_to_the_rankings(objective):
    config = dpo.DirectPreference(
        RATE, objective=objective, batch_size=4, outputs=4, length=10, start="sft"
    )
    loss = dpo.preference_loss(config.objective, tiny.MODEL)
    update, optimizer = supervised.make_update(loss, config, 20)
    params = jax.tree.map(jnp.copy, tiny.policy_params(7))  # the update donates them
    state = supervised.initial_state(params, optimizer, jax.random.key(0))
    seen = []
    for _ in range(20):
        state, metrics = update(state, ranking_batch())
        seen.append((float(metrics["loss"]), float(metrics["accuracy"]), float(metrics["margin"])))
    (first, _, margin), (last, accuracy, later) = seen[0], seen[-1]
    further = 5 if objective.reference else 0.5  # nats of a response, or of a token
    assert last < first / 2 and accuracy == 1 and later > margin + further


@pytest.mark.parametrize(
    "field, value",
    [("epochs", 0), ("batch_size", 0), ("length", -1), ("outputs", 1), ("micro_batches", 3)],
)
def test_an_impossible_value_is_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        dpo.DirectPreference(RATE, start="sft", **{field: value})
    assert str(caught.value).startswith(f"{field} = ")


@pytest.mark.parametrize(
    "kind, field, value",
    [
        (dpo.DPO, "beta", 0.0),
        (dpo.IPO, "beta", -1.0),
        (dpo.DPO, "label_smoothing", 0.5),
        (dpo.SimPO, "beta", 0.0),
        (dpo.SimPO, "margin", -0.1),
        (dpo.ORPO, "coefficient", 0.0),
    ],
)
def test_an_impossible_objective_is_refused_by_name(kind, field, value):
    with pytest.raises(ConfigError) as caught:
        kind(**{field: value})
    assert str(caught.value).startswith(f"{field} = ")


def test_equal_responses_ranked_apart_move_no_parameter():
    """Two texts that are one, ranked apart: no pair, and a gradient of 0 in every bit."""
    rankings = [Ranking("ab", ("cd", "cd"), (0, 1)), Ranking("m", ("n", "op", "n"), (0, 1, 2))]
    rows = ranking_rows(rankings, Letters(), 10, outputs=3, packed=1)
    batch = rows.to_batch(list(rows.rows))
    np.testing.assert_array_equal(batch["ranks"], [[0, 0, -1], [0, 0, 0]])
    batch["ref_log_probs"] = np.zeros((2, 3), np.float32)
    loss = dpo.preference_loss(dpo.DPO(beta=0.3), tiny.MODEL, "all_pairs")
    sums = lambda p, b: (loss(p, b)[0].total, loss(p, b)[0].weight)
    run = jax.jit(jax.value_and_grad(sums, has_aux=True))
    (total, weight), gradient = run(tiny.policy_params(1), batch)
    assert (total, weight) == (0, 0)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0)
