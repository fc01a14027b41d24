"""Calibration of margins: against loops, and for a model whose calibration is known."""

import itertools

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.calibration import (
    brier,
    by_margin,
    calibration_curve,
    calibration_error,
    correct,
    probability,
)


def calibrated(count: int, scale: float = 1.0) -> np.ndarray:
    """Margins of a model that is right as often as it says; with scale 3 it says too much."""
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(0, 2, count))
    right = rng.random(count) < 1 / (1 + np.exp(-size))
    return scale * np.where(right, size, -size)


def test_brier_is_the_squared_distance_from_certainty():
    margins = np.array([0.0, 2.0, -2.0, 800.0, -800.0])
    expected = [(1 - 1 / (1 + np.exp(-m))) ** 2 for m in (0.0, 2.0, -2.0)] + [0.0, 1.0]
    np.testing.assert_allclose(brier(margins), expected, atol=1e-12)
    np.testing.assert_allclose(probability(margins) + probability(-margins), 1.0)
    assert correct(margins).tolist() == [0.5, 1.0, 0.0, 1.0, 0.0]


def test_a_calibrated_model_is_on_the_diagonal_and_a_boaster_below():
    curve = calibration_curve(calibrated(20_000))
    assert calibration_error(curve) < 0.02 and len(curve) == 10
    assert all(one.observed.low - 0.03 < one.predicted < one.observed.high + 0.03 for one in curve)
    boasts = calibration_curve(calibrated(20_000, scale=3.0))
    assert calibration_error(boasts) > 0.1
    assert all(one.observed.mean < one.predicted for one in boasts[3:])


def test_bins_are_those_of_a_loop():
    margins = calibrated(300)
    curve = calibration_curve(margins, bins=5)
    for number, one in enumerate(curve):
        low, high = 0.5 + 0.1 * number, 0.6 + 0.1 * number
        own = [m for m in margins if low <= 1 / (1 + np.exp(-abs(m))) < high]
        assert (one.low, one.high) == pytest.approx((low, high))
        assert one.pairs == len(own)
        assert one.observed.mean == pytest.approx(np.mean([m > 0 for m in own]))
        assert one.predicted == pytest.approx(np.mean([1 / (1 + np.exp(-abs(m))) for m in own]))
    by_hand = sum(one.pairs / 300 * abs(one.observed.mean - one.predicted) for one in curve)
    assert calibration_error(curve) == pytest.approx(by_hand)
    assert calibration_curve(np.array([0.0, 900.0]), bins=2)[1].pairs == 1


def test_agreement_rises_with_the_margin():
    found = by_margin(calibrated(4000))
    assert [one.pairs for one in found] == [1000] * 4
    means = [one.observed.mean for one in found]
    assert means == sorted(means) and means[0] < 0.65 < 0.95 < means[3]
    assert found[0].low == 0 or found[0].low == pytest.approx(np.abs(calibrated(4000)).min())
    assert all(a.high == b.low for a, b in itertools.pairwise(found))


def test_pairs_of_one_prompt_count_as_one_for_the_interval():
    margins = np.repeat(calibrated(100), 4)
    grouped = calibration_curve(margins, np.repeat(np.arange(100), 4), bins=1)[0]
    apart, once = calibration_curve(margins, bins=1)[0], calibration_curve(margins[::4], bins=1)[0]
    width = lambda one: one.observed.high - one.observed.low
    assert width(grouped) == pytest.approx(width(once), rel=0.02)
    assert width(grouped) > 1.6 * width(apart)
    assert grouped.pairs == 400


def test_what_cannot_be_measured():
    with pytest.raises(UserError, match="margins: must be finite"):
        calibration_curve(np.array([np.nan]))
    with pytest.raises(UserError, match="one for each of 3 pairs"):
        calibration_curve(np.zeros(3), prompts=[1, 2])
