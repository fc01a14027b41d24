"""Best-of-n: the response of highest score among n samples, measured from N >= n samples of a
prompt, and the KL divergence that it costs at most.

Source: Nakano et al. (2021), WebGPT, appendix I.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from rlhf_jax.errors import UserError, require


def best_of_n_weights(samples: int, n: int) -> np.ndarray:
    """The probability [N] that the sample of rank i = 1..N, by increasing score, is the best of n
    of the N samples drawn without replacement: C(i - 1, n - 1) / C(N, n)."""
    require(1 <= n <= samples, "n", n, f"1 to the number of samples = {samples}")
    rank = np.arange(1, samples + 1, dtype=np.float64)
    log_choose = np.full(samples, -np.inf)
    enough = rank >= n
    log_choose[enough] = gammaln(rank[enough]) - gammaln(n) - gammaln(rank[enough] - n + 1)
    whole = gammaln(samples + 1) - gammaln(n + 1) - gammaln(samples - n + 1)
    weights = np.exp(log_choose - whole)
    return weights / weights.sum()  # the sum differs from 1 by rounding only


def best_of_n(scores: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """An unbiased estimate [B], for each prompt, of the value of the best of n samples.

    sum_i C(i - 1, n - 1) / C(N, n) v_(i), the mean over all choices of n of the N samples of the
    value of the one with the highest score. Samples of equal score share their weights.

    Args:
      scores: [B, N], by which the best is chosen.
      values: [B, N], what is measured of it, such as a gold score; the same as `scores` for the
        score itself.

    Raises UserError where the shapes differ or a number is not finite.
    """
    scores, values = np.asarray(scores, np.float64), np.asarray(values, np.float64)
    if scores.ndim != 2 or scores.shape != values.shape:
        raise UserError(f"best of n: scores have the shape {scores.shape}, values {values.shape}: "
                        "must be [prompts, samples] of both")  # fmt: skip
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        raise UserError("best of n: a score or a value is not finite")
    weights = best_of_n_weights(scores.shape[1], n)
    found = np.empty(len(scores))
    for row, (by, of) in enumerate(zip(scores, values, strict=True)):
        _, place, counts = np.unique(by, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        shared = np.add.reduceat(weights, np.concatenate([[0], ends[:-1]])) / counts
        found[row] = shared[place] @ of
    return found


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n in nats: an upper bound of KL(best-of-n || policy).

    It is exact where no two samples have one score. Beirami et al. (2024), arXiv 2401.01879, show
    that it is an upper bound in general.
    """
    require(n >= 1, "n", n, "1 or more")
    return math.log(n) - (n - 1) / n


def powers_of_two(most: int) -> Sequence[int]:
    """1, 2, 4, ... up to `most`, and `most` itself."""
    return sorted({2**k for k in range(most.bit_length()) if 2**k <= most} | {most})
