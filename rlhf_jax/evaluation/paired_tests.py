"""Tests of two policies on the same prompts, and intervals over prompts and seeds together."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.statistics import Interval


class Test(NamedTuple):
    """p: the probability of a difference at least as large if there were none; n: how many prompts
    decide."""

    p: float
    n: int


def sign_test(wins: np.ndarray) -> Test:
    """The exact sign test of wins [N]: 1, 0, or 0.5 for a tie, which does not decide.

    p = P(|X - n / 2| >= |k - n / 2|) for X ~ Binomial(n, 1/2) with k wins of n decided prompts; for
    two answers that are right or wrong it is McNemar's exact test.
    """
    wins = _finite("wins", wins)
    won, lost = int((wins > 0.5).sum()), int((wins < 0.5).sum())
    if not won + lost:
        return Test(1.0, 0)
    return Test(float(binomtest(won, won + lost).pvalue), won + lost)


def permutation_test(a: np.ndarray, b: np.ndarray, seed: int = 0, draws: int = 10_000) -> Test:
    """The paired permutation test of mean(a - b) = 0: signs of the differences [N] are drawn.

    p = (1 + #{draws: |mean(s (a - b))| >= |mean(a - b)|}) / (1 + draws), or over all 2^N signs
    where these are no more than `draws`. Source: Phipson and Smyth (2010), on the added 1.
    """
    a, b = _finite("a", a), _finite("b", b)
    if a.shape != b.shape:
        raise UserError(
            f"permutation test: {len(a)} and {len(b)} values: must be of the same items"
        )
    require(draws >= 1, "draws", draws, "1 or more")
    apart = (a - b)[a != b]
    if not len(apart):
        return Test(1.0, 0)
    seen = abs(apart.sum()) * (1 - 1e-12)  # so that rounding makes no tie a difference
    if 2 ** len(apart) <= draws:
        places = np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart))[None]
        totals = (1 - 2.0 * (places & 1)) @ apart
        return Test(float((np.abs(totals) >= seen).mean()), len(apart))
    rng, beyond = np.random.default_rng(seed), 0
    for start in range(0, draws, 1000):
        signs = rng.integers(0, 2, (min(1000, draws - start), len(apart))) * 2.0 - 1
        beyond += int((np.abs(signs @ apart) >= seen).sum())
    return Test((1 + beyond) / (1 + draws), len(apart))


def over_prompts_and_seeds(
    values: np.ndarray, seed: int = 0, level: float = 0.95, resamples: int = 5000
) -> Interval:
    """The mean of values [S, N] of S seeds (runs) on N prompts, with the percentiles of a bootstrap
    that draws seeds and prompts, both with replacement.

    NaN: not measured. The interval covers what another seed and other prompts would give; one over
    prompts alone is too narrow where runs differ. The bounds are infinite for fewer than two seeds
    or prompts.
    Raises UserError where the shape is wrong or a seed or a prompt has no value.
    Source: Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1.
    """
    require(0 < level < 1, "level", level, "between 0 and 1")
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size or np.isinf(values).any():
        raise UserError(f"values of seeds and prompts: must be finite [seeds, prompts], got the "
                        f"shape {values.shape}")  # fmt: skip
    known = np.isfinite(values)
    if not (known.any(axis=0).all() and known.any(axis=1).all()):
        raise UserError("values of seeds and prompts: a seed or a prompt has no value")
    filled, count = np.where(known, values, 0.0), known.astype(np.float64)
    mean = float(filled.sum() / count.sum())
    runs, prompts = values.shape
    if min(runs, prompts) < 2:
        return Interval(mean, -math.inf, math.inf)
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        by_run = rng.multinomial(runs, np.full(runs, 1 / runs))
        by_prompt = rng.multinomial(prompts, np.full(prompts, 1 / prompts))
        weight = by_run @ count @ by_prompt
        found.append(by_run @ filled @ by_prompt / weight if weight else np.nan)
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise UserError(f"{name}: must be finite numbers, one per prompt; got the shape "
                        f"{found.shape}")  # fmt: skip
    return found
