"""The length-controlled win rate against statsmodels and against what made the data."""

import warnings

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.length_control import (
    length_controlled,
    length_controlled_interval,
    length_terms,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import statsmodels.api as sm


def judged(theta: float, phi: float, count: int, seed: int = 0, longer: float = 50.0):
    """(wins, lengths, other lengths) of a judge who prefers by theta and by length."""
    rng = np.random.default_rng(seed)
    one, other = rng.normal(200 + longer, 80, count), rng.normal(200, 80, count)
    chance = 1 / (1 + np.exp(-(theta + phi * length_terms(one - other))))
    return (rng.random(count) < chance).astype(float), one, other


def test_it_is_the_logistic_regression_of_statsmodels():
    wins, one, other = judged(0.3, 1.2, 400)
    x = sm.add_constant(length_terms(one - other))
    prior = np.array([[1.0, 0.0]])
    theirs = sm.GLM(np.append(wins, 0.5), np.concatenate([x, prior]),
                    family=sm.families.Binomial()).fit()  # fmt: skip
    ours = length_controlled(wins, one, other, ridge=0.0)
    assert (ours.theta, ours.phi) == pytest.approx(tuple(theirs.params), abs=1e-6)
    assert ours.win_rate == pytest.approx(1 / (1 + np.exp(-ours.theta)))


def test_a_judge_who_likes_length_alone_finds_no_winner():
    """The longer policy wins most of the pairs; with the length controlled it wins half."""
    wins, one, other = judged(0.0, 2.5, 4000, longer=100.0)
    assert wins.mean() > 0.7
    assert length_controlled(wins, one, other).win_rate == pytest.approx(0.5, abs=0.04)
    swapped = length_controlled(1 - wins, other, one)
    assert swapped.win_rate == pytest.approx(1 - length_controlled(wins, one, other).win_rate)
    found = length_controlled_interval(wins[:500], one[:500], other[:500], resamples=100)
    assert found.low < 0.5 < found.high and found.high - found.low < 0.25


def test_without_a_difference_of_lengths_it_is_the_win_rate():
    wins, same = np.array([1.0, 1, 1, 0.5, 0]), np.full(5, 7.0)
    found = length_controlled(wins, same, same)
    assert found.phi == 0 and found.win_rate == pytest.approx((3.5 + 0.5) / 6)


def test_a_policy_that_always_wins_stays_below_1():
    assert 0.9 < length_controlled(np.ones(40), np.arange(40), np.arange(40)[::-1]).win_rate < 1


@pytest.mark.parametrize(
    "columns, words",
    [
        (([1.0], [1.0, 2.0], [1.0]), "as many wins as lengths"),
        (([], [], []), "at least one"),
        (([2.0], [1.0], [1.0]), r"wins must be in \[0, 1\]"),
        (([1.0], [np.nan], [1.0]), "not finite"),
    ],
)
def test_what_cannot_be_controlled(columns, words):
    with pytest.raises(UserError, match=words):
        length_controlled(*map(np.asarray, columns))
