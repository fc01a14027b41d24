"""Eight simulated devices train as one does, also where they hold different numbers of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.parallel.mesh import make_mesh, replicate, shard_batch
from rlhf_jax.training.gradients import accumulate_gradients
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer

COUNTS = np.arange(16) ** 2 % 11  # tokens of each row: two rows a device, all devices uneven


def _one_device_mesh():
    devices = np.array(jax.devices()[:1])
    return jax.sharding.Mesh(devices, ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def _batch():
    rng = np.random.default_rng(2)
    return {
        "x": rng.normal(size=(16, 11, 4)).astype(np.float32),
        "weights": (np.arange(11) < COUNTS[:, None]).astype(np.float32),
    }


def _loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    return WeightedMean.of(jnp.sum(hidden, axis=-1) ** 2, batch["weights"]), {}


def _train(mesh, micro_batches, steps=3):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.05), steps)
    params = {"w": jax.random.normal(jax.random.key(0), (4, 5))}
    state = replicate({"params": params, "optimizer": optimizer.init(params)}, mesh)

    def step(state, batch):
        gradients, metrics = accumulate_gradients(_loss, state["params"], batch, micro_batches)
        updates, moments = optimizer.update(gradients, state["optimizer"], state["params"])
        new = optax.apply_updates(state["params"], updates)
        return {"params": new, "optimizer": moments}, (gradients, metrics)

    step, history = jax.jit(step, donate_argnums=0), []
    for _ in range(steps):
        state, (gradients, _) = step(state, shard_batch(_batch(), mesh))
        history.append(np.asarray(gradients["w"]))
    return np.stack(history), state


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_eight_devices_give_the_gradient_of_one(micro_batches):
    mesh = make_mesh()
    assert mesh.size == 8
    per_device = COUNTS.reshape(8, 2).sum(1)
    assert len(set(per_device)) > 4  # else a mean of means would pass
    one, _ = _train(_one_device_mesh(), 1)
    eight, state = _train(mesh, micro_batches)
    np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)
    assert len(state["params"]["w"].sharding.device_set) == 8


def test_micro_batches_leave_the_rows_on_their_devices():
    # 16 rows on 8 devices, 2 micro-batches: each takes one row of every device, none moves.
    mesh = make_mesh()
    batch, params = shard_batch(_batch(), mesh), replicate({"w": jnp.ones((4, 5))}, mesh)
    step = jax.jit(accumulate_gradients, static_argnums=(0, 3))
    text = step.lower(_loss, params, batch, 2).compile().as_text()
    moved = [name for name in ("all-gather", "all-to-all", "collective-permute") if name in text]
    assert "all-reduce" in text and not moved


@pytest.mark.parametrize("make", [make_mesh, _one_device_mesh])
def test_replicated_copies_can_be_donated(make):
    original = {"w": jnp.ones((8, 3)), "key": jax.random.key(0), "none": None}
    copy = replicate(original, make())
    doubled = jax.jit(lambda t: {**t, "w": t["w"] * 2}, donate_argnums=0)(copy)
    assert copy["w"].is_deleted()
    np.testing.assert_array_equal(original["w"], 1)
    np.testing.assert_array_equal(doubled["w"], 2)
    assert jax.random.key_data(original["key"]).tolist() == [0, 0]


def test_rows_are_split_in_order():
    mesh = make_mesh()
    x = shard_batch({"x": np.arange(16)}, mesh)["x"]
    assert [s.data.tolist() for s in x.addressable_shards] == [[2 * i, 2 * i + 1] for i in range(8)]


def test_one_device_costs_nothing():
    batch = _batch()
    assert shard_batch(batch, _one_device_mesh()) is batch


def test_a_batch_that_does_not_divide_names_both_numbers():
    with pytest.raises(UserError, match="batch of 12 rows does not divide over 8 devices"):
        shard_batch({"x": np.zeros((12, 2))}, make_mesh())
