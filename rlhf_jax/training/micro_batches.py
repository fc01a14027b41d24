"""Rows one piece after the other, without moving any of a batch that lies on many devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.parallel import replicas


def split_rows(tree: Any, pieces: int) -> Any:
    """[B, ...] -> [pieces, B / pieces, ...]: piece i holds the rows i, i + pieces, ..., so that
    rows cut over devices stay where they are."""
    return jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), tree)


def join_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def split_each_epoch(tree: Any, pieces: int, epochs: int, key: jax.Array) -> Any:
    """[B, ...] -> [epochs x pieces, B / pieces, ...]: `split_rows` in the first epoch; in each
    later one, which of `pieces` rows that lie side by side goes to which piece is drawn anew, so
    that rows cut over devices stay where they are."""
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
    """function(*arrays) of rows alone, in so many pieces one after the other."""
    if pieces == 1:
        return function(*arrays)
    return join_rows(jax.lax.map(lambda piece: function(*piece), split_rows(arrays, pieces)))
