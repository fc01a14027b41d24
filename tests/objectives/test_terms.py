"""Objectives as expressions: values, exactness over micro-batches, gradients by term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights
from rlhf_jax.objectives.terms import gradients_by_term, term

RNG = np.random.default_rng(7)
X = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
MASK = (np.arange(5) < np.array([5, 1, 3, 2])[:, None]).astype(np.float32)
TEXT = jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32)
TEXT_WEIGHTS = (np.arange(8) < np.array([2, 8, 8, 1])[:, None]).astype(np.float32)
PARAMS = {"a": jnp.float32(0.7), "b": jnp.float32(-1.2)}
COEFFICIENTS = {"policy": 1.0, "value": 0.5, "ptx": 27.8}


def policy(params, x, mask):
    return term("policy", jnp.sin(params["a"] * x), mask)


def value(params, x, mask):
    return term("value", jnp.square(params["b"] * x), mask)


def ptx(params, text, weights):
    return term("ptx", jnp.exp(0.1 * params["a"] * params["b"] * text), weights)


def objective(params, x=X, mask=MASK, text=TEXT, weights=TEXT_WEIGHTS):
    return (
        policy(params, x, mask) + 0.5 * value(params, x, mask) + 27.8 * ptx(params, text, weights)
    )


def by_hand(params):
    means = {
        "policy": np.sum(np.sin(params["a"] * X) * MASK) / MASK.sum(),
        "value": np.sum((params["b"] * X) ** 2 * MASK) / MASK.sum(),
        "ptx": np.sum(np.exp(0.1 * params["a"] * params["b"] * TEXT) * TEXT_WEIGHTS)
        / TEXT_WEIGHTS.sum(),
    }
    return means, sum(COEFFICIENTS[name] * mean for name, mean in means.items())


def test_value_and_metrics_of_an_expression():
    means, total = by_hand(PARAMS)
    result = objective(PARAMS)
    np.testing.assert_allclose(result.value, total, rtol=1e-5)
    assert list(result.metrics) == ["policy", "value", "ptx"]
    for name, mean in means.items():
        np.testing.assert_allclose(result.metrics[name].mean, mean, rtol=1e-5)


def test_ablation_is_one_expression():
    p, v = policy(PARAMS, X, MASK), value(PARAMS, X, MASK)
    means, _ = by_hand(PARAMS)
    np.testing.assert_allclose(p.value, means["policy"], rtol=1e-5)
    np.testing.assert_allclose((p - 2 * v).value, means["policy"] - 2 * means["value"], rtol=1e-5)
    np.testing.assert_allclose((0.5 * (p + v)).value, (p.value + v.value) / 2, rtol=1e-5)
    traced = jax.jit(lambda beta: (p + beta * v).value)(jnp.float32(3))
    np.testing.assert_allclose(traced, p.value + 3 * v.value, rtol=1e-5)


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"\['policy'\]"):
        policy(PARAMS, X, MASK) + policy(PARAMS, X, MASK)


def accumulated(loss, params, parts):
    """Gradient of summed totals over summed weights: one division, as training/ does."""
    gradients, weight = None, 0.0
    for part in parts:
        gradient = jax.grad(lambda p, part=part: loss(p, part), has_aux=True)
        part_gradient, mean = jax.jit(gradient)(params)
        both = gradients is None
        gradients = part_gradient if both else jax.tree.map(jnp.add, gradients, part_gradient)
        weight = weight + mean.weight
    return jax.tree.map(lambda g: g / weight, gradients)


def assert_same_gradient(one, other):
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-5)


def test_shared_weights_are_exact_over_micro_batches():
    def expression(params, x, mask):
        return policy(params, x, mask) + 0.5 * value(params, x, mask)

    def loss(params, part):
        mean, metrics = expression(params, X[part], MASK[part]).loss()
        assert set(metrics) == {"policy", "value"}
        return mean.total, mean

    whole = jax.jit(jax.grad(lambda p: expression(p, X, MASK).value))(PARAMS)
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    assert_same_gradient(accumulated(loss, PARAMS, parts), whole)


def test_different_weights_are_exact_given_their_totals_and_refused_without():
    totals = {"policy": MASK.sum(), "value": MASK.sum(), "ptx": TEXT_WEIGHTS.sum()}

    def loss(params, part):
        expression = objective(params, X[part], MASK[part], TEXT[part], TEXT_WEIGHTS[part])
        mean, _ = expression.loss(totals)
        return mean.total, mean

    whole = jax.jit(jax.grad(lambda p: objective(p).value))(PARAMS)
    parts = [slice(i, i + 1) for i in range(4)]
    assert_same_gradient(accumulated(loss, PARAMS, parts), whole)
    summed = [jax.jit(lambda p, part=part: loss(p, part)[1])(PARAMS) for part in parts]
    mean = sum(summed[1:], summed[0])
    np.testing.assert_allclose(mean.mean, objective(PARAMS).value, rtol=1e-5)
    with pytest.raises(ValueError, match="different weights"):
        objective(PARAMS).loss()


def test_a_term_without_weight_leaves_the_others_whole():
    totals = {"policy": MASK.sum(), "value": MASK.sum(), "ptx": 0.0}
    expression = objective(PARAMS, weights=np.zeros_like(TEXT_WEIGHTS))
    means, _ = by_hand(PARAMS)
    mean = expression.loss(totals)[0].mean
    np.testing.assert_allclose(mean, means["policy"] + 0.5 * means["value"], rtol=1e-5)


def test_terms_aggregate_by_sequence():
    weights = aggregation_weights(jnp.asarray(MASK), "sequence")
    expression = term("a", X, *weights) + 2.0 * term("b", X**2, *weights)
    mean, _ = expression.loss()
    x = np.asarray(X)
    rows = [(x[b] + 2 * x[b] ** 2)[MASK[b] == 1].mean() for b in range(4)]
    np.testing.assert_allclose(mean.mean, np.mean(rows), rtol=1e-5)
    assert float(mean.weight) == 4
    with pytest.raises(ValueError, match="different weights"):
        (term("a", X, *weights) + term("b", X, weights[0])).loss()


def test_gradients_by_term():
    gradient, metrics = jax.jit(lambda p: gradients_by_term(objective, p))(PARAMS)
    assert_same_gradient(gradient, jax.jit(jax.grad(lambda p: objective(p).value))(PARAMS))
    means, _ = by_hand(PARAMS)
    for name, coefficient in COEFFICIENTS.items():
        np.testing.assert_allclose(metrics[name], means[name], rtol=1e-5)
        alone = jax.grad(lambda p, name=name: objective(p).metrics[name].mean)(PARAMS)
        norm = coefficient * np.sqrt(alone["a"] ** 2 + alone["b"] ** 2)
        np.testing.assert_allclose(metrics[f"{name}/gradient_norm"], norm, rtol=1e-5)


def test_a_loss_is_a_weighted_mean():
    mean, _ = policy(PARAMS, X, MASK).loss()
    assert isinstance(mean, WeightedMean)
    assert float(mean.weight) == MASK.sum()
