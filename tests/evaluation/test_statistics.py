"""Intervals against closed forms, brute force and their own coverage."""

import itertools

import numpy as np
import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.statistics import bootstrap_mean, ratio_interval, wilson, win_rate


def test_bootstrap_covers_the_mean_of_normal_data_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for level in (0.8, 0.95):
        hits = 0
        for trial in range(400):
            interval = bootstrap_mean(rng.normal(3, 2, size=80), trial, level, resamples=200)
            hits += interval.low <= 3 <= interval.high
        # The percentile interval of 80 values is short by a factor of sqrt(79 / 80), and the
        # share of 400 trials has a standard error of at most 0.02.
        assert abs(hits / 400 - level) < 0.045


def test_bootstrap_half_width_is_the_normal_one():
    values = np.random.default_rng(1).normal(size=2000)
    interval = bootstrap_mean(values, resamples=4000)
    half = 1.959964 * values.std() / np.sqrt(2000)
    np.testing.assert_allclose(interval.mean, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(interval.mean - interval.low, half, rtol=0.08)
    np.testing.assert_allclose(interval.high - interval.mean, half, rtol=0.08)


def test_bootstrap_against_every_resample_of_five_prompts():
    values = np.array([0.0, 1.0, 1.0, 5.0, 9.0])
    every = [np.mean(draw) for draw in itertools.product(values, repeat=5)]
    interval = bootstrap_mean(values, level=0.9, resamples=20000)
    np.testing.assert_allclose(interval[1:], np.quantile(every, [0.05, 0.95]), rtol=1e-12)


def test_intervals_are_deterministic_in_the_seed():
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(list(values), seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_win_rate_counts_a_tie_as_one_half_and_is_symmetric():
    a, b = [1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 2.0, 5.0]
    assert win_rate(a, b).mean == (1 + 0.5 + 1 + 0) / 4
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 4, (2, 100))
    there, back = win_rate(a, b), win_rate(b, a)
    np.testing.assert_allclose(there.mean, 1 - back.mean, atol=1e-12)
    np.testing.assert_allclose([there.low, there.high], [1 - back.high, 1 - back.low], atol=1e-12)
    assert win_rate(a, a) == (0.5, 0.5, 0.5)


def test_win_rate_is_paired_by_prompt():
    difficulty = np.random.default_rng(6).normal(0, 100, size=200)
    assert win_rate(difficulty + 1, difficulty) == (1.0, 1.0, 1.0)


def test_ratio_weighs_pairs_and_resamples_prompts():
    assert ratio_interval([1, 9], [1, 18]).mean == 10 / 19
    # One pair a prompt is the plain bootstrap of the mean.
    correct = np.random.default_rng(7).integers(0, 2, 60)
    assert ratio_interval(correct, np.ones(60), seed=1) == bootstrap_mean(correct, seed=1)
    # Nine pairs that always agree are worth one, not nine.
    nine = ratio_interval(9 * correct, np.full(60, 9), seed=1)
    np.testing.assert_allclose(nine, bootstrap_mean(correct, seed=1), rtol=1e-12)


def test_ratio_leaves_prompts_without_pairs_out():
    assert ratio_interval([1, 0, 0, 2], [1, 0, 0, 3]) == ratio_interval([1, 2], [1, 3])


def test_wilson_closed_form():
    # Newcombe (1998), Statistics in Medicine 17, table I.
    np.testing.assert_allclose(wilson(81, 263), (81 / 263, 0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson(15, 148), (15 / 148, 0.0624, 0.1605), atol=5e-5)
    np.testing.assert_allclose(wilson(0, 20), (0, 0, 0.1611), atol=5e-5)
    np.testing.assert_allclose(wilson(29, 29), (1, 0.8830, 1), atol=5e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_mean([]), "one number per prompt"),
        (lambda: bootstrap_mean([[1.0, 2.0]]), "one number per prompt"),
        (lambda: bootstrap_mean([1.0, float("nan")]), "prompt 1 has nan"),
        (lambda: win_rate([], []), "scores_a"),
        (lambda: win_rate([1.0], [1.0, 2.0]), "scores_a has 1, scores_b has 2"),
        (lambda: ratio_interval([1], [1, 1]), "correct_per_prompt has 1, total_per_prompt has 2"),
        (lambda: ratio_interval([0, 3], [1, 2]), "prompt 1: 3 correct of 2"),
        (lambda: ratio_interval([0, 0], [0, 0]), "no prompt has a pair"),
        (lambda: wilson(0, 0), "0 successes of 0 trials"),
        (lambda: wilson(3, 2), "3 successes of 2 trials"),
    ],
)
def test_bad_input_is_told_in_one_line(call, words):
    with pytest.raises(UserError, match=words) as told:
        call()
    assert "\n" not in str(told.value)


def test_bad_settings():
    with pytest.raises(ConfigError, match="level = 95"):
        bootstrap_mean([1.0], level=95)
    with pytest.raises(ConfigError, match="resamples = 0"):
        bootstrap_mean([1.0], resamples=0)
    with pytest.raises(ConfigError, match="level"):
        wilson(1, 2, level=0)
