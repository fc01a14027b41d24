"""A transformer policy: the very large sample stands in for the exact gradient, and agrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rlhf_jax.estimators import task as tasks
from rlhf_jax.estimators.bench import draw, make_bench
from rlhf_jax.estimators.measure import large_sample, measure, per_example_gradients
from rlhf_jax.estimators.rows import RowsConfig, all_estimators
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.advantages import kl_shaped_rewards
from rlhf_jax.objectives.likelihood import token_log_probs

BETA, V = 0.3, 3
CONFIG = TransformerConfig(
    vocab_size=V + 1,
    layers=1,
    width=4,
    heads=1,
    mlp_width=4,
    context=3,
    scan_layers=False,
    compute_dtype="float32",
)  # the id V begins a sequence


@pytest.fixture(scope="module")
def lab():
    """(policy, params, rollouts of all responses, task): a transformer larger than at the start."""
    task = tasks.make_task(tasks.TaskConfig(vocabulary=V, length=2, kl_coefficient=BETA))
    init = jax.jit(transformer.init, static_argnums=0)
    params = jax.tree.map(lambda x: 8 * x, init(CONFIG, jax.random.key(3)))

    def policy(params, ids):
        tokens = task.tokens[ids]
        begun = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=V)
        states = transformer.hidden(CONFIG, params, begun, jnp.ones_like(begun))
        logits = transformer.logits(CONFIG, params, states)[:, :, :V]
        return jnp.where(task.mask[ids] != 0, token_log_probs(logits, tokens), 0)

    table = make_bench(task, 16, 16, jax.random.key(0)).fresh
    p = jax.jit(policy)(params, table.ids)
    rewards = kl_shaped_rewards(task.scores, p, table.ref_log_probs, task.mask, BETA)
    return policy, params, table._replace(rewards=rewards, log_probs=p, old_log_probs=p), task


def gradients(lab, name, key, count):
    policy, params, table, task = lab
    estimator = all_estimators(RowsConfig(group=2), BETA)[name]
    drawn = draw(task, table, key, count, 2, 0.9)
    loss = lambda params, r: estimator.loss(policy(params, r.ids), r)
    return -per_example_gradients(loss, params, drawn, 500)


def test_large_sample_reference(lab):
    policy, params, table, task = lab
    mean = jax.jit(lambda key: gradients(lab, "rloo", key, 500).mean(0))
    batches = large_sample(mean, jax.random.split(jax.random.key(1), 120))
    objective = lambda params: tasks.objective(task, policy(params, table.ids))
    exact = np.asarray(ravel_pytree(jax.jit(jax.grad(objective))(params))[0])
    assert measure(batches, exact, 0.99).contains(np.zeros_like(exact))
    for name, unbiased in (("reinforce", True), ("k1_in_loss", False)):
        estimates = np.asarray(gradients(lab, name, jax.random.key(2), 10_000))
        measured = measure(estimates, batches.mean(0), 0.99, reference_batches=batches)
        assert measured.contains(np.zeros_like(exact)) == unbiased, name
