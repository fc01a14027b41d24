"""Every row by enumeration: its expectation over all groups of responses is what theory says."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.estimators import theory
from rlhf_jax.estimators.bench import (
    draw,
    expected_by_enumeration,
    expected_in_theory,
    facts_of,
    make_bench,
    pilot_baseline,
)
from rlhf_jax.estimators.rows import Estimator, RowsConfig, all_estimators, of, tokens
from rlhf_jax.estimators.task import TaskConfig, all_log_probs, divergence, make_task
from rlhf_jax.objectives.advantages import minus_baseline, paid_at_end
from rlhf_jax.objectives.estimator import Advantage, Reinforce

BETA, CLIP = 0.3, 0.1
ROWS = {group: all_estimators(RowsConfig(group=group, clip=CLIP), BETA) for group in (2, 3)}
OF_THREE = ("rloo", "dr_grpo", "grpo", "ppo_whitened")
UNBIASED = {
    "reinforce", "reinforce_moving_average", "reinforce_optimal_baseline", "reward_to_go", "rloo",
    "a2c_exact_value", "a2c_learned_value", "gae_exact_value", "ppo_first_step", "k2_in_loss",
    "importance",
}  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    with jax.enable_x64(True):
        task = make_task(TaskConfig(vocabulary=3, length=3, kl_coefficient=BETA, seed=2))
        bench = make_bench(task, 500, 24, jax.random.key(1))
        # A moving average from earlier batches is some constant.
        yield bench._replace(fresh=bench.fresh._replace(average=bench.fresh.average + 0.7))


@pytest.fixture(scope="module")
def expected(bench):
    """{group: {name: its expectation}}."""
    groups = {2: ROWS[2], 3: {name: ROWS[3][name] for name in OF_THREE}}
    return {group: expected_by_enumeration(bench, rows, group) for group, rows in groups.items()}


def exact(bench):
    return np.asarray(bench.exact, np.float64)


def test_theory_names_the_unbiased_rows():
    assert {name for name, row in ROWS[2].items() if row.bias is None} == UNBIASED


@pytest.mark.parametrize(
    "name, group",
    [(name, 2) for name in ROWS[2]] + [(name, 3) for name in OF_THREE],
)
def test_expectation_over_all_groups(bench, expected, name, group):
    """To 1e-6: dJ for the unbiased; else the closed form of theory, which is not dJ."""
    found = expected[group][name]
    theory_says = expected_in_theory(bench, ROWS[group][name], group)
    np.testing.assert_allclose(found, theory_says, atol=1e-6, rtol=0)
    bias = np.linalg.norm(found - exact(bench))
    assert bias < 1e-6 if name in UNBIASED else bias > 2e-3


def test_the_clip_has_tokens_on_either_side(bench):
    """Some just beyond each bound, so that rows with other bounds would differ."""
    facts = facts_of(bench.stale, 2)
    good = np.broadcast_to(facts.returns > facts.baseline, facts.mask.shape)
    ratio = np.where(facts.mask == 1, facts.ratio, 1)
    for side in (good & (ratio > 1 + CLIP), ~good & (ratio < 1 - CLIP)):
        near = side & (abs(ratio - 1) < 2 * CLIP)
        assert near.any()


def test_enumeration_catches_a_baseline_that_sees_its_own_response(bench):
    """An advantage from outside the package, as a training run takes it."""

    class Half(Advantage):
        def __call__(self, episodes, carried=None):
            rewards = paid_at_end(episodes.rewards, episodes.mask)
            own = 0.5 * rewards.sum(axis=1, keepdims=True)
            return minus_baseline(rewards, episodes.mask, own), None

    half = Estimator(of(Half()), tokens(Reinforce()))
    bias = expected_by_enumeration(bench, {"half": half}, 2)["half"] - exact(bench)
    np.testing.assert_allclose(bias, -0.5 * exact(bench), atol=1e-6)


def test_dr_grpo_and_rloo_differ_by_their_factor(bench):
    np.testing.assert_allclose(
        expected_in_theory(bench, ROWS[3]["dr_grpo"], 3), exact(bench) * 2 / 3, atol=1e-9
    )


def test_directions_in_words(bench):
    """Naive k1 leaves out beta dKL; naive k3 has KL(ref || p)'s gradient; both by jax.grad."""
    task, policy = bench.task, bench.task.policy
    ref = all_log_probs(task, task.reference)
    gradient = lambda f: jax.jit(jax.grad(f))(policy)
    forward = gradient(lambda x: divergence(task, all_log_probs(task, x), ref))
    reverse = gradient(lambda x: divergence(task, ref, all_log_probs(task, x)))
    for name, direction in (("k1_in_loss", forward), ("k3_in_loss", forward - reverse)):
        bias = expected_in_theory(bench, ROWS[2][name], 2) - exact(bench)
        np.testing.assert_allclose(bias, BETA * np.asarray(direction).reshape(-1), atol=1e-9)


def test_groups_of_is_the_product_measure():
    q = np.array([0.2, 0.5, 0.3])
    ids, probabilities = theory.groups_of(q, 3)
    slow = {}
    for group in itertools.product(range(3), repeat=3):
        slow[tuple(sorted(group))] = slow.get(tuple(sorted(group)), 0) + q[list(group)].prod()
    assert {tuple(row): p for row, p in zip(ids.tolist(), probabilities, strict=True)} == (
        pytest.approx(slow)
    )


def test_the_optimal_baseline_has_the_least_variance(bench):
    """Responses drawn by their probability stand for the policy: b minimises the variance."""
    task, facts = bench.task, facts_of(bench.fresh, 2)
    many = np.repeat(np.arange(len(facts.scores)), np.round(2e4 * facts.sampled).astype(int))
    best = float(pilot_baseline(task, bench.fresh.rewards, jnp.asarray(many)))
    scores = np.asarray(bench.token_scores).sum(1)

    def second_moment(b):
        return (facts.sampled * ((facts.returns[:, 0] - b) ** 2) * (scores**2).sum(1)).sum()

    assert second_moment(best) < min(second_moment(best + 0.02), second_moment(best - 0.02))


def test_draw_samples_the_old_policy_and_averages_only_what_came_before(bench):
    drawn = draw(bench.task, bench.stale, jax.random.key(0), 10_000, 2, 0.75)
    q = facts_of(bench.stale, 2).sampled
    seen = np.bincount(np.asarray(drawn.ids).reshape(-1), minlength=len(q)) / 20_000
    np.testing.assert_allclose(seen, q, atol=5 * np.sqrt(q.max() / 20_000))
    fresh = np.exp(np.asarray(bench.fresh.log_probs).sum(1))
    assert np.abs(seen - q).sum() < 0.3 * np.abs(seen - fresh).sum()
    average = 0.0
    for i in range(4):
        np.testing.assert_allclose(drawn.average[i], [average] * 2)
        average = 0.75 * average + 0.25 * float(drawn.rewards[i].sum(1).mean())


@pytest.mark.parametrize("field, value", [("group", 1), ("lam", 1.0), ("clip", 0.0)])
def test_config_names_the_field(field, value):
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(RowsConfig(), **{field: value})
