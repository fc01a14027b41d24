"""Rows one piece after the other, without moving any of a batch that lies on many devices."""

from collections.abc import Callable
from typing import Any

import jax


def split_rows(tree: Any, pieces: int) -> Any:
    """[B, ...] -> [pieces, B / pieces, ...]: piece i holds the rows i, i + pieces, ..., so that
    rows cut over devices stay where they are."""
    return jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), tree)


def join_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def in_pieces(function: Callable, pieces: int, arrays: tuple) -> Any:
    """function(*arrays) of rows alone, in so many pieces one after the other."""
    if pieces == 1:
        return function(*arrays)
    return join_rows(jax.lax.map(lambda piece: function(*piece), split_rows(arrays, pieces)))
