"""The gradient of a weighted mean does not know how its batch was split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.training.gradients import accumulate_gradients, means


def _batch(rows=8):
    rng = np.random.default_rng(1)
    counts = np.array([1, 9, 2, 7, 0, 3, 5, 1])[:rows]  # uneven: a mean of means is another number
    return {
        "x": rng.normal(size=(rows, 9, 3)).astype(np.float32),
        "y": rng.normal(size=(rows, 9)).astype(np.float32),
        "weights": (np.arange(9) < counts[:, None]).astype(np.float32),
    }


def _params():
    return {"w": jnp.asarray([0.5, -1.0, 2.0]), "b": jnp.asarray(0.3)}


def _loss(params, batch):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    metrics = {"absolute": WeightedMean.of(jnp.abs(error), batch["weights"])}
    return WeightedMean.of(error**2, batch["weights"]), metrics


def _numpy_gradient(params, batch):
    """d/dw of sum(weights * (x.w + b - y)^2) / sum(weights), by hand in float64."""
    w, b = np.asarray(params["w"], np.float64), float(params["b"])
    x, weights = batch["x"].astype(np.float64), batch["weights"]
    error = x @ w + b - batch["y"]
    scaled = 2 * weights * error / weights.sum()
    loss = (weights * error**2).sum() / weights.sum()
    return np.einsum("bt,btd->d", scaled, x), scaled.sum(), loss, np.abs(error)


@pytest.mark.parametrize("micro_batches", [1, 2, 4, 8])
def test_any_split_gives_the_gradient_of_the_whole(micro_batches):
    params, batch = _params(), _batch()
    gradients, metrics = jax.jit(accumulate_gradients, static_argnums=(0, 3))(
        _loss, params, batch, micro_batches
    )
    assert metrics["loss"].weight == metrics["absolute"].weight == batch["weights"].sum() == 28
    metrics = means(metrics)
    dw, db, loss, absolute = _numpy_gradient(params, batch)
    np.testing.assert_allclose(gradients["w"], dw, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradients["b"], db, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt((dw**2).sum() + db**2), rtol=1e-6)
    weighted = (absolute * batch["weights"]).sum() / batch["weights"].sum()
    np.testing.assert_allclose(metrics["absolute"], weighted, rtol=1e-6)


def test_a_batch_without_weight_has_gradient_zero_and_no_loss():
    """A mean of nothing is no number; a mean of zeros is zero."""
    batch = _batch() | {"weights": np.zeros((8, 9), np.float32)}
    gradients, metrics = accumulate_gradients(_loss, _params(), batch, 2)
    assert all(not np.any(g) for g in jax.tree.leaves(gradients))
    assert all(metric.weight == 0 for metric in metrics.values())
    assert all(np.isnan(value) for value in means(metrics).values())
    assert means({"zero": WeightedMean(jnp.zeros(()), jnp.ones(()))}) == {"zero": 0}


def test_every_micro_batch_has_its_own_key():
    def loss(params, batch, key):
        noise = jax.random.normal(key, batch["weights"].shape)
        return WeightedMean.of(params["b"] * noise, batch["weights"]), {}

    batch = _batch() | {"weights": np.ones((8, 9), np.float32)}
    key = jax.random.key(5)
    gradients, _ = accumulate_gradients(loss, _params(), batch, 2, key)
    noises = [jax.random.normal(jax.random.fold_in(key, i), (4, 9)) for i in range(2)]
    np.testing.assert_allclose(gradients["b"], np.mean(noises), rtol=1e-5)
    assert not np.allclose(*noises)


@pytest.mark.parametrize("micro_batches", [0, 3, 16])
def test_a_split_that_leaves_rows_over_is_refused(micro_batches):
    with pytest.raises(ConfigError, match=f"micro_batches = {micro_batches}: .* batch size 8"):
        accumulate_gradients(_loss, _params(), _batch(), micro_batches)


def test_arrays_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 8\]"):
        accumulate_gradients(_loss, _params(), _batch() | {"y": np.zeros((4, 9))}, 2)
