"""The two kinds of batches: endless batches with a position, and one finite pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rlhf_jax.data.arrays import Batch, Rows
from rlhf_jax.data.buckets import Buckets
from rlhf_jax.errors import UserError, require

State = dict[str, Any]


class BatchIterator(Protocol):
    """Batches for a training loop; the position is a JSON value."""

    def __next__(self) -> Batch: ...
    def get_state(self) -> State: ...
    def set_state(self, state: State) -> None: ...


class RowIterator(Protocol):
    """The rows of batches, with a position."""

    def __next__(self) -> Sequence[Any]: ...
    def get_state(self) -> State: ...
    def set_state(self, state: State) -> None: ...


class Batches:
    """Endless batches, reshuffled every epoch. From a saved state they continue bit for bit.

    Attributes: batch_size; examples (records kept); dropped (records left out, by reason).
    """

    def __init__(
        self,
        source: RowIterator,
        to_batch: Callable[[Sequence[Any]], Batch],
        identity: State,
        *,
        part: slice,
        batch_size: int,
        examples: int,
        dropped: Mapping[str, int],
        rows: Callable[[], float],
        targets: Callable[[Any], int] | None = None,
        size: Callable[[Any], int] | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        """source: the rows of each batch, of all processes. part: the rows that this process makes.
        rows(): the number of rows of an epoch. targets: gives the number of targets of a row.
        size: gives the part of its axis that a row fills. buckets: how batches are cut, by size;
        None: not at all."""
        self._source, self._part = source, part
        self._identity = identity
        self.to_batch, self.targets, self.size = to_batch, targets, size
        self.buckets = buckets
        self.rows = rows
        self.batch_size = batch_size
        self.examples = examples
        self.dropped = dropped

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch, rounded up. For plain text this tokenises all documents."""
        return math.ceil(self.rows() / self.batch_size)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        rows = self.next_rows()
        batch = self.to_batch(rows[self._part])
        return batch if self.buckets is None else self.buckets.cut(batch, rows, self.size)

    def next_rows(self) -> Sequence[Any]:
        """The rows of the next batch, of all processes."""
        return next(self._source)

    def get_state(self) -> State:
        """The position after the last batch, as JSON values."""
        return {"data": self._identity, "position": self._source.get_state()}

    def set_state(self, state: State) -> None:
        """Continues from a position.

        Raises:
          UserError: the state belongs to other data, sizes or another seed.
        """
        saved = state["data"]
        for field in sorted(self._identity.keys() | saved.keys()):
            then, now = saved.get(field), self._identity.get(field)
            if then != now:
                raise UserError(f"data state: {field} was {then!r} when saved, it is {now!r} now")
        self._source.set_state(state["position"])


class Pass(Sequence):
    """Batches of all rows once, in order; empty rows fill the last batch.

    Attributes: examples (records kept); dropped (records left out, by reason).
    """

    def __init__(self, rows: Rows, batch_size: int) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "at least 1")
        self._rows = rows
        self._batch_size = batch_size
        self.examples = rows.examples
        self.dropped = rows.dropped

    def __len__(self) -> int:
        return math.ceil(len(self._rows.rows) / self._batch_size)

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < len(self):
            raise IndexError(i)
        rows = list(self._rows.rows[i * self._batch_size : (i + 1) * self._batch_size])
        return self._rows.to_batch(rows + [self._rows.empty] * (self._batch_size - len(rows)))


class Finite:
    """The batches of a `Pass` one after the other, with a position."""

    def __init__(self, batches: Pass) -> None:
        self._batches, self._position = batches, 0

    def __next__(self) -> Batch:
        if self._position == len(self._batches):
            raise StopIteration
        self._position += 1
        return self._batches[self._position - 1]

    def get_state(self) -> State:
        return {"position": self._position}

    def set_state(self, state: State) -> None:
        self._position = state["position"]
