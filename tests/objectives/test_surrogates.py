"""Surrogates, value loss and diagnostics against loops: values, gradients, extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.likelihood import sequence_log_prob
from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights
from rlhf_jax.objectives.surrogates import (
    cispo,
    clipped_value_loss,
    explained_variance,
    gspo,
    importance_ratio,
    importance_weighted,
    mean_log_ratio,
    ppo_clip,
    ppo_diagnostics,
    ppo_penalty,
    reinforce,
    truncated_importance,
)
from tests.objectives.harness import (
    Case,
    assert_close,
    check_transformations,
    check_values_and_gradients,
    parametrise,
    rows,
)

RNG = np.random.default_rng(4)
OLD = -np.abs(RNG.normal(1, 0.5, size=(4, 5)))
# Ratios on either side of every clip used below, none within a finite difference of one.
RATIOS = RNG.permutation([0.3, 0.6, 0.75, 0.9, 0.99, 1.05, 1.1, 1.25, 1.4, 2.5] * 2).reshape(4, 5)
LOG_PROBS = OLD + np.log(RATIOS)
ADVANTAGES = RNG.normal(size=(4, 5))
MASK = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
POLICY = (LOG_PROBS, OLD, ADVANTAGES)


def ppo_scalar(p, old, a, low=0.2, high=0.2, dual=None):
    ratio = np.exp(p) / np.exp(old)
    objective = min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
    if dual is not None and a < 0:
        objective = max(objective, dual * a)
    return -objective


def penalty_scalar(p, old, a, coefficient=0.5):
    ratio = np.exp(p - old)
    return -ratio * a + coefficient * (ratio - 1 - np.log(ratio))


def held(weight):
    """-weight(p / old) A log p: values, and gradients with the weight held at its value."""

    def value(p, old, a):
        return rows(lambda p, old, a: -weight(np.exp(p - old)) * a * p, p, old, a)

    def gradient(p, old, a):
        constant = rows(lambda p, old: weight(np.exp(p - old)), LOG_PROBS, OLD)
        return rows(lambda w, a, p: -w * a * p, constant, a, p)

    return value, gradient


def surrogate_case(name, function, scalar):
    return Case(name, function, functools.partial(rows, scalar), POLICY, (0,), (1, 2))


def held_case(name, function, weight):
    value, gradient = held(weight)
    return Case(name, function, value, POLICY, (0,), (1, 2), gradient)


def gspo_oracle(p, old, a, mask, fixed=None):
    """Sequence ratio exp(mean over tokens); gradients reach each token through its own log p."""
    out = np.zeros(p.shape)
    for b in range(len(p)):
        kept = [t for t in range(p.shape[1]) if mask[b, t]]
        at = p if fixed is None else fixed
        mean = sum(at[b, t] - old[b, t] for t in kept) / len(kept)
        for t in range(p.shape[1]):
            own = mean if fixed is None else mean + p[b, t] - fixed[b, t]
            out[b, t] = ppo_scalar(own, 0.0, a[b, t], 0.05, 0.1)
    return out


def mean_log_ratio_oracle(p, old, mask):
    out = np.zeros(p.shape)
    for b, row in enumerate(mask):
        kept = [t for t, keep in enumerate(row) if keep]
        out[b] = sum(p[b, t] - old[b, t] for t in kept) / len(kept)
    return out


def value_scalar(v, old, r, clip=0.3):
    near = old + min(max(v - old, -clip), clip)
    return 0.5 * max((v - r) ** 2, (near - r) ** 2)


def explained_oracle(values, returns, mask):
    kept = [index for index in np.ndindex(*mask.shape) if mask[index]]

    def variance(of):
        mean = sum(of(index) for index in kept) / len(kept)
        return sum((of(index) - mean) ** 2 for index in kept) / len(kept)

    left = variance(lambda index: returns[index] - values[index])
    return 1 - left / variance(lambda index: returns[index])


def diagnostics_oracle(p, old, a):
    def clipped(p, old, a):
        return float((a > 0 and np.exp(p - old) > 1.2) or (a < 0 and np.exp(p - old) < 0.8))

    return {
        "approximate_kl": rows(lambda p, old: (p - old) ** 2 / 2, p, old),
        "clip_fraction": rows(clipped, p, old, a),
        "ratio": rows(lambda p, old: np.exp(p - old), p, old),
    }


def with_clip(function, **options):
    return lambda p, old, a: function(p, old, a, **options)


CASES = [
    Case("importance_ratio", importance_ratio,
         functools.partial(rows, lambda p, old: np.exp(p) / np.exp(old)),
         (LOG_PROBS, OLD), (0,), (1,)),
    surrogate_case("reinforce", reinforce, lambda p, old, a: -a * p),
    surrogate_case("importance_weighted", importance_weighted,
                   lambda p, old, a: -a * np.exp(p) / np.exp(old)),
    surrogate_case("ppo_clip", with_clip(ppo_clip, clip=0.2), ppo_scalar),
    surrogate_case("ppo_clip-higher", with_clip(ppo_clip, clip=0.2, clip_high=0.3),
                   functools.partial(ppo_scalar, high=0.3)),
    surrogate_case("ppo_clip-dual", with_clip(ppo_clip, clip=0.2, dual_clip=2.0),
                   functools.partial(ppo_scalar, dual=2.0)),
    surrogate_case("ppo_penalty", with_clip(ppo_penalty, coefficient=0.5), penalty_scalar),
    held_case("truncated_importance", with_clip(truncated_importance, ratio_ceiling=1.2),
              lambda ratio: min(1.2, ratio)),
    held_case("cispo", with_clip(cispo, clip=0.2, clip_high=0.3),
              lambda ratio: min(max(ratio, 0.8), 1.3)),
    Case("mean_log_ratio", mean_log_ratio, mean_log_ratio_oracle, (LOG_PROBS, OLD, MASK), (0, 1)),
    Case("gspo", lambda p, old, a, m: gspo(p, old, a, m, 0.05, 0.1), gspo_oracle,
         (*POLICY, MASK), (0,), (2,), functools.partial(gspo_oracle, fixed=LOG_PROBS)),
    Case("clipped_value_loss", lambda v, old, r: clipped_value_loss(v, old, r, 0.3),
         functools.partial(rows, value_scalar), POLICY, (0,), (1, 2)),
    Case("value_loss", lambda v, old, r: clipped_value_loss(v, old, r, None),
         functools.partial(rows, lambda v, old, r: 0.5 * (v - r) ** 2), POLICY, (0,), (1, 2)),
    Case("explained_variance", explained_variance, explained_oracle, (OLD, ADVANTAGES, MASK)),
    Case("ppo_diagnostics", with_clip(ppo_diagnostics, clip=0.2), diagnostics_oracle, POLICY),
]  # fmt: skip


@parametrise(CASES)
def test_oracle(case):
    check_values_and_gradients(case)


@parametrise(CASES)
def test_vmap_and_pmap(case):
    check_transformations(case)


def test_the_explained_variance_of_returns_that_are_alike_is_no_number():
    """Alike where the mask is 1; up to rounding."""
    values, returns = OLD.astype(np.float32), np.full(MASK.shape, 0.1, np.float32)
    returns[0, 1] += 1e-8
    returns[0, 4] = 7  # no token
    assert np.isnan(explained_variance(values, returns, MASK))
    assert np.isnan(explained_variance(values, returns, np.zeros_like(MASK)))
    returns[0, 0] = 0.2
    exact = explained_variance(returns, returns, MASK)
    constant = explained_variance(np.full_like(returns, 3), returns, MASK)
    np.testing.assert_allclose([exact, constant], [1, 0], atol=1e-5)


SURROGATES = {
    "reinforce": reinforce,
    "importance_weighted": importance_weighted,
    "truncated_importance": truncated_importance,
    "cispo": with_clip(cispo, clip=0.2),
    "ppo_clip": with_clip(ppo_clip, clip=0.2),
    "ppo_clip-dual": with_clip(ppo_clip, clip=0.2, dual_clip=3.0),
    "ppo_penalty": with_clip(ppo_penalty, coefficient=0.5),
    "gspo": lambda p, old, a: gspo(p, old, a, jnp.ones_like(p), 0.2),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_on_fresh_rollouts_every_surrogate_has_the_gradient_of_reinforce(name):
    old, advantages = jnp.asarray(OLD, jnp.float32), jnp.asarray(ADVANTAGES, jnp.float32)
    loss = jax.grad(lambda p: jnp.sum(SURROGATES[name](p, old, advantages)))
    gradient = jax.jit(loss)(old)
    assert_close(gradient, -ADVANTAGES)


FAR = np.array([[-1e4, -1e4, 0.0, 0.0, 0.0, -1e4, -1.0, -1.0]])
FAR_OLD = np.array([[0.0, 0.0, -1e4, -1e4, -1e4, -1e4, -25.0, -18.0]])
FAR_ADVANTAGES = np.array([[1.0, -1.0, 1.0, -1.0, 0.0, 1e4, -2.0, -2.0]])


def far(name):
    """(value, slope) of each token of the arrays above, in float64: beyond 20 nats the ratio is
    exp(+-20) and has no slope."""
    p, a, d = FAR, FAR_ADVANTAGES, FAR - FAR_OLD
    if name == "gspo":
        d = np.full_like(d, d.mean())
    ratio = np.exp(np.clip(d, -20, 20))
    slope = np.where(np.abs(d) < 20, ratio, 0)
    near = np.clip(ratio, 0.8, 1.2)
    match name:
        case "reinforce":
            return -a * p, -a
        case "importance_weighted":
            return -a * ratio, -a * slope
        case "truncated_importance":
            return -np.minimum(1, ratio) * a * p, -np.minimum(1, ratio) * a
        case "cispo":
            return -near * a * p, -near * a
        case "ppo_clip" | "gspo" | "ppo_clip-dual":
            free = -a * ratio >= -a * near
            loss, slopes = np.maximum(-a * ratio, -a * near), np.where(free, -a * slope, 0)
            if name == "ppo_clip-dual":
                beyond = (a < 0) & (loss > -3 * a)
                loss, slopes = np.where(beyond, -3 * a, loss), np.where(beyond, 0, slopes)
            return loss, slopes
        case "ppo_penalty":  # of the KL, exp goes on as its tangent
            end = np.exp(np.minimum(d, 20))
            kl = end * (1 + d - np.minimum(d, 20)) - 1 - d
            return -a * ratio + 0.5 * kl, -a * slope + 0.5 * (end - 1)


@pytest.mark.parametrize("name", SURROGATES)
def test_extreme_log_ratios_have_the_values_and_slopes_of_the_clipped_ratio(name):
    log_probs, old, advantages = (
        jnp.asarray(x, jnp.float32) for x in (FAR, FAR_OLD, FAR_ADVANTAGES)
    )

    def total(p):
        values = SURROGATES[name](p, old, advantages)
        return jnp.sum(values), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(log_probs)
    expected, slopes = far(name)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0.2, None])
def test_extreme_values_have_the_losses_and_gradients_of_float64(clip):
    """All on the side of the clip where the free error is the larger one."""
    values, old = np.array([1e9, -1e9, 1e9, 0.0]), np.array([0.0, 0.0, 1e9, 0.0])
    returns = np.array([-1e9, 0.0, 1e9, 0.0])
    loss = jax.vmap(jax.value_and_grad(lambda v, o, r: clipped_value_loss(v, o, r, clip)))
    found = jax.jit(loss)(*(x.astype(np.float32) for x in (values, old, returns)))
    assert_close(found, ((values - returns) ** 2 / 2, values - returns), rtol=1e-6)


def test_gspo_of_a_fully_masked_row_is_finite():
    log_probs, old, advantages = (jnp.asarray(x, jnp.float32) for x in POLICY)
    nothing = jnp.zeros(MASK.shape)

    def loss(p):
        return WeightedMean.of(gspo(p, old, advantages, nothing, 0.2), nothing).mean

    value, gradient = jax.jit(jax.value_and_grad(loss))(log_probs)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_a_clipped_token_has_no_gradient_under_ppo_and_keeps_it_under_cispo():
    up, down = jnp.log(1.5), jnp.log(0.5)
    log_probs, advantages = jnp.stack([up, down, up, down]), jnp.array([1.0, -1.0, -1.0, 1.0])
    old = jnp.zeros(4)
    ppo = jax.jit(jax.grad(lambda p: ppo_clip(p, old, advantages, 0.2).sum()))(log_probs)
    np.testing.assert_allclose(ppo, [0, 0, 1.5, -0.5], rtol=1e-6)
    kept = jax.jit(jax.grad(lambda p: cispo(p, old, advantages, 0.2).sum()))(log_probs)
    np.testing.assert_allclose(kept, [-1.2, 0.8, 1.2, -0.8], rtol=1e-6)
    flags = ppo_diagnostics(log_probs, old, advantages, 0.2)["clip_fraction"]
    np.testing.assert_array_equal(flags, [1, 1, 0, 0])


def test_sequence_level_reinforce_is_the_sum_of_its_tokens():
    """Elementwise surrogates take responses [B] as they take tokens [B, T]."""
    log_probs, old = jnp.asarray(LOG_PROBS, jnp.float32), jnp.asarray(OLD, jnp.float32)
    advantage_B = jnp.array([1.0, -2.0, 0.5, 3.0])
    advantage_BxT = jnp.broadcast_to(advantage_B[:, None], MASK.shape)

    def by_sequence(p):
        return jnp.sum(
            reinforce(sequence_log_prob(p, MASK), sequence_log_prob(old, MASK), advantage_B)
        )

    def by_token(p):
        return jnp.sum(reinforce(p, old, advantage_BxT) * MASK)

    one, other = (jax.jit(jax.value_and_grad(f))(log_probs) for f in (by_sequence, by_token))
    assert_close(one, other)


def test_gspo_by_sequence_is_ppo_on_length_normalised_responses():
    """Token form, reduced by sequence, against the paper's own form on [B]: value and gradient."""
    log_probs, old = jnp.asarray(LOG_PROBS, jnp.float32), jnp.asarray(OLD, jnp.float32)
    advantage_B = jnp.array([1.0, -2.0, 0.5, 3.0])
    advantage_BxT = jnp.broadcast_to(advantage_B[:, None], MASK.shape)

    def tokens(p):
        values = gspo(p, old, advantage_BxT, jnp.asarray(MASK), 0.2)
        return WeightedMean.of(values, *aggregation_weights(jnp.asarray(MASK), "sequence")).mean

    def responses(p):
        mean = [sequence_log_prob(x, MASK, per_token=True) for x in (p, old)]
        return jnp.mean(ppo_clip(*mean, advantage_B, 0.2))

    one, other = (jax.jit(jax.value_and_grad(f))(log_probs) for f in (tokens, responses))
    assert_close(one, other)


def test_gspo_reads_nothing_outside_the_mask():
    arrays = [jnp.asarray(np.where(MASK == 1, x, 1e3), jnp.float32) for x in POLICY]
    clean = gspo(*(jnp.asarray(x, jnp.float32) for x in POLICY), jnp.asarray(MASK), 0.2)
    noisy = gspo(*arrays, jnp.asarray(MASK), 0.2)
    assert_close(np.where(MASK == 1, noisy, 0), np.where(MASK == 1, clean, 0))


def test_integers_are_refused_where_probabilities_are_meant():
    with pytest.raises(AssertionError):
        reinforce(jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    with pytest.raises(AssertionError):
        clipped_value_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros((2, 1)), 0.2)
