"""The measurement on gradients whose mean and covariance are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.estimators import measure as measuring
from rlhf_jax.estimators.measure import large_sample, measure, per_example_gradients

EXACT = np.array([1.0, -2.0, 0.5, 0.0])
SPREAD = np.array([[3.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0.1, 0], [0, 0, 0, 0]])


def noise(count, seed, spread=SPREAD):
    return np.random.default_rng(seed).normal(size=(count, len(spread))) @ spread.T


def test_variance_and_cosine():
    estimates = EXACT + noise(50_000, 0)
    measured = measure(estimates, EXACT, 0.99)
    np.testing.assert_allclose(measured.variance, np.trace(SPREAD @ SPREAD.T), rtol=0.03)
    assert measured.cosine > 0.999
    cosines = estimates @ EXACT / np.linalg.norm(estimates, axis=1) / np.linalg.norm(EXACT)
    np.testing.assert_allclose(measured.cosine_of_one, cosines.mean())


def test_the_ball_covers_as_often_as_it_says(monkeypatch):
    """500 times 200 estimates at 90 %: 450 +- 6.7 hold the truth."""
    monkeypatch.setattr(measuring, "DRAWS", 5000)
    held = sum(
        measure(EXACT + noise(200, seed), EXACT, 0.9, seed).contains(np.zeros(4))
        for seed in range(500)
    )
    assert 425 < held < 475


def test_a_bias_is_found_and_its_norm_bracketed():
    bias = np.array([0.0, 0.3, 0.0, 0.4])
    measured = measure(EXACT + bias + noise(50_000, 1), EXACT, 0.99)
    interval = measured.bias_norm
    assert not measured.contains(np.zeros(4)) and measured.contains(bias)
    assert 0 < interval["low"] < 0.5 < interval["high"]
    assert interval["low"] < interval["mean"] < interval["high"]


def test_low_is_zero_just_where_the_exact_gradient_is_inside():
    for seed in range(30):
        measured = measure(EXACT + noise(400, seed), EXACT, 0.5, seed)
        assert (measured.bias_norm["low"] == 0) == measured.contains(np.zeros(4))


def test_more_coordinates_than_estimates():
    """The same estimates with empty coordinates beside them have the same ball."""
    few = EXACT + noise(100, 3)
    wide = np.pad(few, ((0, 0), (0, 300)))
    one, other = (measure(x, x.mean(0), 0.99) for x in (few, wide))
    np.testing.assert_allclose(one.radius, other.radius, rtol=1e-6)


def test_a_sampled_reference_adds_its_own_spread():
    estimates, batches = EXACT + noise(1000, 4), EXACT + noise(1000, 5)
    alone = measure(estimates, EXACT, 0.99)
    both = measure(estimates, batches.mean(0), 0.99, reference_batches=batches)
    np.testing.assert_allclose(both.radius, np.sqrt(2) * alone.radius, rtol=0.1)
    assert both.contains(np.zeros(4))


def test_large_sample_is_one_mean_a_key():
    keys = jax.random.split(jax.random.key(0), 3)
    means = large_sample(lambda key: jax.random.normal(key, (2,)), keys)
    np.testing.assert_allclose(means[1], jax.random.normal(keys[1], (2,)), rtol=1e-6)
    assert means.shape == (3, 2) and means.dtype == np.float64


@pytest.mark.parametrize("chunk", [None, 2])
def test_per_example_gradients(chunk):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    x = jnp.arange(10.0).reshape(5, 2)
    loss = lambda p, x: jnp.sum(p["a"] * x) * p["b"]
    expected = np.concatenate([3 * x, (x @ params["a"])[:, None]], axis=1)
    np.testing.assert_allclose(per_example_gradients(loss, params, x, chunk), expected)
    both = {"one": loss, "double": lambda p, x: 2 * loss(p, x)}
    found = per_example_gradients(both, params, x, chunk)
    np.testing.assert_allclose(found["one"], expected)
    np.testing.assert_allclose(found["double"], 2 * expected)
