"""The reward stage: explicit pairs, the token a score is read at, normalisation, baselines."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.arrays import demonstration_rows, ranking_rows
from rlhf_jax.data.batches import Pass
from rlhf_jax.data.records import Demonstration, Ranking
from rlhf_jax.errors import ConfigError
from rlhf_jax.stages import reward_model
from rlhf_jax.stages.reward_model import score_sequences
from rlhf_jax.training.gradients import accumulate_gradients
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Letters
from tests.objectives.harness import assert_close, central_differences
from tests.stages import tiny

RANKINGS = [
    Ranking("ab", ("c", "defg", "hi", "jkl"), (0, 1, 1, 2)),
    Ranking("m", ("nop", "q"), (1, 0)),
    Ranking("rs", ("t", "uv", "wxy"), (0, 0, 0)),  # all tied: says nothing
    Ranking("z", ("abcdef", "b", "cc"), (2, 0, 1)),
]


def ids_of(prompt, response):
    letters = Letters()
    return [letters.bos_id, *letters.encode(prompt), *letters.encode(response), letters.eos_id]


def ranking_batch(length=10):
    rows = ranking_rows(RANKINGS, Letters(), length, outputs=4, packed=1)
    return rows.to_batch(list(rows.rows))


@functools.cache
def reference_scores():
    """The score of every output, read at the eos of its own unpadded sequence."""
    params = tiny.score_params(1)
    return [
        [tiny.sequence_scores(params, [ids_of(r.prompt, text)])[0][-1] for text in r.responses]
        for r in RANKINGS
    ]


def better_pairs():
    """(prompt, better, worse) of every pair that is no tie."""
    for n, ranking in enumerate(RANKINGS):
        for i, rank in enumerate(ranking.ranks):
            for j, other in enumerate(ranking.ranks):
                if rank < other:
                    yield n, i, j


def mean_over_prompts(of_prompt, divide_by="all_pairs"):
    """Mean over prompts of the sum of their pairs' values, {prompt: values}, by C(K, 2) or by
    the number of values."""
    total = 0.0
    for n, values in of_prompt.items():
        every = math.comb(len(RANKINGS[n].responses), 2)
        total += sum(values) / {"all_pairs": every, "untied_pairs": len(values)}[divide_by]
    return total / len(of_prompt)


def loss_loops(scores, divide_by="all_pairs"):
    """Over prompts and their pairs, -log sigmoid(better - worse)."""
    of_prompt = {}
    for n, i, j in better_pairs():
        pair = np.log1p(np.exp(scores[n][j] - scores[n][i]))
        of_prompt.setdefault(n, []).append(pair)
    return mean_over_prompts(of_prompt, divide_by)


@functools.cache
def evaluate(length=10, divide_by="all_pairs"):
    loss = reward_model.reward_loss(tiny.MODEL, divide_by)
    run = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b)[0].mean))
    return run(tiny.score_params(1), ranking_batch(length))


def test_a_score_is_read_at_the_last_token_of_each_output():
    batch = ranking_batch()
    scores = score_sequences(tiny.MODEL, tiny.score_params(1), batch["tokens"], batch["segments"])
    for n, row in enumerate(reference_scores()):
        np.testing.assert_allclose(scores[n, : len(row)], row, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(scores[n, len(row) :], 0)


@pytest.mark.parametrize("divide_by", ["all_pairs", "untied_pairs"])
def test_the_loss_equals_explicit_pairs_divided_as_asked(divide_by):
    """The two differ by far more than the tolerance: the first prompt has a tie."""
    expected = loss_loops(reference_scores(), divide_by)
    np.testing.assert_allclose(evaluate(divide_by=divide_by)[0], expected, rtol=1e-5)
    both = [loss_loops(reference_scores(), by) for by in ("all_pairs", "untied_pairs")]
    assert abs(both[0] - both[1]) > 0.01


def test_the_gradient_equals_the_loop_s_by_way_of_the_scores():
    batch = ranking_batch()
    scores, pullback = jax.vjp(
        lambda params: score_sequences(tiny.MODEL, params, batch["tokens"], batch["segments"]),
        tiny.score_params(1),
    )
    cotangent = central_differences(loss_loops, np.asarray(scores, np.float64))
    expected = pullback(jnp.asarray(cotangent, jnp.float32))[0]
    assert_close(evaluate()[1], expected, rtol=1e-3, atol=1e-5)


def test_more_right_padding_changes_neither_loss_nor_gradient():
    assert_close(evaluate(14), evaluate(), rtol=1e-5, atol=1e-5)


def test_micro_batches_of_uneven_pairs_give_the_whole_batch_s_gradient():
    loss, batch = reward_model.reward_loss(tiny.MODEL), ranking_batch()
    run = jax.jit(lambda params: [accumulate_gradients(loss, params, batch, n)[0] for n in (2, 4)])
    for micro in run(tiny.score_params(1)):
        assert_close(micro, evaluate()[1], rtol=1e-4, atol=1e-6)


def test_length_pair_counts_hold_the_longer_output_for_the_better():
    correct, pairs = np.zeros(4), np.zeros(4)
    for n, i, j in better_pairs():
        one, other = len(RANKINGS[n].responses[i]), len(RANKINGS[n].responses[j])
        pairs[n] += 1
        correct[n] += 1.0 if one > other else 0.5 if one == other else 0.0
    found = reward_model.length_pair_counts([ranking_batch()])
    np.testing.assert_array_equal(found[0], correct)
    np.testing.assert_array_equal(found[1], pairs)


DEMONSTRATIONS = [Demonstration("ab", "cdef"), Demonstration("q", "r"), Demonstration("xyz", "ab")]


@pytest.mark.parametrize("how", ["none", "shift", "gain_and_bias"])
def test_normalisation_of_the_demonstrations_scores(how):
    params = tiny.score_params(5)
    batches = Pass(demonstration_rows(DEMONSTRATIONS, Letters(), 10, False), 2)
    normed = reward_model.normalise(tiny.MODEL, params, batches, how)
    sequences = [ids_of(d.prompt, d.response) for d in DEMONSTRATIONS]
    before, after = (
        np.array([row[-1] for row in tiny.sequence_scores(p, sequences)]) for p in (params, normed)
    )
    assert abs(before.mean()) > 0.1 and abs(before.std() - 1) > 0.1
    if how == "none":
        np.testing.assert_array_equal(after, before)
        return
    assert abs(after.mean()) < 1e-5
    expected = 1.0 if how == "gain_and_bias" else before.std()
    np.testing.assert_allclose(after.std(), expected, atol=1e-5)


def test_scores_that_are_alike_up_to_rounding_keep_gain_1():
    """A head of tiny weights beside a bias of 12345.678: in float32 the scores hardly differ."""
    params = tiny.score_params(5)
    head = params["score"]
    head = {"weights": 1e-4 * head["weights"], "bias": jnp.full_like(head["bias"], 12345.678)}
    batches = Pass(demonstration_rows(DEMONSTRATIONS, Letters(), 10, False), 2)
    run = lambda how: reward_model.normalise(tiny.MODEL, params | {"score": head}, batches, how)
    for how in ("shift", "gain_and_bias"):
        normed = run(how)["score"]
        np.testing.assert_array_equal(normed["weights"], head["weights"])
        np.testing.assert_allclose(normed["bias"], 0, atol=2e-3)


@pytest.mark.parametrize(
    "field, value",
    [("epochs", 0), ("batch_size", 0), ("length", -1), ("outputs", 1), ("micro_batches", 3),
     ("normalise", "mean"), ("divide_by", "pairs")],
)  # fmt: skip
def test_an_impossible_value_is_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        reward_model.RewardModel(OptimizerConfig(), start="sft", **{field: value})
    assert str(caught.value).startswith(f"{field} = ")
