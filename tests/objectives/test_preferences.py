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
    return 1 / (1 + np.exp(-x))


def dpo_scalar(c, r, rc, rr, smoothing=0.0):
    h = 0.3 * ((c - rc) - (r - rr))
    return -(1 - smoothing) * np.log(sigmoid(h)) - smoothing * np.log(1 - sigmoid(h))


def orpo_scalar(c, r):
    odds = [np.exp(x) / (1 - np.exp(x)) for x in (c, r)]
    return -np.log(sigmoid(np.log(odds[0] / odds[1])))


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
         elementwise(lambda c, r: -np.log(sigmoid(2 * c - 2 * r - 0.5))), MEANS, (0, 1)),
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


@pytest.mark.parametrize("name", [case.name for case in CASES[1:]])
def test_extreme_log_probabilities_have_finite_values_and_gradients(name):
    case = next(case for case in CASES if case.name == name)
    ends = jnp.array([0.0, -1e4, -1e4, 0.0, -1e-8, -700.0])
    arguments = [jnp.roll(ends, i) if x.dtype == np.float64 and x.ndim else jnp.asarray(x)
                 for i, x in enumerate(case.arguments)]  # fmt: skip

    def loss(first):
        return case.function(first, *arguments[1:])

    value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(loss(x))))(arguments[0])
    assert np.isfinite(value) and np.isfinite(gradient).all()
