"""Sampling against a sort-based NumPy oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.errors import ConfigError
from rlhf_jax.generation.sampling import SamplingConfig, greedy, inverse_cdf, keep_top, sample

WEIGHTS = np.array([[4.0, 0.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0]], np.float32)


def oracle_keep(weights, top_k, top_p):
    kept = np.zeros_like(weights)
    for row, out in zip(weights, kept, strict=True):
        order = np.argsort(-row, kind="stable")
        if top_k:
            order = [i for i in order if row[i] >= row[order[min(top_k, len(row)) - 1]]]
        mass, last, total = 0.0, np.inf, row[order].sum(dtype=np.float64)
        for i in order:
            if mass >= top_p * total - 1e-6 and row[i] < last:
                break
            mass, last = mass + row[i], row[i]
            out[i] = row[i]
    return kept


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (2, 1.0), (0, 0.65), (3, 0.5), (9, 0.9)])
def test_keep_top_equals_a_sort(top_k, top_p):
    for weights in (WEIGHTS, np.random.default_rng(0).exponential(size=(6, 300)).astype("f")):
        kept = jax.jit(keep_top, static_argnums=(1, 2))(jnp.array(weights), top_k, top_p)
        np.testing.assert_array_equal(kept, oracle_keep(weights, top_k, top_p))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0, 1, exclude_max=True, width=32))
def test_inverse_cdf_equals_a_running_sum(seed, uniform):
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(1, 300)) * (rng.random((1, 300)) < 0.3)
    weights[0, rng.integers(300)] = 1.0
    token = int(inverse_cdf(jnp.array(weights, jnp.float32), jnp.array([uniform]))[0])
    ends = np.cumsum(weights[0])
    assert weights[0, token] > 0
    slack = 1e-4 * ends[-1]
    assert ends[token] - weights[0, token] - slack <= uniform * ends[-1] <= ends[token] + slack


def test_the_largest_uniform_draws_a_token_of_weight():
    weights = jnp.zeros((1, 1000)).at[0, 3].set(0.1).at[0, 700].set(0.3)
    assert inverse_cdf(weights, jnp.array([1 - 2**-24]))[0] == 700
    assert inverse_cdf(weights, jnp.array([0.0]))[0] == 3
    weights = weights.at[0, 690].set(0.1)
    assert inverse_cdf(weights, jnp.array([0.35]))[0] == 690  # 0.175 of 0.1, 0.1, 0.3


def test_frequencies_follow_the_probabilities():
    logits = jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1]))
    uniform = (jnp.arange(10_000) + 0.5) / 10_000
    rows = jnp.broadcast_to(logits, (10_000, 4))
    tokens, log_probs = sample(SamplingConfig(), rows, uniform)
    np.testing.assert_allclose(
        np.bincount(tokens, minlength=4) / 1e4, [0.5, 0.2, 0.2, 0.1], atol=2e-3
    )
    np.testing.assert_allclose(log_probs, logits[tokens], atol=1e-6)


def test_log_probability_is_tempered_and_unfiltered():
    logits = jnp.array([[1.0, 0.0, -1.0]])
    config = SamplingConfig(temperature=0.5, top_k=1)
    token, log_prob = sample(config, logits, jnp.array([0.99]))
    assert token[0] == 0
    np.testing.assert_allclose(log_prob[0], jax.nn.log_softmax(logits / 0.5)[0, 0], atol=1e-6)


def test_greedy_takes_the_first_largest():
    logits = jnp.array([[0.0, 2.0, 2.0], [5.0, 1.0, 5.0]])
    np.testing.assert_array_equal(greedy(logits), [1, 0])
    token, _ = sample(SamplingConfig(temperature=0.0), logits, jnp.array([0.9, 0.9]))
    np.testing.assert_array_equal(token, [1, 0])


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -0.1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)]
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        SamplingConfig(**{field: value})
