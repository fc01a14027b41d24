"""Reward-model losses against loops over explicit pairs; ties, absent outputs, normalisation."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.objectives.reward_models import (
    best_of_k_loss,
    centering_loss,
    gain_and_bias,
    over_pairs,
    pairwise_loss,
    plackett_luce_loss,
    ranked_accuracy,
    ranked_loss,
    regression_loss,
    shift_to_zero,
)
from tests.objectives.harness import (
    Case,
    assert_close,
    central_differences,
    check_transformations,
    check_values_and_gradients,
    parametrise,
    rows,
)

RNG = np.random.default_rng(5)
SCORES = RNG.normal(0, 2, size=(7, 4))
RANKS = np.array(
    [
        [0, 1, 2, 3],  # no ties
        [2, 0, 1, 1],  # a tie below the best
        [0, 0, 1, 2],  # two bests
        [0, 0, 0, 0],  # all tied
        [1, 0, -1, -1],  # two present
        [-1, 0, -1, -1],  # one present
        [-1, -1, -1, -1],  # a filler row
    ]
)
MASK = np.array([[1, 1, 0, 1]] * 7)


def pair(chosen, rejected, margin=0.0, smoothing=0.0):
    m = chosen - rejected - margin
    return (1 - smoothing) * np.logaddexp(0, -m) + smoothing * np.logaddexp(0, m)


def pairs_of(ranks):
    """(better, worse) indices of all present, non-tied pairs."""
    present = [i for i, rank in enumerate(ranks) if rank >= 0]
    return [(i, j) for i, j in itertools.permutations(present, 2) if ranks[i] < ranks[j]]


def over_prompts(per_prompt):
    def oracle(scores, ranks):
        outputs = [
            per_prompt(s, r) if pairs_of(r) else (0.0, 0.0)
            for s, r in zip(scores, ranks, strict=True)
        ]
        return tuple(np.array(x) for x in zip(*outputs, strict=True))

    return oracle


def divisor(ranks, divide_by):
    """C(K, 2) of the K outputs present, counted pair by pair, or the pairs that are no ties."""
    present = [rank for rank in ranks if rank >= 0]
    every = len(list(itertools.combinations(present, 2)))
    return {"all_pairs": every, "untied_pairs": len(pairs_of(ranks))}[divide_by]


def ranked_oracle(smoothing=0.0, divide_by="all_pairs"):
    def per_prompt(scores, ranks):
        losses = [pair(scores[i], scores[j], 0.0, smoothing) for i, j in pairs_of(ranks)]
        return sum(losses) / divisor(ranks, divide_by), 1.0

    return over_prompts(per_prompt)


def squared_differences(divide_by):
    def per_prompt(scores, ranks):
        losses = [(scores[i] - scores[j] - 1) ** 2 for i, j in pairs_of(ranks)]
        return sum(losses) / divisor(ranks, divide_by), 1.0

    return over_prompts(per_prompt)


def ipo_like(scores, ranks, divide_by="all_pairs"):
    """As a preference loss comes to its pairs: two arrays an output, of which one is constant."""
    response = {"ours": scores, "theirs": jnp.zeros_like(scores)}
    difference = lambda side: side["ours"] - side["theirs"]
    loss = lambda better, worse: (difference(better) - difference(worse) - 1) ** 2
    return over_pairs(loss, ranks, response, divide_by)


def plackett_luce_prompt(scores, ranks):
    total = 0.0
    for i, rank in enumerate(ranks):
        if rank >= 0:
            rivals = [j for j, other in enumerate(ranks) if other > rank]
            total += np.logaddexp.reduce([scores[j] - scores[i] for j in [i, *rivals]])
    return total, 1.0


def best_of_k_prompt(scores, ranks):
    present = [i for i, rank in enumerate(ranks) if rank >= 0]
    best = [i for i in present if ranks[i] == min(ranks[j] for j in present)]
    losses = [np.logaddexp.reduce([scores[j] - scores[i] for j in present]) for i in best]
    return sum(losses) / len(best), 1.0


def accuracy_prompt(scores, ranks):
    right = [
        1.0 * (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i, j in pairs_of(ranks)
    ]
    return sum(right), float(len(right))


def gain_oracle(scores, mask):
    kept = [scores[i] for i in np.ndindex(*scores.shape) if mask[i]]
    mean = sum(kept) / len(kept)
    std = np.sqrt(sum((x - mean) ** 2 for x in kept) / len(kept))
    return 2 / std, 1 - 2 / std * mean


CHOSEN, REJECTED, MARGIN = SCORES[:, 0], SCORES[:, 1], np.abs(SCORES[:, 2])
RANKED = {
    "ranked_loss": (ranked_loss, ranked_oracle()),
    "ranked_loss-untied": (functools.partial(ranked_loss, divide_by="untied_pairs"),
                           ranked_oracle(divide_by="untied_pairs")),
    "ranked_loss-smooth": (functools.partial(ranked_loss, label_smoothing=0.1), ranked_oracle(0.1)),
    "plackett_luce_loss": (plackett_luce_loss, over_prompts(plackett_luce_prompt)),
    "best_of_k_loss": (best_of_k_loss, over_prompts(best_of_k_prompt)),
}  # fmt: skip
CASES = [
    Case("pairwise_loss", pairwise_loss, functools.partial(rows, pair), (CHOSEN, REJECTED),
         (0, 1)),
    Case("pairwise_loss-margin-smooth", lambda c, r, m: pairwise_loss(c, r, m, 0.1),
         functools.partial(rows, lambda c, r, m: pair(c, r, m, 0.1)),
         (CHOSEN, REJECTED, MARGIN), (0, 1, 2)),
    Case("centering_loss", centering_loss, functools.partial(rows, lambda c, r: (c + r) ** 2),
         (CHOSEN, REJECTED), (0, 1)),
    Case("regression_loss", regression_loss, functools.partial(rows, lambda s, t: (s - t) ** 2 / 2),
         (SCORES, RANKS), (0,)),
    Case("over_pairs", ipo_like, squared_differences("all_pairs"), (SCORES, RANKS), (0,)),
    Case("over_pairs-untied", functools.partial(ipo_like, divide_by="untied_pairs"),
         squared_differences("untied_pairs"), (SCORES, RANKS), (0,)),
    *(Case(name, function, oracle, (SCORES, RANKS), (0,))
      for name, (function, oracle) in RANKED.items()),
    Case("ranked_accuracy", ranked_accuracy, over_prompts(accuracy_prompt), (SCORES, RANKS)),
    Case("shift_to_zero", shift_to_zero,
         lambda s, m: -sum(s[i] for i in np.ndindex(*s.shape) if m[i]) / m.sum(), (SCORES, MASK)),
    Case("gain_and_bias", lambda s, m: gain_and_bias(s, m, mean=1.0, std=2.0), gain_oracle,
         (SCORES, MASK)),
]  # fmt: skip


@parametrise(CASES)
def test_oracle(case):
    check_values_and_gradients(case)


@parametrise(CASES)
def test_vmap_and_pmap(case):
    check_transformations(case)


FUNCTIONS = {**{name: f for name, (f, _) in RANKED.items()}, "ranked_accuracy": ranked_accuracy}
JITTED = {name: jax.jit(f) for name, f in FUNCTIONS.items()}


@pytest.mark.parametrize("name", RANKED)
def test_two_outputs_are_the_pairwise_loss(name):
    smoothing = 0.1 if "smooth" in name else 0.0
    scores, ranks = SCORES[:, :2].astype(np.float32), np.array([[0, 1]] * 7)
    first_wins = functools.partial(pair, margin=0.0, smoothing=smoothing)
    values, weights = JITTED[name](scores, ranks)
    assert_close(values, rows(first_wins, *scores.T))
    assert_close(weights, np.ones(7))
    values, _ = JITTED[name](scores, 1 - ranks)
    assert_close(values, rows(first_wins, *scores.T[::-1]))


@given(st.sampled_from(sorted(FUNCTIONS)), st.integers(0, 2**31 - 1), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_laws_of_rankings(name, seed, shift):
    """Scores may shift and outputs change places; ranks only order; absent outputs are unread."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 4)).astype(np.float32)
    ranks = rng.integers(-1, 4, size=(3, 4)).astype(np.int32)
    function, order = JITTED[name], rng.permutation(4)
    expected = function(scores, ranks)
    assert_close(function(scores + np.float32(shift), ranks), expected, atol=1e-4)
    assert_close(function(scores[:, order], ranks[:, order]), expected)
    assert_close(function(scores, np.where(ranks > 0, 3 * ranks + 1, ranks)), expected)
    assert_close(function(np.where(ranks < 0, np.nan, scores).astype(np.float32), ranks), expected)


@pytest.mark.parametrize("name", RANKED)
def test_extreme_and_absent_scores_have_the_values_and_gradients_of_float64(name):
    """Scores of one prompt far apart, of another far from 0; of absent outputs no numbers."""
    scores = np.array([[1e4, -1e4, 1e4, 0.0], [-1e4, 1e4, 7.0, 7.0], [7.0] * 4,
                       10_000 + SCORES[0], 100 + SCORES[1]], np.float32)  # fmt: skip
    ranks = np.array([[1, 0, 2, 0], [0, 1, -1, -1], [-1] * 4, [0, 1, 2, 3], [2, 0, 0, 1]])
    given = np.where(ranks < 0, np.array([0, 0, np.nan, np.inf], np.float32), scores)
    function, oracle = RANKED[name]

    def loss(scores):
        values, weights = function(scores, ranks)
        return jnp.sum(values), (values, weights)

    gradient, (values, weights) = jax.jit(jax.grad(loss, has_aux=True))(given)
    exact = scores.astype(np.float64)
    expected, counted = oracle(exact, ranks)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    slopes = central_differences(lambda scores: oracle(scores, ranks)[0].sum(), exact, step=1e-3)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gradient[1:3, 2:], 0)
    np.testing.assert_array_equal(weights, counted)
    np.testing.assert_array_equal(counted, [1, 1, 0, 1, 1])


@pytest.mark.parametrize("name", ["pairwise_loss", "centering_loss", "regression_loss"])
def test_extreme_pairs_have_the_values_and_gradients_of_float64(name):
    case = next(case for case in CASES if case.name == name)
    one, other = np.array([1e4, -1e4, 1e4, 3e4]), np.array([-1e4, 1e4, 1e4, -1.0])
    check_values_and_gradients(case._replace(arguments=(one, other)))


def test_noisy_labels_bound_the_margin():
    """With label smoothing e the loss is least where sigmoid(margin) = 1 - e, else nowhere."""
    margin = jnp.log(jnp.array([0.9 / 0.1]))
    zero = jnp.zeros(1)
    smooth = jax.grad(lambda m: pairwise_loss(m, zero, label_smoothing=0.1).sum())(margin)
    np.testing.assert_allclose(smooth, 0, atol=1e-6)
    assert jax.grad(lambda m: pairwise_loss(m, zero).sum())(margin)[0] < -0.05


def test_plackett_luce_is_a_distribution_over_rankings():
    rankings = np.array(list(itertools.permutations(range(3))))
    scores = np.broadcast_to(SCORES[0, :3], rankings.shape).astype(np.float32)
    values, _ = JITTED["plackett_luce_loss"](scores, rankings)
    total = np.sum(np.exp(-values))
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_a_constant_scorer_is_right_half_of_the_time():
    correct, pairs = JITTED["ranked_accuracy"](np.zeros((7, 4), np.float32), RANKS)
    assert float(correct.sum() / pairs.sum()) == 0.5


def test_normalised_scores():
    scores, kept = SCORES.astype(np.float32), MASK == 1
    shift = jax.jit(shift_to_zero)(scores, MASK)
    np.testing.assert_allclose((scores + shift)[kept].mean(), 0, atol=1e-6)
    gain, bias = jax.jit(gain_and_bias)(scores, MASK)
    normal = (gain * scores + bias)[kept]
    np.testing.assert_allclose([normal.mean(), normal.std()], [0, 1], atol=1e-6)
    alike, bias = jax.jit(gain_and_bias)(np.full((7, 4), 3.0, np.float32), MASK)
    assert (float(alike), float(bias)) == (1, -3)


def test_ties_take_weight_from_a_prompt_or_give_it_to_its_other_pairs():
    """Three untied pairs of six, at equal scores: 3 log 2 / 6 by equation 1, else log 2."""
    scores, ranks = np.zeros((1, 4), np.float32), np.array([[0, 1, 1, 1], [0, 0, 0, 1]])
    for one in ranks:
        equation_1, _ = ranked_loss(scores, one[None])
        mean, _ = ranked_loss(scores, one[None], divide_by="untied_pairs")
        np.testing.assert_allclose(equation_1, 3 * np.log(2) / 6, rtol=1e-6)
        np.testing.assert_allclose(mean, np.log(2), rtol=1e-6)


def test_malformed_input_is_refused():
    with pytest.raises(ValueError, match="divide_by = 'pairs'"):
        ranked_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3), jnp.int32), divide_by="pairs")
    with pytest.raises(AssertionError):
        ranked_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)))  # ranks that are not integers
    with pytest.raises(AssertionError):
        ranked_loss(jnp.zeros((2, 3)), jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(AssertionError):
        pairwise_loss(jnp.zeros(3), jnp.zeros((3, 1)))
