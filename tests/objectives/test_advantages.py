"""KL-shaped rewards and every advantage function against loops; masks, laws, integer scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.objectives.advantages import (
    gae,
    group_normalised,
    kl_shaped_rewards,
    leave_one_out,
    minus_baseline,
    moving_average,
    optimal_baseline,
    paid_at_end,
    reward_to_go,
    vtrace,
)
from rlhf_jax.objectives.kl import k3
from tests.objectives.harness import (
    Case,
    assert_close,
    check_transformations,
    check_values_and_gradients,
    parametrise,
    to_jax,
)

RNG = np.random.default_rng(3)
REWARDS, VALUES = RNG.normal(size=(2, 4, 6))
LOG_PROBS, OLD, REF = -np.abs(RNG.normal(size=(3, 4, 6)))
SCORES = RNG.normal(size=4)
SOME_ROWS = np.array([[1], [0], [1], [1]])
# Right padding, none, left padding (prompt columns), and a hole with an empty end.
MASK = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0]])


def shaped_oracle(score, log_probs, ref_log_probs, mask, kl=lambda d: d):
    out = np.zeros(mask.shape)
    for b, row in enumerate(mask):
        columns = [t for t, keep in enumerate(row) if keep]
        for t in columns:
            out[b, t] = -0.1 * kl(log_probs[b, t] - ref_log_probs[b, t])
        if columns:
            out[b, columns[-1]] += score[b]
    return out


def paid_loop(rewards):
    return np.array([0.0] * (len(rewards) - 1) + [sum(rewards)])


def by_row(function):
    """f(row of kept columns), lifted to [B, T]: other columns are cut out and come back as 0."""

    def oracle(*arrays):
        *arrays, mask = arrays
        results = None
        for b, row in enumerate(mask):
            columns = np.flatnonzero(row)
            outputs = function(*(x[b, columns] for x in arrays))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            results = results or tuple(np.zeros(mask.shape) for _ in outputs)
            for whole, part in zip(results, outputs, strict=True):
                whole[b, columns] = part
        return results if len(results) > 1 else results[0]

    return oracle


def to_go_loop(rewards, discount=0.9):
    count = len(rewards)
    return np.array(
        [sum(discount ** (k - t) * rewards[k] for k in range(t, count)) for t in range(count)]
    )


def gae_loop(rewards, values, discount=0.9, lam=0.8):
    """The definition: A_t = sum_k (discount lam)^k delta_{t+k}, not the recursion."""
    count = len(rewards)
    following = [*values[1:], 0.0]
    delta = [rewards[t] + discount * following[t] - values[t] for t in range(count)]
    advantages = np.array(
        [sum((discount * lam) ** (k - t) * delta[k] for k in range(t, count)) for t in range(count)]
    )
    return advantages, advantages + values


def vtrace_loop(rewards, values, log_probs, old, discount=0.9, lam=0.8, ceiling=1.1):
    """Espeholt et al. 2018, equation 1: products of c written out."""
    count = len(rewards)
    rho = [min(ceiling, np.exp(p - o)) for p, o in zip(log_probs, old, strict=True)]
    following = [*values[1:], 0.0]
    delta = [rho[t] * (rewards[t] + discount * following[t] - values[t]) for t in range(count)]
    targets = np.zeros(count + 1)
    for s in range(count):
        targets[s] = values[s]
        for t in range(s, count):
            product = np.prod([lam * rho[i] for i in range(s, t)])
            targets[s] += discount ** (t - s) * product * delta[t]
    advantages = np.array(
        [
            rewards[t] + discount * (lam * targets[t + 1] + (1 - lam) * following[t]) - values[t]
            for t in range(count)
        ]
    )
    return advantages, targets[:-1]


def group_oracle(rewards, mask, kind, size=2):
    totals = [
        sum(r for r, m in zip(*pair, strict=True) if m) for pair in zip(rewards, mask, strict=True)
    ]
    out = np.zeros(mask.shape)
    for b in range(len(mask)):
        start = b // size * size
        group = totals[start : start + size]
        others = [totals[i] for i in range(start, start + size) if i != b]
        mean = sum(group) / size
        std = np.sqrt(sum((x - mean) ** 2 for x in group) / size)
        value = {
            "leave_one_out": totals[b] - sum(others) / len(others),
            "grpo": (totals[b] - mean) / (std + 1e-6),
            "dr_grpo": totals[b] - mean,
        }[kind]
        out[b] = value * mask[b]
    return out


def average_oracle(average, rewards, mask):
    returns = [sum(r[m == 1]) for r, m in zip(rewards, mask, strict=True) if m.any()]
    return 0.9 * average + 0.1 * sum(returns) / len(returns)


def optimal_oracle(rewards, mask, norms):
    returns = [sum(r[m == 1]) for r, m in zip(rewards, mask, strict=True)]
    return sum(n * r for n, r in zip(norms, returns, strict=True)) / sum(norms)


def mask_last(function, **options):
    """(rewards, ..., mask) -> the package's order of arguments."""

    def call(*arrays):
        *arrays, mask = arrays
        return function(*arrays[:2], mask, *arrays[2:], **options)

    return call


GROUPED = {
    "leave_one_out": functools.partial(leave_one_out, group_size=2),
    "grpo": functools.partial(group_normalised, group_size=2),
    "dr_grpo": functools.partial(group_normalised, group_size=2, divide_by_std=False),
}
DISCOUNTED = {"discount": 0.9, "lam": 0.8}
# With a critic: (rewards, values, [log_probs, old,] mask). Without: (rewards, mask).
TOKENWISE = [
    Case("paid_at_end", paid_at_end, by_row(paid_loop), (REWARDS, MASK), wrt=(0,)),
    Case("reward_to_go", functools.partial(reward_to_go, discount=0.9), by_row(to_go_loop),
         (REWARDS, MASK), wrt=(0,)),
    Case("minus_baseline", lambda r, v, m: minus_baseline(r, m, v, 0.9),
         by_row(lambda r, v: to_go_loop(r) - v), (REWARDS, VALUES, MASK), wrt=(0, 1)),
    Case("gae", mask_last(gae, **DISCOUNTED), by_row(gae_loop), (REWARDS, VALUES, MASK),
         wrt=(0, 1)),
    Case("vtrace", mask_last(vtrace, **DISCOUNTED, ratio_ceiling=1.1), by_row(vtrace_loop),
         (REWARDS, VALUES, LOG_PROBS, OLD, MASK), wrt=(0, 1)),
    *(Case(name, f, functools.partial(group_oracle, kind=name), (REWARDS, MASK), wrt=(0,))
      for name, f in GROUPED.items()),
]  # fmt: skip
CASES = [
    Case("kl_shaped_rewards", lambda s, p, q, m: kl_shaped_rewards(s, p, q, m, 0.1),
         shaped_oracle, (SCORES, LOG_PROBS, REF, MASK), wrt=(0, 1, 2)),
    Case("kl_shaped_rewards-k3", lambda s, p, q, m: kl_shaped_rewards(s, p, q, m, 0.1, k3),
         functools.partial(shaped_oracle, kl=lambda d: np.exp(-d) - 1 + d),
         (SCORES, LOG_PROBS, REF, MASK), wrt=(0, 1, 2)),
    *TOKENWISE,
    Case("moving_average", lambda a, r, m: moving_average(a, r, m, 0.9), average_oracle,
         (np.array(2.0), REWARDS, MASK * SOME_ROWS), wrt=(0, 1)),
    Case("optimal_baseline", optimal_baseline, optimal_oracle, (REWARDS, MASK, SCORES**2),
         wrt=(0, 2)),
]  # fmt: skip


@parametrise(CASES)
def test_oracle(case):
    check_values_and_gradients(case)


@parametrise(CASES)
def test_vmap_and_pmap(case):
    check_transformations(case)


@parametrise(TOKENWISE)
def test_padding_and_garbage_outside_the_mask_change_nothing(case):
    *arrays, mask = case.arguments
    garbage = [np.where(mask == 1, x, np.nan) for x in arrays]
    padded = [np.pad(x, ((0, 0), (2, 3)), constant_values=np.nan) for x in garbage]
    wide = np.pad(mask, ((0, 0), (2, 3)))
    outputs = case.function(*(jnp.asarray(x, jnp.float32) for x in padded), jnp.asarray(wide))
    expected = case.oracle(*case.arguments)
    many = isinstance(outputs, tuple)
    for ours, theirs in zip(
        *((outputs, expected) if many else ([outputs], [expected])), strict=True
    ):
        assert_close(ours, np.pad(theirs, ((0, 0), (2, 3))))


@parametrise(TOKENWISE)
def test_fully_masked_rows_are_zero_with_zero_gradients(case):
    *arrays, mask = (jnp.asarray(x) for x in case.arguments)
    arrays, nothing = [x.astype(jnp.float32) for x in arrays], jnp.zeros_like(mask)
    outputs = case.function(*arrays, nothing)
    assert_close(outputs, [np.zeros(mask.shape)] * (2 if isinstance(outputs, tuple) else 1))
    total = lambda *x: sum(jnp.sum(y) for y in jax.tree.leaves(case.function(*x, nothing)))
    for gradient in jax.jit(jax.grad(total, tuple(range(len(arrays)))))(*arrays):
        np.testing.assert_array_equal(gradient, 0)


@parametrise([case for case in CASES if case not in TOKENWISE])
def test_padding_and_garbage_beside_scalars_and_scores(case):
    """The three whose arguments are not all [B, T]: more columns of NaN change nothing."""
    shape = MASK.shape
    wide = lambda x: np.pad(x, ((0, 0), (2, 3)), constant_values=0 if x.dtype == int else np.nan)
    arguments = [wide(x) if x.shape == shape else x for x in case.arguments]
    expected = np.asarray(case.oracle(*case.arguments))
    outputs = case.function(*to_jax(arguments))
    widened = np.pad(expected, ((0, 0), (2, 3))) if expected.shape == shape else expected
    assert_close(outputs, widened)


@pytest.mark.parametrize("function", [*GROUPED.values(), reward_to_go])
def test_integer_rewards_become_floats(function):
    out = function(np.array([[1, 2], [0, 1], [3, 3], [2, 5]]), np.ones((4, 2), int))
    assert out.dtype == jnp.float32


def test_integer_scores_do_not_swallow_the_kl():
    """The fault: rewards written into the scores' integer array, so that 0.7 becomes 0."""
    log_probs = jnp.array([[-7.5, -1.5]])
    rewards = kl_shaped_rewards(np.array([1]), log_probs, jnp.zeros((1, 2)), np.ones((1, 2)), 0.1)
    np.testing.assert_allclose(rewards, [[0.75, 1.15]], rtol=1e-6)
    half = kl_shaped_rewards(np.array([0.5]), log_probs, log_probs, np.ones((1, 2), int), 0.1)
    np.testing.assert_allclose(half, [[0.0, 0.5]])


def test_the_score_lands_on_the_last_response_token_with_or_without_eos():
    """Not one after EOS; the last column where no EOS was drawn; nowhere in an empty row."""
    response = np.array([[5, 6, 1, 0, 0], [5, 6, 7, 8, 9], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    eos, pad = 1, 0
    mask = response != pad
    assert response[0, 2] == eos and not (response[1] == eos).any()
    zeros = jnp.zeros(response.shape)
    rewards = kl_shaped_rewards(jnp.array([1.0, 2.0, 3.0, 4.0]), zeros, zeros, mask, 0.02)
    expected = np.zeros(response.shape)
    expected[0, 2], expected[1, 4], expected[2, 0] = 1, 2, 3
    np.testing.assert_array_equal(rewards, expected)


def test_nothing_is_bootstrapped_past_the_last_token():
    rewards, values = jnp.zeros((1, 3)), jnp.array([[1.0, 2.0, 50.0]])
    advantages, returns = gae(rewards, values, jnp.array([[1, 1, 0]]), 1.0, 0.0)
    np.testing.assert_allclose(advantages, [[1.0, -2.0, 0.0]])
    np.testing.assert_allclose(returns, [[2.0, 0.0, 0.0]])


SEEDS = st.integers(0, 2**31 - 1)


def sample(seed, rows=6, columns=5):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, rows, columns)).astype(np.float32)
    return rewards, values, (rng.random((rows, columns)) < 0.7).astype(np.int32)


@jax.jit
def laws_of_gae(rewards, values, mask, discount, lam):
    """Pairs that must be equal."""
    one_step = gae(rewards, values, mask, discount, 1.0)
    general = gae(rewards, values, mask, discount, lam)
    scaled = gae(3 * rewards, 3 * values, mask, discount, lam)
    same = jnp.zeros_like(rewards)
    return {
        "lam = 1 is return minus value": (
            one_step,
            (
                minus_baseline(rewards, mask, values, discount),
                reward_to_go(rewards, mask, discount),
            ),
        ),
        "linear": (scaled, jax.tree.map(lambda x: 3 * x, general)),
        "V-trace on fresh rollouts": (
            vtrace(rewards, values, mask, same, same, discount, lam),
            general,
        ),
    }


@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_laws_of_gae(seed, discount, lam):
    for one, other in laws_of_gae(*sample(seed), discount, lam).values():
        assert_close(one, other, rtol=1e-4, atol=1e-4)


@functools.cache
def grouped(name, group_size):
    return jax.jit(functools.partial(GROUPED[name], group_size=group_size))


@given(SEEDS, st.sampled_from([2, 3, 6]))
@settings(max_examples=25, deadline=None)
def test_laws_of_groups(seed, group_size):
    rewards, _, mask = sample(seed)
    mask[:, 0] = 1
    for name in GROUPED:
        first = grouped(name, group_size)(rewards, mask)[:, 0]
        groups = np.asarray(first).reshape(-1, group_size)
        np.testing.assert_allclose(groups.sum(1), 0, atol=2e-4, err_msg=name)
        if name == "grpo":
            np.testing.assert_allclose(groups.std(1), 1, rtol=1e-2)


def test_a_group_that_scores_alike_learns_nothing():
    rewards, mask = jnp.full((4, 3), 0.3), jnp.ones((4, 3))
    for function in GROUPED.values():
        np.testing.assert_allclose(function(rewards, mask), 0, atol=1e-6)


def test_the_optimal_baseline_has_the_least_variance():
    """Over many episodes of one parameter: gradient estimates g (R - b) with g = grad log p."""
    rng = np.random.default_rng(5)
    g = rng.normal(size=4000)
    returns = (2 + 3 * g**2 + rng.normal(size=4000)).astype(np.float32)[:, None]
    best = float(optimal_baseline(returns, np.ones_like(returns), g**2))
    variance = {
        b: np.mean(g**2 * (returns[:, 0] - b) ** 2) for b in (best, returns.mean(), best + 1)
    }
    assert variance[best] == min(variance.values())
    assert abs(best - returns.mean()) > 1


def test_groups_must_fit():
    with pytest.raises(AssertionError):
        group_normalised(jnp.ones((5, 2)), jnp.ones((5, 2)), group_size=2)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(jnp.ones((4, 2)), jnp.ones((4, 2)), group_size=1)


@pytest.mark.parametrize("divide_by_std", [True, False])
@pytest.mark.parametrize("group_size", [3, 6, 7, 9])
def test_a_group_that_scores_alike_gets_exactly_zero(group_size, divide_by_std):
    for score in (0.1, 0.7, 2.3, 13.7):  # their float32 means are off by rounding
        rewards = jnp.full((group_size, 1), score)
        mask = jnp.ones_like(rewards)
        ours = group_normalised(rewards, mask, group_size, divide_by_std)
        np.testing.assert_array_equal(ours, 0)
