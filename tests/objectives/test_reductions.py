"""WeightedMean adds exactly over micro-batches and devices; whitening; aggregation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.objectives.advantages import group_normalised
from rlhf_jax.objectives.reductions import (
    WeightedMean,
    aggregation_weights,
    all_alike,
    as_float,
    masked_mean,
    masked_var,
    only_rounding,
    whiten,
)
from rlhf_jax.objectives.reward_models import gain_and_bias
from tests.objectives.harness import (
    Case,
    check_transformations,
    check_values_and_gradients,
    parametrise,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, size=(3, 5))
MASK = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]])


def mean_oracle(x, mask):
    kept = [x[i] for i in np.ndindex(*x.shape) if mask[i]]
    return sum(kept) / len(kept)


def var_oracle(x, mask):
    mean = mean_oracle(x, mask)
    kept = [(x[i] - mean) ** 2 for i in np.ndindex(*x.shape) if mask[i]]
    return sum(kept) / len(kept)


def whiten_oracle(shift_mean):
    def oracle(x, mask):
        mean, var = mean_oracle(x, mask), var_oracle(x, mask)
        out = np.zeros_like(x)
        for i in np.ndindex(*x.shape):
            if mask[i]:
                out[i] = (x[i] - mean) / np.sqrt(var + 1e-8) + (0 if shift_mean else mean)
        return out

    return oracle


def weights_oracle(by, length=None):
    def oracle(mask):
        out, sequences, tokens = np.zeros(mask.shape), 0, 0
        for b, row in enumerate(mask):
            count = sum(row)
            tokens += count
            sequences += count > 0
            for t, keep in enumerate(row):
                if keep:
                    out[b, t] = {"token": 1, "sequence": 1 / count, "length": 1 / (length or 1)}[by]
        return out, float(tokens if by == "token" else sequences)

    return oracle


def weights_case(by, length=None):
    def function(mask):
        return aggregation_weights(mask, by, length)

    return Case(f"aggregation_weights-{by}", function, weights_oracle(by, length), (MASK,))


CASES = [
    Case("masked_mean", masked_mean, mean_oracle, (X, MASK), wrt=(0,)),
    Case("masked_var", masked_var, var_oracle, (X, MASK), wrt=(0,)),
    Case("whiten", whiten, whiten_oracle(True), (X, MASK), wrt=(0,)),
    Case(
        "whiten-keep-mean",
        lambda x, mask: whiten(x, mask, shift_mean=False),
        whiten_oracle(False),
        (X, MASK),
        wrt=(0,),
    ),
    Case(
        "weighted_mean",
        lambda x, w: WeightedMean.of(x, w).mean,
        lambda x, w: sum(x[i] * w[i] for i in np.ndindex(*x.shape)) / w.sum(),
        (X, np.abs(X)),
        wrt=(0,),
    ),
    weights_case("token"),
    weights_case("sequence"),
    weights_case("length", 8),
]


@parametrise(CASES)
def test_oracle(case):
    check_values_and_gradients(case)


@parametrise(CASES)
def test_vmap_and_pmap(case):
    check_transformations(case)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=6), st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_sum_of_parts_is_the_mean_of_the_union(counts, seed):
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(size=6), (np.arange(6) < n).astype(int)) for n in counts]
    total = WeightedMean.of(*parts[0])
    for part in parts[1:]:
        total = total + WeightedMean.of(*part)
    kept = [x for values, mask in parts for x in values[mask == 1]]
    np.testing.assert_allclose(total.mean, np.mean(kept) if kept else 0, rtol=1e-5, atol=1e-6)
    assert float(total.weight) == len(kept)


def test_devices_with_different_token_counts_give_the_global_mean_and_gradient():
    """The mean of the devices' means is another number: pmean of means is the fault."""
    x = jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32)
    mask = (np.arange(4) < np.array([1, 4, 4, 4, 2, 3, 0, 4])[:, None]).astype(np.float32)

    def gradient_on_device(w, x, mask):
        def total(w):
            part = WeightedMean.of(jnp.square(w * x), mask)
            return part.total, part

        gradient, part = jax.grad(total, has_aux=True)(w)
        summed = part.psum("devices")
        return jax.lax.psum(gradient, "devices") / summed.weight, summed.mean

    def whole(w):
        return WeightedMean.of(jnp.square(w * x), mask).mean

    gradient, mean = jax.pmap(gradient_on_device, "devices", in_axes=(None, 0, 0))(1.5, x, mask)
    np.testing.assert_allclose(gradient, np.full(8, jax.grad(whole)(1.5)), rtol=1e-6)
    np.testing.assert_allclose(mean, np.full(8, whole(1.5)), rtol=1e-6)
    of_means = np.mean([WeightedMean.of(jnp.square(1.5 * x[i]), mask[i]).mean for i in range(8)])
    assert abs(of_means - whole(1.5)) > 1e-2, "this batch cannot tell the fault apart"


def test_whiten_over_devices_is_whiten_of_the_whole():
    x = jnp.asarray(RNG.normal(3, 2, size=(8, 4)), jnp.float32)
    mask = (np.arange(4) < np.array([1, 4, 4, 4, 2, 3, 0, 4])[:, None]).astype(np.float32)
    each = jax.pmap(lambda x, m: whiten(x, m, axis_name="devices"), "devices")(x, mask)
    np.testing.assert_allclose(each, whiten(x, mask), rtol=1e-4, atol=1e-5)


FAR = np.array([1000.1, 12345.678, 1e6 + 0.1], np.float32)


def nearly(value, kind):
    """[512, 48] of one value; "rounded" moves some of them to the next float32."""
    x = np.full((512, 48), value, np.float32)
    if kind == "rounded":
        x[::3, ::2] = np.nextafter(x[::3, ::2], np.float32(np.inf))
    return x


@pytest.mark.parametrize("kind", ["equal", "rounded"])
@pytest.mark.parametrize("value", FAR)
def test_values_equal_up_to_rounding_have_no_spread(value, kind):
    x = nearly(value, kind)
    mask = np.ones(x.shape)

    def both(x):
        zero, kept = whiten(x, mask), whiten(x, mask, shift_mean=False)
        gain, bias = gain_and_bias(x, mask)
        groups = group_normalised(x, mask, 8)
        return jnp.sum(zero) + jnp.sum(groups) + gain, (zero, kept, gain, bias, groups)

    gradient, (zero, kept, gain, bias, groups) = jax.jit(jax.grad(both, has_aux=True))(x)
    np.testing.assert_array_equal(zero, 0)
    np.testing.assert_array_equal(groups, 0)
    np.testing.assert_allclose(kept, x, rtol=3e-7)
    assert gain == 1
    np.testing.assert_allclose(bias, -value, rtol=1e-5)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("value", [1000.0, 12345.678])
def test_a_true_small_spread_far_from_zero_keeps_the_formula(value):
    """Values and gradients against float64, of the same float32 numbers; +-0.01 at 1000."""
    x = (value + 1e-5 * value * RNG.uniform(-1, 1, size=(512, 48))).astype(np.float32)
    mask, w = RNG.random(x.shape) < 0.7, RNG.normal(size=x.shape).astype(np.float32)
    exact = x.astype(np.float64)
    kept = exact[mask]
    scale = 1 / np.sqrt(kept.var() + 1e-8)
    expected = np.where(mask, (exact - kept.mean()) * scale, 0)
    slopes = scale * (w - w[mask].mean() - expected * (w * expected)[mask].mean())

    def projected(x):
        whitened = whiten(x, mask)
        return jnp.sum(w * whitened), (whitened, gain_and_bias(x, mask)[0])

    gradient, (whitened, gain) = jax.jit(jax.grad(projected, has_aux=True))(x)
    np.testing.assert_allclose(whitened, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, np.where(mask, slopes, 0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gain, 1 / kept.std(), rtol=1e-5)

    ones = np.ones((512, 1))
    groups = exact[:, :1].reshape(64, 8)
    deviations = groups - groups.mean(1, keepdims=True)
    expected = deviations / (groups.std(1, keepdims=True) + 1e-6)
    found = group_normalised(x[:, :1], ones, 8).reshape(64, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_whiten_over_devices_reads_the_spread_of_them_all():
    """Equal values on each device: nothing where all devices hold the same, else the formula."""
    over_devices = jax.pmap(lambda x, m: whiten(x, m, axis_name="devices"), "devices")
    mask = np.ones((8, 48))
    same = np.full((8, 48), 12345.678, np.float32)
    np.testing.assert_array_equal(over_devices(same, mask), 0)
    own = same + np.arange(8, dtype=np.float32)[:, None] / 8
    exact = own.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-8)
    np.testing.assert_allclose(over_devices(own, mask), expected, rtol=1e-5, atol=1e-5)


def test_what_counts_as_rounding():
    """A range of 8 eps of the largest value, whatever its sign; eps = 2^-23."""
    eps = 2.0**-23
    lowest = jnp.array([1.0, 1.0, -1 - 8 * eps, 0.0, 0.0])
    highest = jnp.array([1 + 8 * eps, 1 + 16 * eps, -1.0, 0.0, 1e-30])
    found = only_rounding(lowest, highest)
    np.testing.assert_array_equal(found, [True, False, True, True, False])
    inf = jnp.inf
    for lowest, highest in ((1.0, inf), (-inf, 1.0), (-inf, inf), (inf, inf), (1.0, jnp.nan)):
        assert not only_rounding(lowest, highest)
    x, mask = jnp.array([[5.0, 7.0, jnp.nan]]), jnp.array([[1, 0, 0]])
    assert all_alike(x, jnp.zeros_like(mask))
    assert all_alike(x, mask) and not all_alike(x, jnp.array([[1, 1, 0]]))


@pytest.mark.parametrize("sick", [np.inf, -np.inf, np.nan])
def test_a_value_that_is_not_finite_is_not_hidden(sick):
    """The step is then skipped: whitened to 0 it would be an update by zeros."""
    x, mask = np.array([[1.0, 2.0, sick, 4.0]], np.float32), np.ones((1, 4))
    assert np.isnan(whiten(x, mask)).any()
    assert np.isnan(group_normalised(x.T, mask.T, 4)).any()
    assert not np.isfinite(gain_and_bias(x, mask)).all()


def test_masked_out_values_are_not_read():
    garbage = np.where(MASK == 1, X, np.nan).astype(np.float32)
    clean = np.where(MASK == 1, X, 0).astype(np.float32)

    def loss(x):
        return WeightedMean.of(x, MASK).mean + jnp.sum(whiten(x, MASK))

    run = jax.jit(jax.value_and_grad(loss))
    (dirty, gradient), (expected, _) = run(garbage), run(clean)
    assert dirty == expected
    assert np.isfinite(gradient).all()


def test_nothing_counted_is_zero_with_zero_gradient():
    def loss(x):
        nothing = jnp.zeros_like(x)
        return WeightedMean.of(x, nothing).mean + jnp.sum(whiten(x, nothing))

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.ones((2, 3)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_three_aggregations_of_the_same_losses():
    values = jnp.array([[1.0, 3.0, 99.0, 99.0], [5.0, 5.0, 5.0, 5.0], [99.0] * 4])
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    by = {"token": 24 / 6, "sequence": (2 + 5) / 2, "length": (4 + 20) / 10 / 2}
    for name, expected in by.items():
        length = 10 if name == "length" else None
        mean = WeightedMean.of(values, *aggregation_weights(mask, name, length)).mean
        np.testing.assert_allclose(mean, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "by, length", [("tokens", None), ("length", None), ("length", 0), ("token", 8)]
)
def test_unknown_or_idle_aggregation_is_refused(by, length):
    with pytest.raises(ValueError, match="token, sequence, or length"):
        aggregation_weights(jnp.ones((2, 3)), by, length)


def test_as_float_keeps_fractions():
    assert as_float(np.array([1, 2])).dtype == jnp.float32
    assert as_float(jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32
    assert float(WeightedMean.of(np.array([1, 2])).mean) == 1.5
