"""Packs sequences into rows, and gives the sizes to which batches are cut: little is computed on
padding, and programs are compiled for few shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_jax.errors import require

SHORT = 64  # tokens: shorter rows are not cut by default, a further program costs more
CUT = ("tokens", "segments", "weights")  # the arrays of a batch that are cut


def check_buckets(buckets: int | None) -> None:
    """Raises ConfigError where `buckets` is no number of sizes."""
    require(buckets is None or buckets >= 1, "buckets", buckets, "1 or more, or None")


def bucket_count(buckets: int | None, tokens: int) -> int:
    """The number of sizes; by default (None) 4, or 1 for rows of at most `SHORT` tokens."""
    if buckets is not None:
        return buckets
    return 1 if tokens <= SHORT else 4


def bucket_sizes(full: int, count: int) -> tuple[int, ...]:
    """ceil(full i / count), i = 1 .. count: steps of equal length up to `full`."""
    return tuple(sorted({-(-full * i // count) for i in range(1, count + 1)}))


def bucket_for(need: int, full: int, count: int) -> int:
    """The smallest of `bucket_sizes` that is `need` or more."""
    return next(size for size in bucket_sizes(full, count) if size >= need)


def first_fit(lengths: Sequence[int], capacity: int, most: int | None = None) -> list[list[int]]:
    """Bins of example indices: each example goes into the first bin with enough room.

    most: the most examples of a bin; None: no such limit.
    """
    room = np.full(len(lengths), capacity)
    bins: list[list[int]] = [[] for _ in lengths]
    for i, length in enumerate(lengths):
        b = int(np.argmax(room >= length))
        room[b] -= length
        bins[b].append(i)
        if len(bins[b]) == most:
            room[b] = -1
    return [members for members in bins if members]


def places_in_rows(lengths: Sequence[int], length: int) -> list[tuple[int, int]]:
    """(row, first column) of each sequence, where first-fit packs them into rows of `length`."""
    places = [(0, 0)] * len(lengths)
    for row, members in enumerate(first_fit(lengths, length)):
        at = 0
        for i in members:
            places[i] = (row, at)
            at += lengths[i]
    return places


def shared_length(longest: int, context: int) -> int:
    """The tokens of a row that sequences of at most `longest` tokens share. Twice as many leave
    less padding at its end than as many."""
    return 2 * longest if 2 * longest <= context else longest


def most_rows(sequences: int, longest: int, length: int) -> int:
    """The most rows of `length` that first-fit needs for sequences of at most `longest` tokens:
    only one of its rows can hold fewer than length // longest of them."""
    return -(-sequences // (length // longest))


@dataclass(frozen=True)
class Buckets:
    """How the batches of a pipeline are cut along one axis of tokens, segments and weights.

    axis   1: time, or the rows of a batch element; 2: the time of [B, K, T]
    full   the length of the axis before the cut
    count  the number of sizes
    """

    axis: int
    full: int
    count: int

    def cut(
        self, batch: dict[str, Any], rows: Sequence[Any], size: Callable[[Any], int]
    ) -> dict[str, Any]:
        """The batch, cut to the smallest size that holds all rows of all processes.

        size: the part of the axis that a row fills."""
        kept = bucket_for(max(map(size, rows)), self.full, self.count)
        if kept == self.full:
            return batch
        place = (slice(None),) * self.axis + (slice(kept),)
        return {name: x[place] if name in CUT else x for name, x in batch.items()}
