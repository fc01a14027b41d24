"""Gradients accumulated over micro-batches, and splits of rows into micro-batches and minibatches.

Splits take strided rows, so that no row of a batch on many devices moves to another device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.errors import require
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.parallel import replicas


def accumulate_gradients(
    loss: Callable, params: Any, batch: Any, micro_batches: int = 1, key: jax.Array | None = None
) -> tuple[Any, dict[str, WeightedMean]]:
    """Gradient of sum(totals) / sum(weights) over micro-batches: one division, at the end.

        g = (sum_i d total_i / d params) / (sum_i weight_i)

    A mean of the micro-batches' means would give tokens of a short micro-batch more weight. No
    gradient flows through the weights. A batch of weight 0 has gradient 0. Under `pmap` the sums
    are over all replicas.

    Args:
        loss: `loss(params, micro) -> (WeightedMean, dict[str, WeightedMean])`, scalar totals. With
            a `key` it is called as `loss(params, micro, key_i)`, key_i = fold_in(key, i).
        batch: pytree of arrays with the same leading axis B. Micro-batch i holds the rows i, i + n,
            i + 2n, ..., so that no row moves to another device.
        micro_batches: n; must divide B.
    Returns:
        (gradients, metrics). The metrics are WeightedMeans: the loss's own metrics, "loss", and
        "grad_norm" (global L2 norm before any clipping; weight 1, or 0 for a batch of weight 0).
        `means` divides them.
    Raises:
        ConfigError: B is not a multiple of micro_batches.
    """
    micros = _split(batch, micro_batches)

    def one(index, micro, factor=lambda weight: 1.0):
        keys = () if key is None else (replicas.own_key(jax.random.fold_in(key, index)),)

        def total(p):
            mean, metrics = loss(p, micro, *keys)
            return mean.total * factor(jax.lax.stop_gradient(mean.weight)), (mean, metrics)

        gradients, (mean, metrics) = jax.grad(total, has_aux=True)(params)
        return gradients, mean, metrics

    def reciprocal(weight):
        weight = replicas.total(weight)
        return jnp.where(weight > 0, 1 / jnp.where(weight > 0, weight, 1), 0)

    first = jax.tree.map(lambda x: x[0], micros)
    if micro_batches == 1:  # divides the loss instead of the gradient: saves a pass over it
        gradients, mean, metrics = replicas.total(one(0, first, reciprocal))
    else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0, first))
        (sums, mean, metrics), _ = jax.lax.scan(
            lambda carry, x: (jax.tree.map(jnp.add, carry, one(*x)), None),
            zeros,
            (jnp.arange(micro_batches), micros),
        )
        scale = reciprocal(mean.weight)
        sums, mean, metrics = replicas.total((sums, mean, metrics))
        gradients = jax.tree.map(lambda g: (g * scale).astype(g.dtype), sums)
    norm = WeightedMean(optax.tree.norm(gradients), (mean.weight != 0).astype(jnp.float32))
    return gradients, metrics | {"loss": mean, "grad_norm": norm}


def means(metrics: dict[str, WeightedMean]) -> dict[str, jax.Array]:
    """Each metric's mean; NaN for a metric that counted nothing."""
    nan_if_empty = lambda m: jnp.where(m.weight == 0, jnp.nan, m.mean)
    return {name: nan_if_empty(metric) for name, metric in metrics.items()}


def all_finite(*numbers: jax.Array) -> jax.Array:
    """Whether a step may change the state: all its losses and gradient norms are finite."""
    return jnp.isfinite(jnp.stack(numbers)).all()


def keep_if(ok: jax.Array, new: Any, old: Any) -> Any:
    """`new` where ok, else `old`, leaf by leaf; the other tree has no effect, even if it is NaN."""
    return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)


def _split(batch, micro_batches: int):
    rows = {x.shape[0] for x in jax.tree.leaves(batch)}
    if len(rows) != 1:
        raise ValueError(f"arrays of a batch have one leading axis; got lengths {sorted(rows)}")
    size = rows.pop()
    ok = micro_batches >= 1 and size % micro_batches == 0
    require(ok, "micro_batches", micro_batches, f"a divisor of the batch size {size}")
    return split_rows(batch, micro_batches)


def split_rows(tree: Any, pieces: int) -> Any:
    """[B, ...] -> [pieces, B / pieces, ...]: piece i holds the rows i, i + pieces, ..., so that no
    row moves to another device."""
    return jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), tree)


def join_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def split_each_epoch(tree: Any, pieces: int, epochs: int, key: jax.Array) -> Any:
    """[B, ...] -> [epochs x pieces, B / pieces, ...]: `split_rows` in the first epoch. In each
    later epoch every block of `pieces` neighbouring rows is dealt to the pieces in a new random
    order, so that no row moves to another device."""
    sides = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]), tree)
    count = len(jax.tree.leaves(sides)[0])
    numbers = jnp.arange(count) + replicas.index() * count

    def drawn(epoch):
        order = lambda number: jax.random.permutation(
            jax.random.fold_in(jax.random.fold_in(key, epoch), number), pieces
        )
        orders = jax.vmap(order)(numbers)
        pick = lambda x: jnp.take_along_axis(
            x, orders.reshape(*orders.shape, *[1] * (x.ndim - 2)), axis=1
        )
        return jax.tree.map(pick, sides)

    all_epochs = [sides, *(drawn(epoch) for epoch in range(1, epochs))]
    return jax.tree.map(lambda *x: jnp.concatenate([y.swapaxes(0, 1) for y in x]), *all_epochs)


def in_pieces(function: Callable, pieces: int, arrays: tuple) -> Any:
    """function(*arrays) of arrays of rows, computed in `pieces` parts one after the other."""
    if pieces == 1:
        return function(*arrays)
    return join_rows(jax.lax.map(lambda piece: function(*piece), split_rows(arrays, pieces)))
