"""Intervals against closed forms and their own coverage."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, ttest_ind, ttest_rel
from scipy.stats import t as student

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.statistics import (
    Interval,
    bounded_difference,
    bounded_mean,
    mean_interval,
    paired_difference,
    ratio_interval,
    unpaired_difference,
    win_rate,
)


def clopper_pearson(right, trials):
    low = beta.ppf(0.025, right, trials - right + 1) if right else 0.0
    high = beta.ppf(0.975, right + 1, trials - right) if right < trials else 1.0
    return low, high


@pytest.mark.parametrize(
    ("right", "trials"), [(1, 1), (2, 2), (3, 3), (0, 3), (4, 10), (300, 300), (720, 800)]
)
def test_of_values_0_and_1_the_interval_is_the_exact_one(right, trials):
    values = np.arange(trials) < right
    found = bounded_mean(values, resamples=200_000)
    assert found.mean == right / trials
    np.testing.assert_allclose(found[1:], clopper_pearson(right, trials), atol=2e-3)
    assert found.side(0.5) == (right >= 300)  # one, two or three of as many may be chance
    np.testing.assert_allclose(bounded_mean(values)[1:], found[1:], atol=0.01)


def test_one_prompt_can_be_anything_within_the_bounds():
    # The mean is .3 w with w uniform at the low end, 1 - .7 w at the high end.
    found = bounded_mean([0.3], resamples=200_000)
    np.testing.assert_allclose(found, (0.3, 0.3 * 0.025, 1 - 0.7 * 0.025), atol=2e-3)
    found = bounded_mean([0.3] * 4, resamples=200_000)  # w is the largest of four uniform ones
    edge = 0.025 ** (1 / 4)
    np.testing.assert_allclose(found, (0.3, 0.3 * edge, 1 - 0.7 * edge), atol=2e-3)


def test_of_many_prompts_the_half_width_is_the_normal_one():
    values = np.random.default_rng(1).beta(2, 1, size=2000)
    found = bounded_mean(values)
    half = 1.959964 * values.std() / np.sqrt(2000)
    np.testing.assert_allclose(found.mean, values.mean(), rtol=1e-12)
    # The prompt that was not seen weighs 1 of 2001, and moves each end so much further.
    np.testing.assert_allclose(found.mean - found.low, half + values.mean() / 2001, rtol=0.05)
    np.testing.assert_allclose(found.high - found.mean, half + 1 / 2001 / 3, rtol=0.05)


@pytest.mark.parametrize(("chance", "prompts"), [(0.5, 10), (0.9, 3), (0.9, 30), (0.99, 300)])
def test_the_interval_holds_the_truth_at_least_as_often_as_it_says(chance, prompts):
    chances = binom.pmf(np.arange(prompts + 1), prompts, chance)
    held = [
        low <= chance <= high
        for right in range(prompts + 1)
        for _, low, high in [bounded_mean(np.arange(prompts) < right, resamples=2000)]
    ]
    assert chances @ held > 0.945  # exact but for the 2,000 draws


def test_intervals_are_deterministic_in_the_seed_and_blind_to_the_order():
    values = np.random.default_rng(2).uniform(size=50)
    assert bounded_mean(values, seed=3) == bounded_mean(list(values[::-1]), seed=3)
    assert bounded_mean(values, seed=3) != bounded_mean(values, seed=4)


def test_a_difference_of_shares_is_within_minus_1_and_1():
    a, b = np.random.default_rng(4).uniform(size=(2, 40))
    found, halved = bounded_difference(a, b), bounded_mean((a - b + 1) / 2)
    np.testing.assert_allclose(found, 2 * np.array(halved) - 1, rtol=1e-12)
    np.testing.assert_allclose(found.mean, (a - b).mean(), rtol=1e-12)
    one = bounded_difference([1.0], [0.0])
    assert one.mean == one.high == 1 and one.low == pytest.approx(-0.95, abs=0.02)
    assert one.side() == 0


def test_student_s_interval_of_scores_without_bounds():
    # s = 2, t of 3 degrees of freedom 3.182446: 5 -+ 3.182446 * 2 / 2.
    found = mean_interval([5 - 6**0.5, 5.0, 5.0, 5 + 6**0.5])
    np.testing.assert_allclose(found, (5, 5 - 3.182446, 5 + 3.182446), rtol=1e-6)
    two = mean_interval([0.0, 2.0])  # s / sqrt(2) = 1, t of 1 degree 12.7062
    np.testing.assert_allclose(two, (1, 1 - 12.7062, 1 + 12.7062), rtol=1e-5)
    assert (two.side(), found.side(), found.side(9)) == (0, 1, -1)


def test_an_interval_is_cut_to_the_possible_values_and_minus_zero_is_zero():
    cut = Interval(0.8, -0.5, 2.1).within
    assert cut(0, 1) == (0.8, 0, 1) and cut(0, math.inf) == (0.8, 0, 2.1)
    assert cut(-math.inf, math.inf) == (0.8, -0.5, 2.1) == cut(0.9, 1)
    assert Interval(0.8, -math.inf, math.inf).within(0, 1).low == -math.inf
    assert Interval(-0.0001, -0.0002, 0.1).text() == "0.000 [0.000, 0.100]"


def test_one_prompt_or_prompts_all_equal_have_no_interval():
    for values in ([3.5], [3.5, 3.5], [-1e9 + 0.1] * 3):
        found = mean_interval(values)
        assert (found.mean, found.low, found.high) == (values[0], -np.inf, np.inf)
        assert found.side() == found.side(9) == 0
        assert found.as_json() == {"mean": values[0], "low": None, "high": None}
    assert mean_interval([2.0, 900.0], [1, 400]).as_json() == {  # one document is nearly all
        "mean": 902 / 401, "low": None, "high": None}  # fmt: skip
    assert mean_interval([0.0, 0.0]).as_json() == {"mean": 0, "low": None, "high": None}
    assert mean_interval([0.0, 2.0]).as_json().keys() == {"mean", "low", "high"}


def test_documents_weigh_their_tokens():
    totals, tokens = np.array([1.0, 4.0, 9.0]), np.array([1.0, 2.0, 6.0])
    found = mean_interval(totals, tokens)
    ratio, whole, square = 14 / 9, 9, 0.0
    for total, token in zip(totals, tokens, strict=True):
        square += (total - ratio * token) ** 2 / (1 - token / whole)
    # As many documents of one length as 9^2 / (1 + 4 + 36).
    half = student.ppf(0.975, 81 / 41 - 1) * square**0.5 / whole
    np.testing.assert_allclose(found, (ratio, ratio - half, ratio + half), rtol=1e-9)
    assert mean_interval(totals, [2, 2, 2]) == pytest.approx(np.array(mean_interval(totals)) / 2)


A, B = np.array([1.0, 4.0, 2.5, 7.0]), np.array([0.5, 4.5, 1.0, 3.0])
ONES = np.ones(4)


def test_a_paired_difference_of_means_is_student_s():
    found = paired_difference((A, ONES), (B, ONES))
    expected = ttest_rel(A, B).confidence_interval(0.95)
    np.testing.assert_allclose(found, (1.375, *expected), rtol=1e-9)
    np.testing.assert_allclose(found, mean_interval(A - B), rtol=1e-12)
    tokens = np.array([3.0, 1.0, 2.0, 5.0])  # alike for both
    found = paired_difference((A, tokens), (B, tokens))
    np.testing.assert_allclose(found, mean_interval(A - B, tokens), rtol=1e-12)


def test_a_paired_difference_of_ratios_is_the_delta_method_s():
    w, v = np.array([3.0, 1.0, 2.0, 5.0]), np.array([2.0, 0.0, 4.0, 4.0])
    found = paired_difference((A, w), (B, v))
    rate_a, rate_b = 14.5 / 11, 9 / 10
    square, squared_shares = 0.0, 0.0
    for i in range(4):
        moved = (A[i] - rate_a * w[i]) / 11 - (B[i] - rate_b * v[i]) / 10
        share = (w[i] / 11 + v[i] / 10) / 2
        square += moved**2 / (1 - share)
        squared_shares += share**2
    half = student.ppf(0.975, 1 / squared_shares - 1) * square**0.5
    mean = rate_a - rate_b
    np.testing.assert_allclose(found, (mean, mean - half, mean + half), rtol=1e-9)


def test_items_that_say_nothing_of_both_are_left_out():
    more = lambda x: np.append(x, 0.0)
    found = paired_difference((more(A), more(ONES)), (more(B), more(ONES)))
    assert found == paired_difference((A, ONES), (B, ONES))
    with pytest.raises(UserError, match=r"weights_b = 0\.0: must be 0 or more, and not all 0"):
        paired_difference((A, ONES), (B, 0 * ONES))


def test_a_model_and_itself_differ_by_nothing_without_an_interval():
    assert paired_difference((A, ONES), (A, ONES)) == (0.0, -np.inf, np.inf)


def test_an_unpaired_difference_is_welch_s():
    other = np.array([0.5, 4.5, 1.0, 3.0, 2.0, 2.5])
    found = unpaired_difference(A, other)
    expected = ttest_ind(A, other, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found, (A.mean() - other.mean(), *expected), rtol=1e-9)
    assert unpaired_difference([1.0], other) == (1 - other.mean(), -np.inf, np.inf)


def test_an_unpaired_difference_of_ratios_has_the_error_of_each():
    """Where one is known exactly beside the other, it is the other's own interval, shifted."""
    tokens = np.array([3.0, 1.0, 2.0, 5.0])
    found = unpaired_difference(A * 1e9, [0.0, 1e-9], (tokens, None))
    alone = mean_interval(A * 1e9, tokens)
    np.testing.assert_allclose(found, alone, rtol=1e-9)


def test_win_rate_counts_a_tie_as_one_half_and_is_symmetric():
    a, b = [1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 2.0, 5.0]
    assert win_rate(a, b).mean == (1 + 0.5 + 1 + 0) / 4
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 4, (2, 100))
    there, back = win_rate(a, b), win_rate(b, a)
    np.testing.assert_allclose(there.mean, 1 - back.mean, atol=1e-12)
    np.testing.assert_allclose([there.low, there.high], [1 - back.high, 1 - back.low], atol=1e-3)
    same = win_rate(a, a)  # ties only, yet a prompt that was not seen may be won or lost
    assert same.mean == 0.5 and same.side(0.5) == 0 and same.low < 0.5 < same.high


def test_win_rate_is_paired_by_prompt():
    difficulty = np.random.default_rng(6).normal(0, 100, size=200)
    found = win_rate(difficulty + 1, difficulty)
    assert found.mean == found.high == 1 and found.low == pytest.approx(
        0.025 ** (1 / 200), abs=0.003
    )


def test_ratio_weighs_pairs_but_counts_prompts():
    assert ratio_interval([1, 9], [1, 18]).mean == 10 / 19
    # One pair a prompt is the plain mean.
    correct = np.random.default_rng(7).integers(0, 2, 60)
    assert ratio_interval(correct, np.ones(60), seed=1) == bounded_mean(correct, seed=1)
    # Nine pairs that always agree are worth one, not nine.
    nine = ratio_interval(9 * correct, np.full(60, 9), seed=1)
    np.testing.assert_allclose(nine, bounded_mean(correct, seed=1), rtol=1e-12)


def test_ratio_of_two_prompts_of_unequal_pairs():
    # (g1 + 0) / (g1 + 3 g2 + 2 g0), g exponential, g0 of a prompt of two pairs that was not seen.
    g = np.random.default_rng(8).exponential(size=(3, 400_000))
    drawn = np.quantile(g[0] / (g[0] + 3 * g[1] + 2 * g[2]), 0.025)
    found = ratio_interval([1, 0], [1, 3], resamples=200_000)
    np.testing.assert_allclose(found[:2], (0.25, drawn), atol=1e-3)


def test_ratio_leaves_prompts_without_pairs_out():
    assert ratio_interval([1, 0, 0, 2], [1, 0, 0, 3]) == ratio_interval([1, 2], [1, 3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bounded_mean([]), "one number per prompt"),
        (lambda: bounded_mean([[1.0, 2.0]]), "one number per prompt"),
        (lambda: bounded_mean([1.0, float("nan")]), "prompt 1 has nan"),
        (lambda: bounded_mean([1.0, 1.5]), "prompt 1 has 1.5: must be in"),
        (lambda: mean_interval([]), "one number per prompt"),
        (lambda: mean_interval([1.0, 2.0], [1.0, 0.0]), "weights = 0.0: must be positive"),
        (lambda: win_rate([], []), "scores_a"),
        (lambda: win_rate([1.0], [1.0, 2.0]), "scores_a has 1, scores_b has 2"),
        (lambda: ratio_interval([1], [1, 1]), "correct_per_prompt has 1, total_per_prompt has 2"),
        (lambda: ratio_interval([0, 3], [1, 2]), "prompt 1: 3 correct of 2"),
        (lambda: ratio_interval([0, 0], [0, 0]), "no prompt has a pair"),
    ],
)
def test_bad_input_is_told_in_one_line(call, words):
    with pytest.raises(UserError, match=words) as told:
        call()
    assert "\n" not in str(told.value)


def test_bad_settings():
    with pytest.raises(ConfigError, match="level = 95"):
        bounded_mean([1.0], level=95)
    with pytest.raises(ConfigError, match="resamples = 0"):
        bounded_mean([1.0], resamples=0)
    with pytest.raises(ConfigError, match="level = 0"):
        mean_interval([1.0, 2.0], level=0)
