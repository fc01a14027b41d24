"""Means, win rates and proportions with intervals, in float64.

The unit is the prompt (or the document), because responses to one prompt are not independent. An
interval depends only on its inputs and its seed, and never has zero width. `python
benchmarks/interval_coverage.py` shows how often each kind of interval contains the truth.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from rlhf_jax.errors import UserError, require

Values = Sequence[float] | np.ndarray


class Interval(NamedTuple):
    """An estimate and the bounds of its interval; infinite where the spread is not known."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """{"mean", "low", "high"}; None for a bound that is not finite."""
        return {k: v if math.isfinite(v) else None for k, v in self._asdict().items()}

    @classmethod
    def of_json(cls, bounds: dict[str, float | None]) -> "Interval":
        """The inverse of `as_json`."""
        low, high = bounds["low"], bounds["high"]
        return cls(bounds["mean"], -math.inf if low is None else low,
                   math.inf if high is None else high)  # fmt: skip

    def within(self, low: float, high: float) -> "Interval":
        """The interval cut to the possible values [low, high]. The true value is one of them, so
        the cut interval contains it whenever the whole interval does: coverage does not change.
        Without bounds, and where the estimate is outside of the range, it stays as it is."""
        if not math.isfinite(self.high - self.low) or not low <= self.mean <= high:
            return self
        return Interval(self.mean, max(self.low, low), min(self.high, high))

    def negated(self) -> "Interval":
        """The interval of the other sign."""
        return Interval(-self.mean, -self.high, -self.low)

    def text(self, sign: str = "") -> str:
        """For example "0.500 [0.400, 0.600]"; sign="+" puts a plus before positive numbers."""
        if not math.isfinite(self.high - self.low):
            return f"{self.mean:{sign}z.3f} (no interval)"
        return f"{self.mean:{sign}z.3f} [{self.low:{sign}z.3f}, {self.high:{sign}z.3f}]"

    def side(self, middle: float = 0.0) -> int:
        """1 if the whole interval is above `middle`, -1 if it is below, 0 if it contains it."""
        return int(self.low > middle) - int(self.high < middle)


def bounded_mean(
    values_per_prompt: Values, seed: int = 0, level: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean over N prompts of values in [0, 1], with an interval that is valid for any N.

    low, high = the (1 -+ level) / 2 quantiles of sum_i w_i x_i over weights w_0..w_N drawn from
    Dirichlet(1, ..., 1), where x_0, an unseen prompt, is 0 for `low` and 1 for `high`. If all
    values are 0 or 1, it is the exact interval of Clopper and Pearson; for many prompts it is the
    interval of the bootstrap.

    Raises UserError where there is no value, or one is not in [0, 1].
    Source: Gaffke (2005), Mathematical Methods of Statistics 14; Learned-Miller and Thomas
    (2020), arXiv 1905.06208.
    """
    values = _column("values_per_prompt", values_per_prompt)
    bad = np.flatnonzero((values < 0) | (values > 1))
    if bad.size:
        raise UserError(f"prompt {bad[0]} has {values[bad[0]]:g}: must be in [0, 1]")
    return _bounded(values, np.ones_like(values), seed, level, resamples)


def bounded_difference(
    a: Values, b: Values, seed: int = 0, level: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean over prompts of a - b, both in [0, 1]: `bounded_mean` of (a - b + 1) / 2, scaled.

    Raises UserError as `bounded_mean`, or where the lengths differ.
    """
    a, b = _paired(a=a, b=b)
    halved = bounded_mean((a - b + 1) / 2, seed, level, resamples)
    return Interval(*(2 * bound - 1 for bound in halved))


def win_rate(
    scores_a: Values,
    scores_b: Values,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """How often a beats b on the same prompt: `bounded_mean` of 1[a > b] + 0.5 * 1[a = b].

    Raises UserError where the inputs are empty, not finite, or of different lengths.
    """
    a, b = _paired(scores_a=scores_a, scores_b=scores_b)
    return bounded_mean((a > b) + 0.5 * (a == b), seed, level, resamples)


def ratio_interval(
    correct_per_prompt: Values,
    total_per_prompt: Values,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """sum(correct) / sum(total), for prompts with several pairs each.

    Like `bounded_mean`, with each prompt weighted by its pairs; the unseen prompt has the mean
    number of pairs. Prompts without pairs are left out.

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
    return _bounded(correct[total > 0], total[total > 0], seed, level, resamples)


def mean_interval(totals: Values, weights: Values | None = None, level: float = 0.95) -> Interval:
    """R = sum(totals) / sum(weights) over N prompts or documents, with Student's interval.

    R -+ t_{M-1} sqrt(sum_i (totals_i - R weights_i)^2 / (1 - weights_i / W)) / W with
    W = sum(weights) and M = W^2 / sum(weights^2), the effective number of documents of equal
    length; without weights it is the mean -+ t_{N-1} s / sqrt(N). Use it for unbounded values, such
    as a reward model's scores. The bounds are infinite where the spread is not known: for a single
    prompt, for one document much longer than all others (M < 1.5), and for equal values.

    Raises UserError where the inputs are empty, not finite, or of different lengths, or a weight
    is not positive.
    Source: Bell and McCaffrey (2002), Survey Methodology 28.
    """
    found = _ratio(totals, weights)
    return _student(found.mean, found.error, found.documents - 1, level)


def paired_difference(
    a: tuple[Values, Values], b: tuple[Values, Values], level: float = 0.95
) -> Interval:
    """R_a - R_b of two models on the same N items, each R = sum(totals) / sum(weights).

    a, b: (totals [N], weights [N]) of the same items in the same order. With
    d_i = (a_i - R_a w_i) / W_a - (b_i - R_b v_i) / W_b and an item's mean share
    h_i = (w_i / W_a + v_i / W_b) / 2, the interval is
    R_a - R_b -+ t_{M-1} sqrt(sum_i d_i^2 / (1 - h_i)) with M = 1 / sum_i h_i^2. If the weights of
    a and b are equal, it is `mean_interval` of the differences. Items that have
    neither total nor weight change nothing.

    Raises UserError where the lengths differ, a number is not finite, or a side has no weight.
    Source: Bell and McCaffrey (2002), Survey Methodology 28.
    """
    a, w, b, v = _paired(totals_a=a[0], weights_a=a[1], totals_b=b[0], weights_b=b[1])
    for field, weights in (("weights_a", w), ("weights_b", v)):
        ok = bool((weights >= 0).all()) and bool(weights.any())
        require(ok, field, float(weights.min()), "0 or more, and not all 0")
    a, w, b, v = a / w.sum(), w / w.sum(), b / v.sum(), v / v.sum()
    rate_a, rate_b = a.sum(), b.sum()
    residuals = (a - rate_a * w) - (b - rate_b * v)
    size = np.abs(a).max() + np.abs(b).max()
    error, documents = _error(residuals, (w + v) / 2, size)
    return _student(float(rate_a - rate_b), error, documents - 1, level)


def unpaired_difference(
    a: Values,
    b: Values,
    weights: tuple[Values | None, Values | None] = (None, None),
    level: float = 0.95,
) -> Interval:
    """R_a - R_b of two independent samples, with Welch's interval.

    The error is sqrt(e_a^2 + e_b^2) and the degrees of freedom are
    (e_a^2 + e_b^2)^2 / (e_a^4 / f_a + e_b^4 / f_b), with each sample's error e and degrees of
    freedom f = M - 1 of `mean_interval`. Raises UserError as `mean_interval` does.
    Source: Welch (1947), Biometrika 34.
    """
    one, other = _ratio(a, weights[0]), _ratio(b, weights[1])
    squares = one.error**2, other.error**2
    freedom = math.nan
    if math.isfinite(sum(squares)):
        parts = zip(squares, (one, other), strict=True)
        freedom = sum(squares) ** 2 / sum(e**2 / (of.documents - 1) for e, of in parts)
    return _student(one.mean - other.mean, math.sqrt(sum(squares)), freedom, level)


class _Ratio(NamedTuple):
    """sum(totals) / sum(weights), its standard error (infinite where it is not known), and the
    effective number of documents of equal length."""

    mean: float
    error: float
    documents: float


def _ratio(totals: Values, weights: Values | None) -> _Ratio:
    weights = np.ones(len(totals)) if weights is None else weights
    totals, weights = _paired(totals=totals, weights=weights)
    require(bool((weights > 0).all()), "weights", float(weights.min()), "positive")
    share = weights / weights.sum()
    ratio = totals.sum() / weights.sum()
    residuals = (totals - ratio * weights) / weights.sum()
    size = np.abs(totals).max() / weights.sum()
    return _Ratio(float(ratio), *_error(residuals, share, size))


def _error(residuals: np.ndarray, share: np.ndarray, size: float) -> tuple[float, float]:
    """(standard error, effective number of documents) of a sum of items with these residuals and
    shares of the weight. size: magnitude of the numbers; residuals far below it are rounding."""
    documents = 1 / (share**2).sum()
    if documents < 1.5 or np.abs(residuals).max() <= 1e-12 * size:
        return math.inf, float(documents)
    return math.sqrt((residuals**2 / (1 - share)).sum()), float(documents)


def _student(mean: float, error: float, freedom: float, level: float) -> Interval:
    require(0 < level < 1, "level", level, "between 0 and 1")
    if not math.isfinite(error):
        return Interval(mean, -math.inf, math.inf)
    half = stdtrit(freedom, (1 + level) / 2) * error
    return Interval(mean, float(mean - half), float(mean + half))


def _bounded(
    above: np.ndarray, below: np.ndarray, seed: int, level: float, resamples: int
) -> Interval:
    """sum(above) / sum(below), with its interval from random weights; every `below` is positive."""
    require(0 < level < 1, "level", level, "between 0 and 1")
    require(resamples >= 1, "resamples", resamples, "at least 1")
    # Equal prompts get one weight together, so that the order of prompts does not matter.
    kinds, counts = np.unique(np.stack([above, below], axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    lows, highs, chunk = [], [], max(1, 2**20 // len(kinds))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        top, bottom = (rng.standard_gamma(counts, (size, len(kinds))) @ kinds).T
        unseen = below.mean() * rng.standard_exponential(size)
        lows.append(top / (bottom + unseen))
        highs.append((top + unseen) / (bottom + unseen))
    mean = float(above.sum() / below.sum())
    low = float(np.quantile(np.concatenate(lows), (1 - level) / 2))
    high = float(np.quantile(np.concatenate(highs), (1 + level) / 2))
    return Interval(mean, min(low, mean), max(high, mean))


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
