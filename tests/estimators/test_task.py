"""The enumerated task against a NumPy walk through the tree of responses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.estimators import task as tasks
from rlhf_jax.estimators.task import TaskConfig


@pytest.fixture(scope="module")
def task():
    with jax.enable_x64(True):
        yield tasks.make_task(TaskConfig(vocabulary=3, length=3, seed=5))


def walk(task, logits):
    """{response: log-probability} by descent from the empty beginning, states by dictionary."""
    states = {}
    for row, count in zip(np.asarray(task.tokens), np.asarray(task.mask).sum(1), strict=True):
        for t in range(int(count)):
            states.setdefault(tuple(row[:t]), None)
    order = sorted(states, key=lambda start: (len(start), start))
    found = {}

    def descend(start, total):
        x = logits[order.index(start)]
        for v, log_p in enumerate(x - np.log(np.exp(x).sum())):
            if v == tasks.EOS or len(start) == task.tokens.shape[1] - 1:
                found[(*start, v)] = total + log_p
            else:
                descend((*start, v), total + log_p)

    descend((), 0.0)
    return found


def slow_objective(task, logits):
    log_p, log_ref = walk(task, logits), walk(task, np.asarray(task.reference))
    total = 0.0
    for row, mask, score in zip(task.tokens, task.mask, task.scores, strict=True):
        y = tuple(int(v) for v in row[: int(mask.sum())])
        d = log_p[y] - log_ref[y]
        total += np.exp(log_p[y]) * (float(score) - float(task.kl_coefficient) * d)
    return total


def test_every_response_once():
    tokens, mask, states, count = tasks.enumerate_responses(4, 3)
    responses = {tuple(row[: int(m.sum())]) for row, m in zip(tokens, mask, strict=True)}
    expected = {
        r
        for length in (1, 2, 3)
        for r in itertools.product(range(4), repeat=length)
        if tasks.EOS not in r[:-1] and (r[-1] == tasks.EOS or length == 3)
    }
    assert responses == expected and len(tokens) == len(expected) == 40
    assert count == 13 == states.max() + 1


def test_probabilities_are_those_of_the_tree(task):
    found = walk(task, np.asarray(task.policy))
    log_p = np.asarray(tasks.all_log_probs(task, task.policy)).sum(1)
    rows = [tuple(r[: int(m.sum())]) for r, m in zip(task.tokens.tolist(), task.mask, strict=True)]
    np.testing.assert_allclose(log_p, [found[r] for r in rows], rtol=1e-10)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-12)


def test_exact_gradient_is_the_finite_difference_of_a_numpy_objective(task):
    logits = np.asarray(task.policy, np.float64)
    log_probs = tasks.all_log_probs(task, task.policy)
    np.testing.assert_allclose(tasks.objective(task, log_probs), slow_objective(task, logits))
    differences, h = np.zeros_like(logits), 1e-5
    for cell in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[cell] += h
        down[cell] -= h
        differences[cell] = (slow_objective(task, up) - slow_objective(task, down)) / (2 * h)
    exact = np.asarray(tasks.exact_gradient(task, task.policy))
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(exact, differences, atol=1e-9)


def test_the_policy_is_the_old_one_after_exact_steps(task):
    old, policy = (
        float(tasks.objective(task, tasks.all_log_probs(task, x))) for x in (task.old, task.policy)
    )
    assert policy > old + 0.05
    log_old, log_p = (tasks.all_log_probs(task, x) for x in (task.old, task.policy))
    assert tasks.divergence(task, log_p, log_old) > 0.01
    assert abs(tasks.divergence(task, log_p, log_p)) < 1e-12


def test_samples_have_the_policy_s_frequencies(task):
    log_probs, count = tasks.all_log_probs(task, task.policy), 20_000
    ids = tasks.sample(task, log_probs, jax.random.key(0), (count,))
    expected = count * np.exp(np.asarray(log_probs).sum(1))
    seen = np.bincount(ids, minlength=len(expected))
    # Chi-square with N - 1 degrees of freedom: mean 14, standard deviation 5.3.
    assert ((seen - expected) ** 2 / expected).sum() < 14 + 4 * 5.3


@pytest.mark.parametrize(
    "field, value",
    [("vocabulary", 1), ("length", 0), ("length", 20), ("kl_coefficient", -1.0),
     ("stale_steps", 0), ("stale_rate", 0.0)],
)  # fmt: skip
def test_config_names_the_field(field, value):
    with pytest.raises(ConfigError, match=field):
        TaskConfig(**{field: value})


def test_masked_cells_have_no_log_probability(task):
    log_probs = tasks.table_log_probs(task, task.policy, jnp.arange(len(task.scores)))
    assert jnp.all((log_probs == 0) == (task.mask == 0))
