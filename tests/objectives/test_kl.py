"""KL estimators: values, and gradients by enumerating every sample; controllers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlhf_jax.errors import ConfigError
from rlhf_jax.objectives.kl import (
    AdaptiveController,
    DoublingController,
    FixedController,
    exact_kl,
    k1,
    k2,
    k3,
    kl_loss,
)
from rlhf_jax.objectives.likelihood import token_log_probs
from tests.objectives.harness import (
    Case,
    assert_close,
    check_transformations,
    check_values_and_gradients,
    parametrise,
    rows,
)

RNG = np.random.default_rng(2)
P, Q = -np.abs(RNG.normal(size=(2, 2, 3)))
LOGITS_P, LOGITS_Q = RNG.normal(size=(2, 2, 3, 5))


def exact_oracle(logits_p, logits_q):
    out = np.zeros(logits_p.shape[:-1])
    for i in np.ndindex(*out.shape):
        p, q = (np.exp(x[i] / 0.7) / sum(np.exp(x[i] / 0.7)) for x in (logits_p, logits_q))
        out[i] = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    return out


def elementwise(function):
    return lambda *arrays: rows(function, *arrays)


ORACLES = {
    k1: elementwise(lambda p, q: p - q),
    k2: elementwise(lambda p, q: (p - q) ** 2 / 2),
    k3: elementwise(lambda p, q: np.exp(q) / np.exp(p) - 1 - np.log(np.exp(q) / np.exp(p))),
}
CASES = [
    *(Case(f.__name__, f, oracle, (P, Q), wrt=(0, 1)) for f, oracle in ORACLES.items()),
    Case(
        "exact_kl",
        lambda p, q: exact_kl(p, q, temperature=0.7),
        exact_oracle,
        (LOGITS_P, LOGITS_Q),
        wrt=(0, 1),
    ),
    Case("kl_loss", kl_loss, ORACLES[k3], (P, Q), (0,), (1,), ORACLES[k2]),
]


@parametrise(CASES)
def test_oracle(case):
    check_values_and_gradients(case)


@parametrise(CASES)
def test_vmap_and_pmap(case):
    check_transformations(case)


# Every sample x of a vocabulary, weighted by p(x): expectations without noise.
THETA = jnp.asarray(RNG.normal(size=5), jnp.float32)
REFERENCE = jnp.asarray(RNG.normal(size=5), jnp.float32)


def expectation(per_sample, theta, reference=REFERENCE):
    """E_{x ~ p}[per_sample(log p(x), log q(x))] with the sampling weights held constant."""
    weights = jax.lax.stop_gradient(jax.nn.softmax(theta))
    return jnp.sum(weights * per_sample(jax.nn.log_softmax(theta), jax.nn.log_softmax(reference)))


def kl_policy_reference(theta):
    return exact_kl(theta, REFERENCE)


def kl_reference_policy(theta):
    return exact_kl(REFERENCE, theta)


def gradient_of(function):
    return jax.jit(jax.grad(function))(THETA)


@pytest.mark.parametrize("estimator", [k1, k3])
def test_estimators_are_unbiased(estimator):
    np.testing.assert_allclose(expectation(estimator, THETA), kl_policy_reference(THETA), rtol=1e-5)


def test_naive_gradient_of_k1_is_zero():
    gradient = gradient_of(lambda t: expectation(k1, t))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert jnp.max(jnp.abs(gradient_of(kl_policy_reference))) > 0.05


def test_naive_gradient_of_k3_is_that_of_the_other_divergence():
    gradient = gradient_of(lambda t: expectation(k3, t))
    np.testing.assert_allclose(gradient, gradient_of(kl_reference_policy), atol=1e-6)
    assert jnp.max(jnp.abs(gradient - gradient_of(kl_policy_reference))) > 0.05


@pytest.mark.parametrize("value", [k1, k2, k3])
def test_kl_loss_has_the_gradient_of_the_kl_and_the_value_of_its_estimator(value):
    def loss(theta):
        return expectation(lambda p, q: kl_loss(p, q, value), theta)

    np.testing.assert_allclose(loss(THETA), expectation(value, THETA), rtol=1e-5)
    np.testing.assert_allclose(gradient_of(loss), gradient_of(kl_policy_reference), atol=1e-6)


@pytest.mark.parametrize("estimator", [k1, k2, k3, kl_loss])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_identical_models_have_no_kl_at_one_temperature_only(estimator, temperature):
    """Log-probabilities of sampler and learner at two temperatures: the KL would not be 0."""
    logits, targets = jnp.asarray(LOGITS_P, jnp.float32), jnp.array([[0, 1, 2], [3, 4, 0]])
    ours = token_log_probs(logits, targets, temperature)
    np.testing.assert_array_equal(estimator(ours, ours), 0)
    other = token_log_probs(logits, targets, temperature + 0.3)
    assert jnp.min(jnp.abs(estimator(ours, other))) > 1e-4
    np.testing.assert_array_equal(exact_kl(logits, logits, temperature), 0)


FINITE = hnp.arrays(np.float32, (4,), elements=st.floats(-8, 8, width=32))


@given(FINITE, FINITE)
@settings(max_examples=50, deadline=None)
def test_signs_and_bounds(p, q):
    assert (np.asarray(k2(p, q)) >= 0).all()
    assert (np.asarray(k3(p, q)) >= -1e-6).all()
    assert float(exact_kl(jnp.asarray(p), jnp.asarray(q))) >= -1e-6


def test_extreme_logits():
    def total(p, q):
        values = exact_kl(p, q)
        return jnp.sum(values), values

    p = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, -jnp.inf], [0.0, -1e4, -1e4]])
    q = jnp.array([[-1e4, 1e4, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, -jnp.inf]])
    gradients, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(p, q)
    np.testing.assert_allclose(values[0], 2e4, rtol=1e-5)
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()
    assert exact_kl(jnp.array([0.0, 0.0]), jnp.array([0.0, -jnp.inf])) == jnp.inf
    ends, others = jnp.array([0.0, -1e4, -1e4, -0.1]), jnp.array([-1e4, 0.0, -1e4, -0.1])
    for value in (k1, k2, k3):
        naive = jax.value_and_grad(lambda x, v=value: jnp.sum(v(x, others)))
        assert all(np.isfinite(x).all() for x in jax.jit(naive)(ends))
        result = jax.jit(jax.value_and_grad(lambda x, v=value: kl_loss(x, jnp.zeros_like(x), v)))(
            -1e4
        )
        assert np.isfinite(result).all()


def test_adaptive_controller_is_ziegler_s():
    controller = AdaptiveController(coefficient=0.15, target=6.0, horizon=10_000)
    coefficient = expected = 0.15
    update = jax.jit(lambda c, kl: controller.update(c, kl, batch_size=512))
    np.testing.assert_allclose(controller.init(), 0.15, rtol=1e-6)
    for kl in [0.0, 5.9, 6.0, 6.6, 7.2, 100.0]:
        error = min(max(kl / 6.0 - 1, -0.2), 0.2)
        expected *= 1 + error * 512 / 10_000
        coefficient = update(coefficient, kl)
        np.testing.assert_allclose(coefficient, expected, rtol=1e-6)


def test_doubling_controller_is_schulman_s():
    controller = DoublingController(coefficient=1.0, target=0.01)
    kls = jnp.array([0.0, 0.0066, 0.0067, 0.0149, 0.0151, 1.0])
    factors = [controller.update(controller.init(), kl, 1) for kl in kls]
    assert_close(jnp.stack(factors), np.array([0.5, 0.5, 1, 1, 2, 2]))


def test_fixed_controller_stays():
    controller = FixedController(0.02)
    coefficient = controller.update(controller.init(), jnp.float32(100), 512)
    np.testing.assert_allclose(coefficient, 0.02, rtol=1e-6)
    assert coefficient.dtype == jnp.float32


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedController(-0.1),
        lambda: AdaptiveController(target=0.0),
        lambda: AdaptiveController(horizon=-1),
        lambda: DoublingController(0.0, 0.01),
    ],
)
def test_controllers_refuse_nonsense(make):
    with pytest.raises(ConfigError, match="must be >"):
        make()
