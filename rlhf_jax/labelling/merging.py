"""One ranking of an item from those of several labelers. Ranks are dense, 0 is best."""

from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.records import dense_ranks


def _wins(rankings: Sequence[Sequence[int]]) -> np.ndarray:
    """[K, K]: how many labelers prefer output i to j; a tie counts one half for each."""
    ranks = np.asarray(rankings)
    return ((1 + np.sign(ranks[:, None, :] - ranks[:, :, None])) / 2).sum(axis=0)


def majority(rankings: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Outputs by the number of others that a majority prefers them to, less the number of those
    that a majority prefers to them (Copeland 1951): s_i = sum_j sign(w_ij - w_ji).

    rankings: [labelers][K] ranks; w_ij labelers prefer i to j.
    """
    wins = _wins(rankings)
    return dense_ranks((-np.sign(wins - wins.T).sum(axis=1)).tolist())


def bradley_terry(rankings: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Outputs by their strengths in the model P(i preferred to j) = sigmoid(s_i - s_j) of maximum
    likelihood (Bradley & Terry 1952), a tie as half a win.

    rankings: [labelers][K] ranks. Each of L labelers compares each pair, so that at the maximum
    W_i = sum_j w_ij = L (sum_k sigmoid(s_i - s_k) - 1/2), which increases in s_i. So the order of
    the strengths is that of the numbers of wins W_i, also where the strengths are infinite.
    """
    wins = _wins(rankings).sum(axis=1)
    return dense_ranks((-wins).tolist())
