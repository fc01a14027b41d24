"""The DPO family against loops: values, gradients, constants, extremes and identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.preferences import dpo, implicit_reward, ipo, kto, orpo, simpo
from tests.objectives.harness import (
    Case,
    assert_close,
    central_differences,
    check_transformations,
    check_values_and_gradients,
    parametrise,
    rows,
)

RNG = np.random.default_rng(6)
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = -np.abs(RNG.normal(5, 3, size=(4, 6)))
DESIRABLE = np.array([True, False, True, True, False, False])
PAIRS = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
MEANS = (CHOSEN / 8, REJECTED / 8)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def dpo_scalar(c, r, rc, rr, smoothing=0.0):
    h = 0.3 * ((c - rc) - (r - rr))
    return (1 - smoothing) * np.logaddexp(0, -h) + smoothing * np.logaddexp(0, h)


def orpo_scalar(c, r):
    c, r = min(c, -1e-12), min(r, -1e-12)
    log_odds = [x - np.log(-np.expm1(x)) for x in (c, r)]
    return np.logaddexp(0, log_odds[1] - log_odds[0])


def orpo_slopes(c, r):
    """By each argument: -+ sigmoid(log odds r - log odds c) / (1 - p)."""
    c, r = min(c, -1e-12), min(r, -1e-12)
    log_odds = [x - np.log(-np.expm1(x)) for x in (c, r)]
    wrong = sigmoid(log_odds[1] - log_odds[0])
    return wrong / np.expm1(c), -wrong / np.expm1(r)


def kto_oracle(p, ref, desirable, point, fixed=None):
    """Ethayarajh et al. 2024, equation 8: weight - value."""
    z = 0.3 * max(0.0, float(point if fixed is None else fixed))

    def one(p, ref, desirable):
        r = 0.3 * (p - ref)
        return 1.5 - 1.5 * sigmoid(r - z) if desirable else 0.8 - 0.8 * sigmoid(z - r)

    return rows(one, p, ref, desirable)


def elementwise(scalar):
    return functools.partial(rows, scalar)


CASES = [
    Case("implicit_reward", lambda p, q: implicit_reward(p, q, 0.3),
         elementwise(lambda p, q: 0.3 * (p - q)), (CHOSEN, REF_CHOSEN), (0,), (1,)),
    Case("dpo", lambda *x: dpo(*x, beta=0.3), elementwise(dpo_scalar), PAIRS, (0, 1), (2, 3)),
    Case("cdpo", lambda *x: dpo(*x, beta=0.3, label_smoothing=0.1),
         elementwise(lambda *x: dpo_scalar(*x, smoothing=0.1)), PAIRS, (0, 1), (2, 3)),
    Case("ipo", lambda *x: ipo(*x, beta=0.3),
         elementwise(lambda c, r, rc, rr: (c - rc - r + rr - 1 / 0.6) ** 2), PAIRS, (0, 1), (2, 3)),
    Case("simpo", lambda c, r: simpo(c, r, beta=2.0, margin=0.5),
         elementwise(lambda c, r: np.logaddexp(0, -(2 * c - 2 * r - 0.5))), MEANS, (0, 1)),
    Case("orpo", orpo, elementwise(orpo_scalar), MEANS, (0, 1)),
    Case("kto", lambda p, q, d, z: kto(p, q, d, z, 0.3, 1.5, 0.8), kto_oracle,
         (CHOSEN, REF_CHOSEN, DESIRABLE, np.array(0.7)), (0,), (1, 3)),
]  # fmt: skip


@parametrise(CASES)
def test_oracle(case):
    check_values_and_gradients(case)


@parametrise(CASES)
def test_vmap_and_pmap(case):
    check_transformations(case)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_where_policy_is_reference(beta):
    same = [jnp.asarray(x, jnp.float32) for x in (CHOSEN, REJECTED, CHOSEN, REJECTED)]
    assert_close(dpo(*same, beta=beta), np.full(6, np.log(2)))
    assert_close(ipo(*same, beta=beta), np.full(6, 1 / (4 * beta**2)))
    kept = kto(same[0], same[0], jnp.asarray(DESIRABLE), jnp.float32(0), beta)
    assert_close(kept, np.full(6, 0.5))


def test_the_best_margin_of_each_loss():
    """DPO always wants more, cDPO stops at log odds of the noise, IPO at 1 / (2 beta)."""
    zero = jnp.zeros(())

    def slope(loss, margin):
        return float(jax.grad(lambda m: loss(m, zero, zero, zero))(jnp.float32(margin)))

    assert slope(functools.partial(dpo, beta=0.5), 20.0) < 0
    noisy = functools.partial(dpo, beta=0.5, label_smoothing=0.1)
    np.testing.assert_allclose(slope(noisy, np.log(9) / 0.5), 0, atol=1e-6)
    np.testing.assert_allclose(slope(functools.partial(ipo, beta=0.5), 1.0), 0, atol=1e-6)


def test_kto_never_moves_its_reference_point_below_zero():
    p, q = jnp.asarray(CHOSEN, jnp.float32), jnp.asarray(REF_CHOSEN, jnp.float32)
    desirable = jnp.asarray(DESIRABLE)
    low, zero = (kto(p, q, desirable, jnp.float32(z), 0.3) for z in (-5.0, 0.0))
    assert_close(low, zero)


@pytest.mark.parametrize("name", [case.name for case in CASES if case.name != "orpo"])
def test_extreme_log_probabilities_have_the_values_and_gradients_of_float64(name):
    case = next(case for case in CASES if case.name == name)
    ends = np.array([0.0, -1e4, -1e4, 0.0, -1e-8, -700.0])
    arguments = [np.roll(ends, i) if x.dtype == np.float64 and x.ndim else x
                 for i, x in enumerate(case.arguments)]  # fmt: skip
    first, *others = (x.astype(np.float32) if x.dtype == np.float64 else x for x in arguments)

    def total(x):
        values = case.function(x, *others)
        return jnp.sum(values), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(first)
    oracle = lambda x: case.oracle(x, *arguments[1:])
    np.testing.assert_allclose(values, oracle(arguments[0]), rtol=1e-5, atol=1e-5)
    slopes = central_differences(lambda x: oracle(x).sum(), arguments[0], step=1e-3)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-5)


def test_orpo_near_certainty_keeps_its_value_and_its_slopes():
    """Down to 1 - p = 1e-10, which float32 holds; at p = 1 the slope of the chosen is -odds."""
    means = np.array([-1e4, -700.0, -0.5, -1e-3, -1e-6, -1e-7, -1e-8, -1e-10, 0.0], np.float32)
    chosen, rejected = (x.reshape(-1) for x in np.meshgrid(means, means))
    function = jax.jit(jax.vmap(jax.value_and_grad(orpo, (0, 1))))
    value, slopes = function(chosen, rejected)
    exact = chosen.astype(np.float64), rejected.astype(np.float64)
    np.testing.assert_allclose(value, rows(orpo_scalar, *exact), rtol=1e-5, atol=1e-6)
    for k, slope in enumerate(slopes):
        expected = rows(lambda c, r, k=k: orpo_slopes(c, r)[k], *exact)
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
    _, (certain, _) = function(np.zeros(1, np.float32), np.full(1, -0.5, np.float32))
    np.testing.assert_allclose(certain, -1 / np.expm1(0.5), rtol=1e-5)
