"""The estimator of best-of-n against all choices of n of N, and against a closed form."""

import itertools
import math

import numpy as np
import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.best_of_n import (
    best_of_n,
    best_of_n_kl,
    best_of_n_weights,
    powers_of_two,
)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_mean_over_all_choices_of_n_samples(n, ties):
    rng = np.random.default_rng(n)
    scores = rng.integers(0, 3, (4, 6)).astype(float) if ties else rng.normal(size=(4, 6))
    values = rng.normal(size=(4, 6))
    expected = []
    for by, of in zip(scores, values, strict=True):
        found = []  # over all orders: the first n are drawn, and equal scores go by their place
        for order in itertools.permutations(range(6)):
            found.append(of[max(order[:n], key=lambda i: (by[i], order.index(i)))])
        expected.append(np.mean(found))
    np.testing.assert_allclose(best_of_n(scores, values, n), expected, atol=1e-12)


def test_of_uniform_scores_the_best_of_n_is_n_over_n_plus_1():
    scores = np.random.default_rng(0).random((4000, 16))
    for n in (1, 2, 8, 16):
        mean = best_of_n(scores, scores, n).mean()
        assert mean == pytest.approx(n / (n + 1), abs=0.01)


def test_all_samples_weigh_the_same_for_n_1_and_only_the_best_for_n_of_n():
    np.testing.assert_allclose(best_of_n_weights(5, 1), np.full(5, 0.2))
    np.testing.assert_allclose(best_of_n_weights(5, 5), [0, 0, 0, 0, 1])
    assert best_of_n_weights(4000, 64).sum() == pytest.approx(1.0)


def test_the_bound_of_the_kl_is_exact_for_a_fine_distribution():
    """KL of the largest of n uniform numbers, with density n u^(n - 1), to one uniform number."""
    for n in (1, 2, 5, 64):
        u = (np.arange(400_000) + 0.5) / 400_000
        density = n * u ** (n - 1)
        known = density > 0
        kl = (density[known] * np.log(density[known])).sum() / 400_000
        assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-4)
    assert best_of_n_kl(4) == math.log(4) - 0.75


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="n = 3: must be 1 to the number of samples = 2"):
        best_of_n_weights(2, 3)
    with pytest.raises(UserError, match=r"scores have the shape \(2, 3\), values \(3, 2\)"):
        best_of_n(np.zeros((2, 3)), np.zeros((3, 2)), 2)
    with pytest.raises(UserError, match="not finite"):
        best_of_n(np.full((1, 2), np.nan), np.zeros((1, 2)), 2)
    assert list(powers_of_two(12)) == [1, 2, 4, 8, 12] and list(powers_of_two(8)) == [1, 2, 4, 8]
