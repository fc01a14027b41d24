"""One iteration after another: noise, orders, averages, controllers, the ptx term."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.models import score
from rlhf_jax.objectives.kl import AdaptiveController
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.stages import policy_update
from rlhf_jax.stages.experience import Experience, Moved
from rlhf_jax.stages.supervised import likelihood_loss
from rlhf_jax.training.gradients import split_each_epoch
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.objectives.harness import assert_close
from tests.stages import tiny

CONFIG = tiny.ppo_config(
    kl=AdaptiveController(0.15, target=0.5, horizon=40), ptx_coefficient=2.0, micro_batches=2
)


MOVED = Moved(jnp.float32(0.5), None)


def fresh_networks():
    return tiny.policy_params(1), tiny.score_params(2)


networks = functools.cache(fresh_networks)


programs = functools.cache(tiny.ppo_programs)


def iterate(config=CONFIG, seed=0, text=True, count=3):
    """The state and metrics after each iteration, and each one's sampled tokens."""
    tokens, ends = [], []

    def rollout(*arguments):
        sampled = programs(CONFIG)["rollout"](*arguments)
        tokens.append(np.asarray(sampled.tokens))
        return sampled

    experience = programs(CONFIG)["experience"]
    recording = programs(config) | {"rollout": rollout, "experience": experience}
    frozen = tiny.frozen_of(config, networks()[0], *networks())
    step = tiny.iteration(config, recording, frozen)
    state = policy_update.initial_state(config, *networks(), jax.random.key(seed))
    batch = tiny.asked_batch() | ({"text": tiny.text_batch()} if text else {})
    for _ in range(count):
        state, metrics = step(state, batch)
        ends.append(numbers((state, metrics)))
    return ends, tokens


def numbers(tree):
    """Copies on the host, keys as their data."""
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return jax.tree.map(lambda x: np.array(plain(x)), tree)


@functools.cache
def three_iterations():
    return iterate()


def assert_equal_trees(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_controller_s_coefficient_moves_in_the_state_by_ziegler_s_formula():
    ends, _ = three_iterations()
    coefficient = 0.15
    for state, metrics in ends:
        np.testing.assert_allclose(metrics["kl_coefficient"], coefficient, rtol=1e-6)
        error = min(max(float(metrics["kl"]) / 0.5 - 1, -0.2), 0.2)
        coefficient *= 1 + error * 8 / 40
        np.testing.assert_allclose(state.kl_coefficient, coefficient, rtol=1e-6)
    assert coefficient != 0.15


def test_the_average_takes_in_each_iteration_s_policy():
    ends, _ = three_iterations()
    average = networks()[0]
    for state, _ in ends:
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, state.policy)
        assert_close(state.ema, average, atol=1e-6)
    assert not np.array_equal(average["tokens"], ends[-1][0].policy["tokens"])


def test_each_iteration_and_each_seed_has_noise_of_its_own():
    _, tokens = three_iterations()
    _, others = iterate(seed=1, count=1)
    # The first two policies are nearly the same: equal noise would give nearly equal samples.
    for one, other in ((tokens[0], tokens[1]), (tokens[1], tokens[2]), (tokens[0], others[0])):
        assert (one[:, 0] != other[:, 0]).mean() > 0.4


def test_the_same_seed_gives_the_same_bits():
    first, tokens = three_iterations()
    again, tokens_again = iterate(count=2)
    assert_equal_trees(again, first[:2])
    assert_equal_trees(tokens_again, tokens[:2])


def test_donated_states_leave_the_frozen_models_alone():
    policy, reward = networks()  # the frozen ones, and what the states were made of
    three_iterations()
    assert_equal_trees(numbers((policy, reward)), numbers(fresh_networks()))


def test_ptx_coefficient_zero_gives_the_bits_of_no_ptx():
    config = tiny.ppo_config(kl=CONFIG.kl, ptx_coefficient=0.0)
    with_text, _ = iterate(config, text=True, count=2)
    without, _ = iterate(config, text=False, count=2)
    assert not any(name.startswith("ptx") for name in with_text[-1][1])
    assert_equal_trees(with_text[-1], without[-1])
    assert not np.array_equal(
        without[-1][0].policy["tokens"], three_iterations()[0][1][0].policy["tokens"]
    )


def episodes(rows=8):
    """Experience of which row b holds token 4 + b, so that a row is known by its tokens."""
    rng = np.random.default_rng(0)
    draw = lambda: rng.normal(size=(rows, tiny.RESPONSE)).astype(np.float32)
    tokens = np.repeat(np.arange(rows)[:, None] + 4, 12, axis=1).astype(np.int32)
    mask = (np.arange(tiny.RESPONSE) < rng.integers(1, 7, (rows, 1))).astype(np.float32)
    log_probs, *rest = draw() - 3, draw(), draw(), draw()
    return Experience(tokens, np.ones_like(tokens), mask, log_probs, None, *rest)


def test_update_equals_a_loop_over_minibatches_of_shuffled_rows():
    """Adam on policy + 2 ptx gradients, and on the value gradient; every epoch and every iteration,
    of which this is the second, in a new order."""
    experience, text = episodes(), tiny.text_batch()
    key, policy, value = jax.random.key(3), *networks()
    state = policy_update.initial_state(CONFIG, policy, value, key)._replace(step=jnp.int32(1))
    adam, _ = policy_update.optimizers(CONFIG)
    policy_opt, value_opt = adam.init(policy), adam.init(value)
    of_policy = policy_update.policy_loss(CONFIG, tiny.MODEL)
    means = [lambda p, b, f=f: f(p, b)[0].mean for f in (
        lambda p, b: of_policy(p, b, tiny.state_of(CONFIG)),
        policy_update.value_loss(CONFIG, tiny.MODEL), likelihood_loss(tiny.MODEL))]  # fmt: skip

    @jax.jit
    def minibatch(policy, value, policy_opt, value_opt, rows, part):
        grads = jax.grad(lambda p: means[0](p, rows) + 2.0 * means[2](p, part))(policy)
        updates, policy_opt = adam.update(grads, policy_opt, policy)
        policy = optax.apply_updates(policy, updates)
        updates, value_opt = adam.update(jax.grad(means[1])(value, rows), value_opt, value)
        return policy, optax.apply_updates(value, updates), policy_opt, value_opt

    orders, losses = orders_of(key, step=1), []
    assert list(orders[0]) != list(orders_of(key, step=0)[0])
    for epoch, order in enumerate(orders):
        assert sorted(order) == list(range(8))
        assert epoch == 0 or list(order) != list(orders[0])
        for half in range(2):
            rows = jax.tree.map(lambda x: x[order[4 * half : 4 * half + 4]], experience)  # noqa: B023
            columns = text_columns(key, step=1)[epoch][:, half]
            part = {name: x[2 * np.arange(4) + columns] for name, x in text.items()}
            weights = rows.mask.sum(), rows.mask.sum(), part["weights"][:, 1:].sum()
            here = [means[0](policy, rows), means[1](value, rows), means[2](policy, part)]
            losses.append(list(zip(here, weights, strict=True)))
            policy, value, policy_opt, value_opt = minibatch(
                policy, value, policy_opt, value_opt, rows, part
            )
    after, metrics = programs(CONFIG)["update"](state, experience, MOVED, text)
    for name, of_minibatches in zip(
        ("policy", "value", "ptx"), zip(*losses, strict=True), strict=True
    ):
        values, weights = np.array(of_minibatches, np.float64).T
        assert len(set(weights)) > 1
        mean = (values * weights).sum() / weights.sum()
        np.testing.assert_allclose(metrics[f"{name}_loss"], mean, rtol=1e-4, atol=1e-6)
    assert state.policy["tokens"].is_deleted() and not key.is_deleted()
    assert_close((after.policy, after.value), (policy, value), rtol=1e-3, atol=2e-4)


def orders_of(key, step):
    """The rows of each epoch, as `update` draws them."""
    key = jax.random.fold_in(jax.random.fold_in(key, step), 1)
    return [np.asarray(jax.random.permutation(k, 8)) for k in jax.random.split(key, 2)]


def text_columns(key, step):
    """[epochs, 4, 2]: which of two rows of text that lie side by side goes to which minibatch."""
    key = jax.random.fold_in(jax.random.fold_in(key, step), 1)
    key = jax.random.fold_in(jax.random.fold_in(key, CONFIG.epochs), 1)
    drawn = [jax.random.permutation(jax.random.fold_in(key, row), 2) for row in range(4)]
    return np.array([[[0, 1]] * 4, drawn])


def test_each_epoch_shuffles_the_text_anew_and_reads_each_row_once():
    rows = {"tokens": jnp.arange(12), "weights": jnp.arange(24).reshape(12, 2)}
    parts = split_each_epoch(rows, 3, 3, jax.random.key(0))
    assert parts["tokens"].shape == (9, 4) and parts["weights"].shape == (9, 4, 2)
    np.testing.assert_array_equal(parts["weights"][..., 0], 2 * parts["tokens"])
    epochs = np.asarray(parts["tokens"]).reshape(3, 3, 4)
    np.testing.assert_array_equal(epochs[0], np.arange(12).reshape(4, 3).T)
    for epoch in epochs:
        # Rows side by side go to different minibatches, and stay where they are on the devices.
        np.testing.assert_array_equal(np.sort(epoch, axis=0), epochs[0])
    assert len({epoch.tobytes() for epoch in epochs}) == 3


def test_each_iteration_has_another_order(monkeypatch):
    """One row a minibatch: its weight moves by the rate of that step, which tells the step."""

    def loss(params, batch, state=None):
        row = (batch.advantages[0] * params["w"]).sum()  # the gradient is 1 for this row's weight
        return WeightedMean(row, jnp.float32(1)), {"approximate_kl": WeightedMean.of(row)}

    for name in ("policy_loss", "value_loss"):
        monkeypatch.setattr(policy_update, name, lambda *_: loss)
    # A gradient of 1 after k zeros: Adam without memory moves by the rate.
    rate = OptimizerConfig(learning_rate=1.0, schedule="linear", final_fraction=0.0, b1=0.0, b2=0.0)
    config = tiny.ppo_config(
        policy_optimizer=rate, value_optimizer=rate, iterations=2, epochs=1, minibatches=8
    )
    update = jax.jit(policy_update.make_update(config, tiny.SHAPES))
    rows = Experience(*[jnp.zeros((8, 1))] * 8)._replace(advantages=jnp.eye(8))
    start = {"w": jnp.zeros(8)}
    state = policy_update.initial_state(config, start, start, jax.random.key(3))
    orders = []
    for iteration in range(2):
        before = state.policy["w"]
        state, _ = update(state, rows, MOVED, None)
        moved = np.asarray(before - state.policy["w"])
        np.testing.assert_allclose(np.sort(moved)[::-1], 1 - (np.arange(8) + 8 * iteration) / 16,
                                   rtol=1e-5)  # fmt: skip
        orders.append(list(np.argsort(-moved)))
    assert orders[0] != orders[1] and list(range(8)) not in orders


def test_policy_and_value_function_have_an_optimizer_each():
    """One Adam step on a gradient of 1: rate / (1 + epsilon)."""
    value = dataclasses.replace(CONFIG.value_optimizer, learning_rate=5e-2)
    config = dataclasses.replace(CONFIG, value_optimizer=value)
    for optimizer, rate in zip(policy_update.optimizers(config), (1e-2, 5e-2), strict=True):
        update, _ = optimizer.update(jnp.float32(1), optimizer.init(jnp.float32(0)))
        np.testing.assert_allclose(update, -rate / (1 + 0.1), rtol=1e-5)


def test_each_loss_is_logged_under_its_own_name_only():
    metrics = three_iterations()[0][0][1]
    names = {"policy_loss", "value_loss", "ptx_loss", "policy_grad_norm", "value_grad_norm",
             "ptx_grad_norm"}  # fmt: skip
    assert names <= metrics.keys()
    assert "loss" not in metrics and "grad_norm" not in metrics
    assert len({float(metrics[name]) for name in names}) == len(names)


def test_dropout_is_off_in_ppo_and_in_its_ptx_term():
    """The very same program, traced, as that of a model without dropout."""
    state = policy_update.initial_state(CONFIG, *networks(), jax.random.key(3))
    arguments = state, episodes(), MOVED, tiny.text_batch()
    dropping = dataclasses.replace(tiny.MODEL, dropout=0.5)
    ours, expected = (
        str(jax.make_jaxpr(policy_update.make_update(CONFIG, shapes))(*arguments))
        for shapes in (tiny.SHAPES._replace(policy=dropping, value=dropping), tiny.SHAPES)
    )
    assert ours == expected


def test_the_value_function_starts_as_the_reward_model_or_under_a_zero_head():
    policy, reward = networks()
    state = policy_update.initial_state(tiny.ppo_config(), policy, reward, jax.random.key(0))
    assert_equal_trees(state.policy, policy)
    assert_equal_trees(state.value, reward)
    assert_equal_trees(state.ema, policy)
    config = tiny.ppo_config(zero_value_head=True, ema_decay=None)
    state = policy_update.initial_state(config, policy, reward, jax.random.key(0))
    assert_equal_trees(state.value["blocks"], reward["blocks"])
    hidden = jax.random.normal(jax.random.key(1), (3, 16))
    np.testing.assert_array_equal(score.scores(state.value, hidden), 0)
    assert state.ema is None


ONE = {"w": np.float32(1)}
# Adam with an epsilon that drowns the gradient, and as large a rate: a step is the gradient.
PLAIN = OptimizerConfig(learning_rate=1e6, epsilon=1e6, b1=0.0, b2=0.0, max_grad_norm=None)


@pytest.mark.parametrize("runner", ["jit", "pmap"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("per", ["token", "sequence"])
def test_the_ptx_gradient_counts_per_token_or_per_sequence(monkeypatch, per, micro_batches, runner):
    """Of linear losses, in float64: mean over tokens, or equation 2's sums over sequences."""
    told = lambda values: {"approximate_kl": WeightedMean.of(values)}
    weighted = lambda p, values, weights: (WeightedMean.of(p["w"] * values, weights), told(values))
    of_episodes = lambda *_: lambda p, b, state=None: weighted(p, b.advantages, b.mask)
    monkeypatch.setattr(policy_update, "policy_loss", of_episodes)
    monkeypatch.setattr(policy_update, "value_loss", of_episodes)
    of_text = lambda _: lambda p, b, key=None: weighted(p, b["values"], b["weights"])
    monkeypatch.setattr(policy_update, "likelihood_loss", of_text)
    config = tiny.ppo_config(
        policy_optimizer=PLAIN, value_optimizer=PLAIN, batch_size=16, minibatches=1, epochs=1,
        micro_batches=micro_batches, ptx_ratio=2, ptx_coefficient=27.8, ptx_per=per,
    )  # fmt: skip
    rng, runner = np.random.default_rng(0), make_runner(ParallelConfig(runner=runner))
    advantages, values = rng.normal(size=(16, 6)), rng.normal(size=(32, 9))
    mask = np.arange(6) < rng.integers(1, 7, (16, 1))
    weights = np.arange(9) < rng.integers(0, 10, (32, 1))
    float32 = lambda x: jnp.asarray(x, jnp.float32)
    experience = Experience(*[float32(mask)] * 8)._replace(advantages=float32(advantages))
    text = {"values": np.float32(values), "weights": np.float32(weights)}
    state = runner.create(lambda: policy_update.initial_state(config, ONE, ONE, jax.random.key(0)))
    update = runner.compile(policy_update.make_update(config, tiny.SHAPES), rows=(3,))
    after, _ = update(state, experience, MOVED, runner.rows(text, 32))
    ptx = (values * weights).sum() / weights.sum()
    if per == "sequence":
        ptx = ((values * weights).sum() / 32) / (mask.sum() / 16)
    gradient = (advantages * mask).sum() / mask.sum() + 27.8 * ptx
    np.testing.assert_allclose(1 - after.policy["w"], gradient, rtol=1e-4)
