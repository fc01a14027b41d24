"""Sums and gathers over devices under `pmap`. Under `jit` these functions return their argument.

A program under `pmap` sees the rows of one device, and stages call these functions where they need
all rows. A program under `jit` sees all rows, on whichever devices they are.
"""

import contextlib
import contextvars
from typing import Any

import jax

AXIS = "replicas"
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("inside", default=False)


@contextlib.contextmanager
def traced():
    """Programs traced inside run under `pmap` over AXIS."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def index() -> jax.Array | int:
    """The number of this replica; 0 outside `pmap`."""
    return jax.lax.axis_index(AXIS) if _inside.get() else 0


def total(tree: Any) -> Any:
    """Sums over all replicas."""
    return jax.lax.psum(tree, AXIS) if _inside.get() else tree


def gather(tree: Any) -> Any:
    """[B / n, ...] of each replica -> [B, ...], the rows of all replicas in order."""
    if not _inside.get():
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)


def share(tree: Any) -> Any:
    """[B, ...] -> [B / n, ...], the rows of this replica: the inverse of `gather`."""
    if not _inside.get():
        return tree

    def own(x):
        size = x.shape[0] // jax.lax.axis_size(AXIS)
        return jax.lax.dynamic_slice_in_dim(x, index() * size, size)

    return jax.tree.map(own, tree)


def own_key(key: jax.Array) -> jax.Array:
    """A key that differs between replicas, for noise that differs between rows."""
    return jax.random.fold_in(key, index()) if _inside.get() else key
