"""How well a reward model's margins say how sure it is: Brier score, calibration curve, and
agreement by margin.

A pair has the margin m = score of the better response - score of the worse one, by people's
opinion. The model's probability of the better one is sigmoid(m) (Bradley and Terry 1952; Ouyang et
al. 2022, equation 1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.statistics import Interval, ratio_interval


class Bin(NamedTuple):
    """Pairs of which the model is about as sure.

    low, high  bounds of its confidence max(p, 1 - p), or of |m|
    pairs      how many
    predicted  mean confidence
    observed   share of them that it orders as people do
    """

    low: float
    high: float
    pairs: int
    predicted: float
    observed: Interval


def probability(margins: np.ndarray) -> np.ndarray:
    """sigmoid(m), without overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(margins, np.float64) / 2))


def brier(margins: np.ndarray) -> np.ndarray:
    """(1 - sigmoid(m))^2 of each pair [P]; 0.25 without an opinion. Source: Brier (1950)."""
    return (1 - probability(margins)) ** 2


def correct(margins: np.ndarray) -> np.ndarray:
    """1 where m > 0, 0.5 where m = 0, else 0."""
    margins = np.asarray(margins, np.float64)
    return (margins > 0) + 0.5 * (margins == 0)


def calibration_curve(
    margins: np.ndarray, prompts: Sequence | None = None, bins: int = 10, seed: int = 0
) -> list[Bin]:
    """The pairs by the model's confidence sigmoid(|m|), in `bins` equal parts of [0.5, 1]; bins
    without a pair are left out. A calibrated model orders a share of `predicted` of them right.

    prompts: of each pair, the unit of the intervals; None: each pair is its own.
    Raises UserError where a margin is not finite.
    """
    require(bins >= 1, "bins", bins, "1 or more")
    margins = _checked(margins)
    confidence = probability(np.abs(margins))
    edges = np.linspace(0.5, 1, bins + 1)
    place = np.minimum(bins - 1, ((confidence - 0.5) * 2 * bins).astype(int))
    return _binned(margins, confidence, place, edges, prompts, seed)


def by_margin(
    margins: np.ndarray, prompts: Sequence | None = None, bins: int = 4, seed: int = 0
) -> list[Bin]:
    """Agreement by margin: the pairs in `bins` groups of about as many, by |m|; `low` and `high`
    are the bounds of |m|."""
    require(bins >= 1, "bins", bins, "1 or more")
    margins = _checked(margins)
    size = np.abs(margins)
    edges = np.quantile(size, np.linspace(0, 1, bins + 1))
    place = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, bins - 1)
    return _binned(margins, probability(size), place, edges, prompts, seed)


def calibration_error(curve: Sequence[Bin]) -> float:
    """The mean of |observed - predicted| over pairs (expected calibration error).

    Source: Naeini et al. (2015), AAAI.
    """
    total = sum(one.pairs for one in curve)
    return sum(one.pairs * abs(one.observed.mean - one.predicted) for one in curve) / total


def _binned(
    margins: np.ndarray,
    confidence: np.ndarray,
    place: np.ndarray,
    edges: np.ndarray,
    prompts: Sequence | None,
    seed: int,
) -> list[Bin]:
    right = correct(margins)
    names = np.arange(len(margins)) if prompts is None else np.asarray(prompts)
    if names.shape != margins.shape:
        raise UserError(f"prompts: must be one for each of {len(margins)} pairs")
    found = []
    for number in range(len(edges) - 1):
        own = place == number
        if not own.any():
            continue
        kinds, of = np.unique(names[own], return_inverse=True)
        totals = np.bincount(of, right[own], len(kinds)), np.bincount(of, minlength=len(kinds))
        found.append(
            Bin(
                float(edges[number]),
                float(edges[number + 1]),
                int(own.sum()),
                float(confidence[own].mean()),
                ratio_interval(*totals, seed=seed),
            )
        )
    return found


def _checked(margins: np.ndarray) -> np.ndarray:
    margins = np.asarray(margins, np.float64)
    if margins.ndim != 1 or not len(margins) or not np.isfinite(margins).all():
        raise UserError(f"margins: must be finite, one per pair and at least one; got the shape "
                        f"{margins.shape}")  # fmt: skip
    return margins
