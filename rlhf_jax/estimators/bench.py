"""Rollouts of the enumerable task, drawn at random or all of them, and estimates made of them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.estimators import theory
from rlhf_jax.estimators.measure import per_example_gradients
from rlhf_jax.estimators.rows import Estimator, Rollouts, episodes_of
from rlhf_jax.estimators.task import (
    TabularTask,
    all_log_probs,
    exact_gradient,
    sample,
    table_log_probs,
)
from rlhf_jax.objectives import advantages as adv
from rlhf_jax.objectives.estimator import MovingAverage
from rlhf_jax.objectives.likelihood import sequence_log_prob

Array = jax.Array
CHUNK = 5000  # groups whose gradients are computed at a time


class Bench(NamedTuple):
    """The task, every response as a rollout of both policies, and the exact gradient."""

    task: TabularTask
    fresh: Rollouts  # all N responses, as if sampled from the policy
    stale: Rollouts  # all N responses, as if sampled from the old policy
    exact: Array  # dJ / d logits, [D] with D = S V
    token_scores: Array  # d log p_t(y) / d logits, [N, T, D]

    def loss(self, estimator: Estimator) -> Callable[[Array, Rollouts], Array]:
        """(logits of the policy, rollouts) -> the estimator's loss."""
        return lambda logits, rollouts: estimator.loss(
            table_log_probs(self.task, logits, rollouts.ids), rollouts
        )

    def rollouts(self, estimator: Estimator) -> Rollouts:
        return self.stale if estimator.stale else self.fresh


@partial(jax.jit, static_argnums=(1, 2))
def make_bench(task: TabularTask, pilot: int, critic: int, key: Array) -> Bench:
    """The bench of a task. `pilot` responses of the policy give the optimal baseline, `critic`
    responses the learned values."""
    ids = jnp.arange(len(task.scores))
    log_probs, old, ref = (all_log_probs(task, x) for x in (task.policy, task.old, task.reference))
    rewards = adv.kl_shaped_rewards(task.scores, log_probs, ref, task.mask, task.kl_coefficient)
    to_go = adv.reward_to_go(rewards, task.mask)
    pilot_ids = sample(task, log_probs, key, (max(pilot, critic),))
    visits_N = jnp.zeros(len(ids)).at[pilot_ids[:critic]].add(1.0)
    exact_values = state_means(task, to_go, jnp.exp(sequence_log_prob(log_probs, task.mask)))
    learned_values = state_means(task, to_go, visits_N)
    baseline = pilot_baseline(task, rewards, pilot_ids[:pilot])
    fresh = Rollouts(
        ids, task.mask, task.scores, rewards, log_probs, log_probs, ref, exact_values,
        learned_values, jnp.full(len(ids), baseline), jnp.zeros(len(ids)),
    )  # fmt: skip
    stale = fresh._replace(old_log_probs=old)
    scores = jax.jacobian(partial(all_log_probs, task))(task.policy)
    exact = exact_gradient(task, task.policy).reshape(-1)
    return Bench(task, fresh, stale, exact, scores.reshape(*task.mask.shape, -1))


def state_means(task: TabularTask, to_go: Array, weights_N: Array) -> Array:
    """V(s) = weighted mean of G_t over the responses that pass through s, 0 where none: [N, T]."""
    weights = weights_N[:, None] * task.mask
    count = task.reference.shape[0]
    total = jnp.zeros(count).at[task.states].add(weights * to_go)
    weight = jnp.zeros(count).at[task.states].add(weights)
    values = jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), 0)
    return values[task.states] * task.mask


def pilot_baseline(task: TabularTask, rewards: Array, pilot_ids: Array) -> Array:
    """`optimal_baseline` of the pilot responses, with their squared gradient norms."""
    log_prob = lambda logits, i: jnp.sum(table_log_probs(task, logits, i[None]))
    norms_B = jnp.sum(per_example_gradients(log_prob, task.policy, pilot_ids) ** 2, axis=1)
    mask = task.mask[pilot_ids]
    return adv.optimal_baseline(rewards[pilot_ids], mask, norms_B)


def draw(
    task: TabularTask, rollouts: Rollouts, key: Array, estimates: int, group: int, decay: float
) -> Rollouts:
    """`estimates` groups of responses, [n, K, ...], sampled with `old_log_probs`.

    The moving average starts at 0 and goes through the groups in order: the baseline of a group is
    the average over earlier groups.
    """
    ids = sample(task, rollouts.old_log_probs, key, (estimates, group))
    drawn = jax.tree.map(lambda x: x[ids], rollouts)

    baseline = MovingAverage(decay)
    follow = lambda average, one: (baseline.carry(average, episodes_of(one)), average)
    start = jnp.zeros((), drawn.rewards.dtype)
    _, averages_n = jax.lax.scan(follow, start, drawn)
    return drawn._replace(average=jnp.broadcast_to(averages_n[:, None], ids.shape))


def facts_of(rollouts: Rollouts, group: int) -> theory.ExactFacts:
    """All N rollouts as float64 NumPy, for `theory`."""
    names = ("mask", "scores", "rewards", "log_probs", "old_log_probs", "ref_log_probs",
             "exact_values", "learned_values")  # fmt: skip
    arrays = {name: np.asarray(getattr(rollouts, name), np.float64) for name in names}
    return theory.ExactFacts(**arrays, baseline=float(rollouts.baseline[0]), group=group)


def expected_in_theory(bench: Bench, estimator: Estimator, group: int) -> np.ndarray:
    """The gradient [D] that theory says the estimator converges to."""
    if estimator.bias is None:
        return np.asarray(bench.exact, np.float64)
    facts = facts_of(bench.rollouts(estimator), group)
    coefficients = np.broadcast_to(estimator.bias(facts), facts.mask.shape)
    return theory.expected(facts, coefficients, np.asarray(bench.token_scores, np.float64))


def estimates(
    bench: Bench, estimators: dict[str, Estimator], drawn: dict[bool, Rollouts]
) -> dict[str, np.ndarray]:
    """[n, D] estimates of each estimator, one from each group of drawn[estimator.stale]."""
    found = {}
    for stale, groups in drawn.items():
        losses = {name: bench.loss(e) for name, e in estimators.items() if e.stale == stale}
        gradients = per_example_gradients(losses, bench.task.policy, groups, CHUNK)
        found |= {name: -np.asarray(gradients[name], np.float64) for name in losses}
    return {name: found[name] for name in estimators}


def expected_by_enumeration(
    bench: Bench, estimators: dict[str, Estimator], group: int
) -> dict[str, np.ndarray]:
    """E[estimate], [D]: the sum over all groups of K responses, weighted by their probability.

    Estimates do not depend on the order within a group, so that there are (N + K - 1 choose K)
    groups.
    """
    drawn, probabilities = {}, {}
    for stale, rollouts in ((False, bench.fresh), (True, bench.stale)):
        q = np.exp(np.asarray(rollouts.old_log_probs, np.float64).sum(1))
        ids, probabilities[stale] = theory.groups_of(q, group)
        drawn[stale] = jax.tree.map(lambda x, ids=ids: x[ids], rollouts)
    found = estimates(bench, estimators, drawn)
    return {name: probabilities[estimators[name].stale] @ x for name, x in found.items()}
