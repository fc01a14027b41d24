"""KL estimators: values, and gradients by enumerating every sample; controllers."""

import dataclasses

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


def softmax64(logits, temperature):
    below = np.asarray(logits, np.float64)
    below = (below - below.max(-1, keepdims=True)) / temperature
    log_p = below - np.log(np.exp(below).sum(-1, keepdims=True))
    return np.exp(log_p), log_p


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_exact_kl_of_extreme_and_of_far_logits_is_that_of_float64(temperature):
    """Value, and gradients p (log p / q - KL) and q - p, over the temperature."""

    def total(p, q):
        values = exact_kl(p, q, temperature)
        return jnp.sum(values), values

    far = RNG.normal(size=(2, 3)) + 1e4
    p = np.array([[1e4, -1e4, 0.0], [0.0, 0.0, -np.inf], [0.0, -1e4, -1e4], far[0]], np.float32)
    q = np.array([[-1e4, 1e4, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, -np.inf], far[1]], np.float32)
    gradients, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(p, q)
    (p, log_p), (q, log_q) = softmax64(p, temperature), softmax64(q, temperature)
    d = np.where(p > 0, log_p, 0) - np.where(p > 0, log_q, 0)
    kl = (p * d).sum(-1)
    slopes = (p * (d - kl[:, None]) / temperature, (q - p) / temperature)
    assert_close((values, gradients), (kl, slopes), rtol=1e-6, atol=1e-6)
    assert exact_kl(jnp.array([0.0, 0.0]), jnp.array([0.0, -jnp.inf])) == jnp.inf


def k3_beyond(d):
    """exp(-d) - 1 + d, and from -d = 20 on with exp's tangent in place of exp; and its slope."""
    near = np.minimum(-d, 20)
    return np.exp(near) * (1 - d - near) - 1 + d, 1 - np.exp(near)


EXTREME = {
    k1: lambda d: (d, np.ones_like(d)),
    k2: lambda d: (d**2 / 2, d),
    k3: k3_beyond,
}


@pytest.mark.parametrize("estimator", EXTREME)
def test_estimators_of_extreme_log_probabilities(estimator):
    """The slope of k3 keeps its sign: a token that the reference holds for likelier is pulled."""
    p = np.array([0.0, -1e4, -1e4, -0.1, -25.0, -19.0], np.float32)
    q = np.array([-1e4, 0.0, -1e4, -0.1, 0.0, 0.0], np.float32)
    d = p.astype(np.float64) - q
    value, slope = EXTREME[estimator](d)
    naive = jax.vmap(jax.value_and_grad(estimator))(p, q)
    assert_close(naive, (value, slope), rtol=1e-5, atol=1e-6)
    mended = jax.vmap(jax.value_and_grad(lambda p, q: kl_loss(p, q, estimator)))(p, q)
    np.testing.assert_allclose(mended[0], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mended[1], d, rtol=1e-6)


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


def test_the_defaults_are_ziegler_s():
    assert dataclasses.astuple(AdaptiveController()) == (0.15, 6.0, 10_000, 0.2)


def test_a_controller_that_could_leave_the_positive_numbers_is_refused():
    """batch 512 x error 0.2 over a horizon of 100 would give 0.15 x (1 - 1.024) < 0."""
    controller = AdaptiveController(0.15, target=6.0, horizon=100)
    for batch_size in (512, 500):  # 500 would give 0, and for ever
        with pytest.raises(ConfigError, match=r"^horizon = 100: must be above batch_size x max_er"):
            controller.update(controller.init(), jnp.float32(0), batch_size)
    kept = controller.update(controller.init(), jnp.float32(0), 499)
    np.testing.assert_allclose(kept, 0.15 * (1 - 499 * 0.2 / 100), rtol=1e-4)


@pytest.mark.parametrize(
    "controller",
    [AdaptiveController(0.15, horizon=100), DoublingController(1.0, 0.01)],
    ids=["adaptive", "doubling"],
)
@pytest.mark.parametrize("kl, end", [(0.0, 2.0**-126), (100.0, (2 - 2.0**-23) * 2.0**127)])
def test_no_number_of_updates_makes_a_coefficient_zero_or_infinite(controller, kl, end):
    """It stops at the least or the largest normal float32, and comes back from there."""

    def run(start, kl):
        step = lambda c, _: (controller.update(c, jnp.float32(kl), 400), None)
        return jax.lax.scan(step, start, None, length=200)[0]

    found = run(controller.init(), kl)
    assert float(found) == end
    back = run(found, 100.0 - kl)
    assert float(back) < 1e30 if kl else float(back) > 1e-30


def test_doubling_controller_is_schulman_s():
    controller = DoublingController(coefficient=1.0, target=0.01)
    kls = jnp.array([0.0, 0.0066, 0.0067, 0.0149, 0.0151, 1.0])
    factors = [controller.update(controller.init(), kl, 1) for kl in kls]
    assert_close(jnp.stack(factors), np.array([0.5, 0.5, 1, 1, 2, 2]))


def test_fixed_controller_stays():
    assert FixedController(0.0).init() == 0  # no penalty at all
    controller = FixedController(0.02)
    coefficient = controller.update(controller.init(), jnp.float32(100), 512)
    np.testing.assert_allclose(coefficient, 0.02, rtol=1e-6)
    assert coefficient.dtype == jnp.float32


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedController(-0.1),
        lambda: FixedController(float("inf")),
        lambda: AdaptiveController(coefficient=float("inf")),
        lambda: AdaptiveController(max_error=float("nan")),
        lambda: DoublingController(float("inf"), 0.01),
        lambda: AdaptiveController(target=0.0),
        lambda: AdaptiveController(horizon=-1),
        lambda: DoublingController(0.0, 0.01),
    ],
)
def test_controllers_refuse_nonsense(make):
    with pytest.raises(ConfigError, match="must be >"):
        make()
