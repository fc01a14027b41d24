"""Means, win rates and proportions with intervals, in float64.

The unit that is resampled is the prompt: the responses to one prompt are not independent.
Every interval is deterministic in its inputs and its seed.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from rlhf_jax.errors import UserError, require

Values = Sequence[float] | np.ndarray


class Interval(NamedTuple):
    """An estimate and the bounds of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values_per_prompt: Values, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """The mean over N prompts, with its percentile bootstrap interval.

    low, high = the (1 -+ level) / 2 quantiles of the means of `resamples` samples of N prompts,
    drawn with replacement.

    Raises UserError where there is no value, or one is not finite.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    values = _column("values_per_prompt", values_per_prompt)
    return _bootstrap(values, np.ones_like(values), seed, level, resamples)


def win_rate(
    scores_a: Values,
    scores_b: Values,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """How often a beats b on the same prompt: mean of 1[a > b] + 0.5 * 1[a = b].

    Raises UserError where the inputs are empty, not finite, or of different lengths.
    """
    a, b = _paired(scores_a=scores_a, scores_b=scores_b)
    return bootstrap_mean((a > b) + 0.5 * (a == b), seed, level, resamples)


def ratio_interval(
    correct_per_prompt: Values,
    total_per_prompt: Values,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """sum(correct) / sum(total), for prompts that bring several pairs each (cluster bootstrap).

    Whole prompts are drawn with replacement. One without pairs says nothing and is not drawn.

    Raises UserError where the inputs are empty, not finite, of different lengths, without a
    single pair, or not 0 <= correct <= total.
    """
    correct, total = _paired(
        correct_per_prompt=correct_per_prompt, total_per_prompt=total_per_prompt
    )
    bad = np.flatnonzero((correct < 0) | (correct > total))
    if bad.size:
        i = bad[0]
        raise UserError(f"prompt {i}: {correct[i]:g} correct of {total[i]:g}: must be in 0..total")
    if not total.any():
        raise UserError("total_per_prompt: no prompt has a pair")
    return _bootstrap(correct[total > 0], total[total > 0], seed, level, resamples)


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """A proportion p = successes / trials of independent trials, with Wilson's score interval.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z the normal quantile.
    Unlike the bootstrap's it has a width where p is 0 or 1.

    Raises UserError where there is no trial or successes are not in 0..trials.
    Source: Wilson (1927), JASA 22.
    """
    require(0 < level < 1, "level", level, "between 0 and 1")
    if not 0 <= successes <= trials or trials == 0:
        raise UserError(
            f"{successes} successes of {trials} trials: must be in 0..trials, trials > 0"
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    p, spread = successes / trials, z * z / trials
    centre = (p + spread / 2) / (1 + spread)
    half = (p * (1 - p) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def _bootstrap(
    above: np.ndarray, below: np.ndarray, seed: int, level: float, resamples: int
) -> Interval:
    """sum(above) / sum(below) over resampled prompts; every `below` is positive."""
    require(0 < level < 1, "level", level, "between 0 and 1")
    require(resamples >= 1, "resamples", resamples, "at least 1")
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):  # one by one, so that memory does not grow with `resamples`
        drawn = rng.integers(len(above), size=len(above))
        ratios[i] = above[drawn].sum() / below[drawn].sum()
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(above.sum() / below.sum()), float(low), float(high))


def _column(name: str, values: Values) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UserError(f"{name}: expected one number per prompt, got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise UserError(f"{name}: prompt {bad[0]} has {array[bad[0]]}: must be finite")
    return array


def _paired(**columns: Values) -> list[np.ndarray]:
    arrays = {name: _column(name, values) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise UserError(f"expected as many values for each: {told}")
    return list(arrays.values())
