"""Choices by log-likelihood: which text a policy finds the likeliest, and how sure it is."""

from collections.abc import Sequence

import numpy as np

from rlhf_jax.errors import require


def shares(log_probs: Sequence[float]) -> np.ndarray:
    """softmax(log p) over the choices of an item, [K] float64: p_k / sum_j p_j."""
    values = np.asarray(log_probs, np.float64)
    require(values.ndim == 1 and values.size > 0, "log_probs", values.shape, "one per choice")
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def entropy_bits(log_probs: Sequence[float]) -> float:
    """H = -sum_k q_k log2 q_k of q = `shares`, in bits: log2 K for a model without a preference.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), section 4.2: "a higher entropy" over the choices
    of Winogender and CrowS-Pairs means less bias.
    """
    found = shares(log_probs)
    known = found[found > 0]
    return float(-(known * np.log2(known)).sum()) + 0.0


def chosen(values: Sequence[float], right: int) -> float:
    """1 where choice `right` has the highest value, 1/n where n choices share it, else 0."""
    array = np.asarray(values, np.float64)
    best = array == array.max()
    return float(best[right] / best.sum())


def per_character(log_probs: Sequence[float], texts: Sequence[str]) -> list[float]:
    """log p of each text by its number of characters (acc_norm of lm-evaluation-harness)."""
    return [value / max(1, len(text)) for value, text in zip(log_probs, texts, strict=True)]
