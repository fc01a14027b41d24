"""Length-controlled win rate: the win rate that remains if both policies wrote as long.

A logistic regression of the judge's preference has one term for the policies and one for the
difference of lengths; the win rate without the second term is the result.
"""

import math
from typing import NamedTuple

import numpy as np

from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.statistics import Interval

MISSING_TERM = "the instruction's difficulty"
ABOUT = (
    "Of the terms of Dubois et al. (2024) the model has those of the policies and of the length; "
    f"the third one, {MISSING_TERM}, is dropped: it is fitted over many policies, and here are two."
)


class LengthControl(NamedTuple):
    """theta: the policies' term; phi: the length's term, for a difference of one standard
    deviation; win_rate: sigmoid(theta)."""

    theta: float
    phi: float
    win_rate: float


def length_terms(longer: np.ndarray) -> np.ndarray:
    """tanh(d / std(d)) of the differences of lengths d [N] = length of one - length of the other;
    0 where all are equal."""
    spread = float(np.std(longer))
    return np.tanh(longer / spread) if spread > 0 else np.zeros(len(longer))


def length_controlled(
    wins: np.ndarray, lengths: np.ndarray, other_lengths: np.ndarray, ridge: float = 0.5
) -> LengthControl:
    """Fits P(one wins on prompt i) = sigmoid(theta + phi tanh(d_i / std(d))).

    theta and phi minimise sum_i -[w_i log q_i + (1 - w_i) log(1 - q_i)] + ridge phi^2 / 2 with
    q_i the probability above, by Newton's method. Without the length's term the probability is
    sigmoid(theta). A small prior (half a win and half a loss without a difference in length) keeps
    theta finite where one policy always wins.

    Args:
      wins: [N] in [0, 1]: 1 where one is preferred, 0 where the other is, 0.5 for a tie.
      lengths, other_lengths: [N], in characters or tokens.

    Raises UserError where the shapes differ, a number is not finite or a win is not in [0, 1].
    Source: Dubois et al. (2024), Length-Controlled AlpacaEval, arXiv 2404.04475, equation 2 without
    the instruction's difficulty.
    """
    wins, one, other = (np.asarray(x, np.float64) for x in (wins, lengths, other_lengths))
    if wins.ndim != 1 or not len(wins) or not wins.shape == one.shape == other.shape:
        raise UserError(f"length control: got shapes {wins.shape}, {one.shape} and {other.shape}: "
                        "must be as many wins as lengths of both, at least one")  # fmt: skip
    if not all(np.isfinite(x).all() for x in (wins, one, other)):
        raise UserError("length control: a number is not finite")
    if ((wins < 0) | (wins > 1)).any():
        raise UserError("length control: wins must be in [0, 1]")
    require(ridge >= 0, "ridge", ridge, "0 or more")
    x = np.stack([np.ones(len(wins)), length_terms(one - other)], axis=1)
    x, wins = np.concatenate([x, [[1.0, 0.0]]]), np.append(wins, 0.5)
    theta, phi = _fitted(x, wins, np.array([0.0, ridge]))
    return LengthControl(theta, phi, 1 / (1 + math.exp(-theta)))


def _fitted(x: np.ndarray, y: np.ndarray, ridge: np.ndarray) -> tuple[float, ...]:
    """Weights of a logistic regression of y [N] on x [N, D], by Newton's method with halved steps
    where a whole one would not lower the loss."""

    def loss(weights: np.ndarray) -> float:
        z = x @ weights
        return float((np.logaddexp(0, z) - y * z).sum() + (ridge * weights**2).sum() / 2)

    weights = np.zeros(x.shape[1])
    for _ in range(100):
        q = 0.5 * (1 + np.tanh(x @ weights / 2))
        gradient = x.T @ (q - y) + ridge * weights
        hessian = (x * (q * (1 - q))[:, None]).T @ x + np.diag(ridge)
        # A column that is all 0 has no curvature without a ridge: its weight stays 0.
        step, size = np.linalg.lstsq(hessian, gradient, rcond=None)[0], 1.0
        while size > 1e-8 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-10:
            break
    return tuple(weights.tolist())


def length_controlled_interval(
    wins: np.ndarray,
    lengths: np.ndarray,
    other_lengths: np.ndarray,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 200,
) -> Interval:
    """The length-controlled win rate with the percentiles of the bootstrap over prompts.

    Raises UserError as `length_controlled`.
    """
    require(0 < level < 1, "level", level, "between 0 and 1")
    value = length_controlled(wins, lengths, other_lengths).win_rate
    columns = [np.asarray(x, np.float64) for x in (wins, lengths, other_lengths)]
    count = len(columns[0])
    if count < 2:
        return Interval(value, -math.inf, math.inf)
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = rng.integers(0, count, count)
        found.append(length_controlled(*(column[drawn] for column in columns)).win_rate)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))
