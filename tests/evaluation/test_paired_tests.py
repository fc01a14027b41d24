"""Paired tests against SciPy and statsmodels; the bootstrap over prompts and seeds against a
variance that is known."""

import itertools
import warnings

import numpy as np
import pytest
from scipy.stats import permutation_test as scipy_test

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.paired_tests import (
    over_prompts_and_seeds,
    permutation_test,
    sign_test,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from statsmodels.stats.contingency_tables import mcnemar


def test_the_sign_test_is_mcnemar_s_exact_test():
    rng = np.random.default_rng(0)
    a, b = rng.random(60) < 0.7, rng.random(60) < 0.5
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = sign_test((1 + a.astype(float) - b) / 2)
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.n == (a != b).sum()
    assert sign_test(np.full(5, 0.5)) == (1.0, 0)


def test_few_items_take_all_signs():
    a, b = np.array([3.0, 1.0, 4.0, 1.0, 5.0]), np.array([2.0, 2.5, 1.0, 1.0, 2.0])
    apart = a - b
    totals = [abs(np.dot(s, apart)) for s in itertools.product((1, -1), repeat=5)]
    expected = np.mean([t >= abs(apart.sum()) - 1e-12 for t in totals])
    assert permutation_test(a, b) == (pytest.approx(expected), 4)
    assert permutation_test(a, a) == (1.0, 0)


def test_many_items_agree_with_scipy():
    rng = np.random.default_rng(1)
    a = rng.normal(0.3, 1, 50)
    b = rng.normal(0, 1, 50)
    mean = lambda x, y, axis: np.mean(x - y, axis=axis)
    theirs = scipy_test((a, b), mean, permutation_type="samples", n_resamples=4000, vectorized=True,
                        rng=np.random.default_rng(2)).pvalue  # fmt: skip
    found = permutation_test(a, b, draws=4000)
    assert found.p == pytest.approx(theirs, abs=0.02) and found.n == 50


def test_runs_that_differ_widen_the_interval():
    """Values of run s and prompt i are A_s + B_i: the mean has the variance
    var(A) / S + var(B) / N."""
    rng = np.random.default_rng(3)
    runs, prompts = 30, 200
    by_run, by_prompt = rng.normal(0, 0.3, (runs, 1)), rng.normal(0, 1, (1, prompts))
    found = over_prompts_and_seeds(by_run + by_prompt, resamples=2000)
    error = np.sqrt(by_run.var() / runs + by_prompt.var() / prompts)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.08)
    alone = over_prompts_and_seeds(0 * by_run + by_prompt, resamples=2000)
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 * by_prompt.std() / prompts**0.5,
                                                         rel=0.08)  # fmt: skip
    assert found.mean == pytest.approx((by_run + by_prompt).mean())


def test_a_value_that_is_missing_is_left_out():
    values = np.array([[1.0, np.nan, 3.0], [5.0, 6.0, np.nan]])
    assert over_prompts_and_seeds(values, resamples=50).mean == 15 / 4
    one = over_prompts_and_seeds(values[:1, ::2])
    assert (one.mean, one.low, one.high) == (2.0, -np.inf, np.inf)
    with pytest.raises(UserError, match="a seed or a prompt has no value"):
        over_prompts_and_seeds(values * [[1], [np.nan]])
    with pytest.raises(UserError, match=r"got the shape \(3,\)"):
        over_prompts_and_seeds(values[0])
    with pytest.raises(UserError, match="2 and 3 values: must be of the same items"):
        permutation_test(np.zeros(2), np.zeros(3))
    with pytest.raises(UserError, match="wins: must be finite numbers"):
        sign_test(np.array([np.nan]))
