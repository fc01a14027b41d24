"""Simulated labelers: gold scores plus noise on a Likert scale, and how well two labelers agree.

A labeler sees score + N(0, noise^2) (Thurstone 1927, case V) and rounds it to one of `levels`
levels, as InstructGPT's labelers rated 1..7 (Ouyang et al. 2022, section 3.4). Outputs of the same
level tie. Two labelers agree on a pair if both prefer the same output or both tie.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from rlhf_jax.errors import UserError, require

LIKERT = 7


@dataclass(frozen=True)
class SimulatedLabeler:
    """Rates outputs with gold scores in [0, 1], with noise, on `levels` levels; None: no rounding.

    The noise depends on seed, prompt and response only. So a labeler rates the same output the same
    in any order, process and resumed run, and equal outputs always tie.
    """

    noise: float
    levels: int | None = LIKERT
    seed: int = 0

    def __post_init__(self):
        require(math.isfinite(self.noise) and self.noise >= 0, "noise", self.noise, "at least 0")
        ok = self.levels is None or self.levels >= 2
        require(ok, "levels", self.levels, "at least 2, or None")

    def ratings(
        self, prompt: str, responses: Sequence[str], scores: Sequence[float]
    ) -> tuple[float, ...]:
        """The rating of each response: 1..levels, or the noisy score without rounding."""
        if len(responses) != len(scores):
            raise UserError(f"{len(responses)} responses but {len(scores)} scores")
        seen = [
            score + self.noise * self._normal(prompt, response)
            for response, score in zip(responses, scores, strict=True)
        ]
        if self.levels is None:
            return tuple(seen)
        steps = self.levels - 1
        return tuple(1 + min(max(math.floor(x * steps + 0.5), 0), steps) for x in seen)

    def rank(
        self, prompt: str, responses: Sequence[str], scores: Sequence[float]
    ) -> tuple[int, ...]:
        """Ranks of the responses: 0 for the best rating, 1 for the next; equal ratings tie."""
        ratings = self.ratings(prompt, responses, scores)
        order = sorted(set(ratings), reverse=True)
        return tuple(order.index(rating) for rating in ratings)

    def _normal(self, prompt: str, response: str) -> float:
        return standard_normal((self.seed, prompt, response))


def standard_normal(of: tuple) -> float:
    """A standard normal number that depends on the values `of` only."""
    bits = int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:8], "big") >> 12
    return NormalDist().inv_cdf((bits + 0.5) / 2**52)


def pairwise_agreement(ranks_a: Sequence[Sequence[int]], ranks_b: Sequence[Sequence[int]]) -> float:
    """Fraction of output pairs, over all prompts, that two labelers order the same way or both tie.

    agreement = mean over pairs i < j of [sign(a_j - a_i) = sign(b_j - b_i)], with one row of ranks
    per prompt; outputs of rank -1 are absent. Raises UserError where the rows do not match or no
    prompt has two outputs.
    """
    if [len(row) for row in ranks_a] != [len(row) for row in ranks_b]:
        raise UserError("the two labelers must have ranked the same outputs of the same prompts")
    alike = pairs = 0
    for row_a, row_b in zip(ranks_a, ranks_b, strict=True):
        a, b = np.asarray(row_a), np.asarray(row_b)
        if ((a < 0) != (b < 0)).any():
            raise UserError("the two labelers must have ranked the same outputs of each prompt")
        a, b = a[a >= 0], b[b >= 0]
        i, j = np.triu_indices(len(a), 1)
        alike += int((np.sign(a[j] - a[i]) == np.sign(b[j] - b[i])).sum())
        pairs += len(i)
    if not pairs:
        raise UserError("no prompt has two ranked outputs")
    return alike / pairs


class _Pairs:
    """All pairs of outputs of the same prompt, as row numbers in a table of the distinct scores."""

    def __init__(self, scores_per_prompt: Sequence[Sequence[float]]):
        lengths = [len(row) for row in scores_per_prompt]
        flat = np.concatenate([np.zeros(0), *map(np.asarray, scores_per_prompt)])
        self.scores_U, rows = np.unique(flat, return_inverse=True)
        starts = np.cumsum([0, *lengths[:-1]])
        pairs = [np.zeros((2, 0), int)]
        pairs += [
            start + np.stack(np.triu_indices(length, 1))
            for start, length in zip(starts, lengths, strict=True)
        ]
        self.i_P, self.j_P = rows[np.concatenate(pairs, axis=1)]
        if not len(self.i_P):
            raise UserError("no prompt has two scores")

    def agreement(self, noise: float, levels: int) -> float:
        thresholds = (np.arange(levels - 1) + 0.5) / (levels - 1)
        z = (thresholds - self.scores_U[:, None]) / (noise * math.sqrt(2))
        cumulative = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(z))
        ends = np.ones((len(z), 1))
        below_UxL = np.concatenate([0 * ends, cumulative], axis=1)
        level_UxL = np.concatenate([cumulative, ends], axis=1) - below_UxL
        first, second = level_UxL[self.i_P], level_UxL[self.j_P]
        better = (first * below_UxL[self.j_P]).sum(axis=1)
        worse = (second * below_UxL[self.i_P]).sum(axis=1)
        tied = (first * second).sum(axis=1)
        return float((better**2 + worse**2 + tied**2).mean())


def expected_agreement(
    scores_per_prompt: Sequence[Sequence[float]], noise: float, levels: int = LIKERT
) -> float:
    """Expected agreement of two independent labelers, over all pairs of all prompts.

    P_il = Phi((t_{l+1} - s_i) / noise) - Phi((t_l - s_i) / noise) is the probability that output i
    gets level l, with thresholds t halfway between levels. A labeler prefers i to j with
    probability p(i > j) = sum_{l > m} P_il P_jm. Two labelers agree with probability
    p(i > j)^2 + p(i < j)^2 + p(i = j)^2.
    Raises UserError where no prompt has two scores.
    """
    require(noise > 0, "noise", noise, "above 0")
    return _Pairs(scores_per_prompt).agreement(noise, levels)


def calibrate_noise(
    scores_per_prompt: Sequence[Sequence[float]],
    agreement: float = 0.726,
    levels: int = LIKERT,
) -> float:
    """The noise at which two independent labelers agree on this fraction of pairs (Ouyang: 72.6 %).

    Bisects `expected_agreement` between almost no noise (1e-4) and noise far above the scores
    (100). Give one score per *different* response: equal responses always tie. Raises UserError
    where the requested agreement is not between the agreements at these two ends.
    """
    require(0 < agreement < 1, "agreement", agreement, "between 0 and 1")
    low, high = 1e-4, 100.0
    pairs = _Pairs(scores_per_prompt)
    most, least = (pairs.agreement(noise, levels) for noise in (low, high))
    if not least <= agreement <= most:
        raise UserError(
            f"no noise gives an agreement of {agreement:.3f}: these scores on {levels} levels "
            f"allow {least:.3f} to {most:.3f}"
        )
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        if pairs.agreement(middle, levels) > agreement:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
