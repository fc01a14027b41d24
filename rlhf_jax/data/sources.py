"""Endless sources of the rows of batches: shuffled rows, text cut into rows, a mixture of two."""

import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from rlhf_jax.data import arrays
from rlhf_jax.data.arrays import Batch, Rows, Span
from rlhf_jax.data.batches import Batches, State
from rlhf_jax.data.records import Text
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import ConfigError, require


class EpochOrder:
    """The indices 0..count-1 endlessly, in a new order each epoch, with random access.

    Grain's own index shuffle is slow for small data sets: 0.6 ms per index at 64 examples.
    """

    def __init__(self, count: int, seed: int) -> None:
        require(0 <= seed < 2**32, "seed", seed, "in [0, 2**32)")
        self._count = count
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(count)
        )

    def take(self, start: int, number: int) -> list[int]:
        """The `number` indices from position `start` on, across epochs if necessary."""
        numbers: list[int] = []
        while len(numbers) < number:
            epoch, place = divmod(start + len(numbers), self._count)
            stop = place + number - len(numbers)
            numbers += self._permutation(epoch)[place:stop].tolist()
        return numbers


class ShuffledRows:
    """The rows of batch i of endless epochs, as a Grain random-access source."""

    def __init__(self, rows: Rows, batch_size: int, seed: int) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._order = EpochOrder(len(rows.rows), seed)

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, i: int) -> list:
        numbers = self._order.take(i * self._batch_size, self._batch_size)
        return [self._rows.rows[number] for number in numbers]


def shuffled_rows(rows: Rows, batch_size: int, seed: int) -> Iterator[list]:
    """Grain's iterator over `ShuffledRows`; batches are made in this thread on request."""
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    dataset = grain.MapDataset.source(ShuffledRows(rows, batch_size, seed))
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


class TextSource:
    """Rows of text: spans of documents. Documents are numbered in the order of endless epochs.

    lengths: the number of tokens of every document; None: documents are tokenised to measure them.
    """

    def __init__(
        self,
        texts: Sequence[str | Text],
        tokenizer: Tokenizer,
        batch_size: int,
        length: int,
        seed: int,
        lengths: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self._texts = texts
        self._order = EpochOrder(len(texts), seed)
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._length, self._lengths = length, lengths
        self._position = (0, 0)
        self._held: dict[int, np.ndarray] = {}  # ids of documents, by number, from the position on

    def _number(self, turn: int) -> int:
        return self._order.take(turn, 1)[0]

    def _ids(self, turn: int) -> np.ndarray:
        if turn not in self._held:
            text = self._texts[self._number(turn)]
            self._held[turn] = arrays.text_ids(text, self._tokenizer)
        return self._held[turn]

    def _tokens(self, turn: int) -> int:
        return (
            len(self._ids(turn)) if self._lengths is None else self._lengths()[self._number(turn)]
        )

    def __next__(self) -> list[list[Span]]:
        now, rows = self._position[0], []
        self._held = {turn: ids for turn, ids in self._held.items() if turn >= now}
        for _ in range(self._batch_size):
            row, *self._position = arrays.next_text_row(
                self._tokens, math.inf, *self._position, self._length
            )
            rows.append(row)
        return rows

    def to_batch(self, rows: Sequence[Sequence[Span]]) -> Batch:
        return arrays.text_batch(rows, self._ids, self._length, self._tokenizer.pad_id)

    def get_state(self) -> State:
        document, offset = self._position
        return {"document": document, "offset": offset}

    def set_state(self, state: State) -> None:
        self._position = (state["document"], state["offset"])


def targets_of_text(row: Sequence[Span]) -> int:
    """The number of targets: all tokens of each span except its first."""
    return sum(stop - start - 1 for _, start, stop in row)


def size_of_text(row: Sequence[Span]) -> int:
    """The number of tokens of a row."""
    return sum(stop - start for _, start, stop in row)


class _RowReader:
    """Takes single rows out of batches in order, so that a mixture uses every row."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._rows: Sequence | None = None
        self._before = batches.get_state()
        self._used = 0

    def take(self, count: int) -> list:
        taken = []
        while len(taken) < count:
            if self._rows is None:
                self._rows = self._batches.next_rows()
            more = self._rows[self._used : self._used + count - len(taken)]
            taken += more
            self._used += len(more)
            if self._used == self._batches.batch_size:
                self._rows, self._before, self._used = None, self._batches.get_state(), 0
        return taken

    def get_state(self) -> State:
        return {"before": self._before, "used": self._used}

    def set_state(self, state: State) -> None:
        self._batches.set_state(state["before"])
        self._rows, self._before, self._used = None, state["before"], state["used"]


class MixedRow(NamedTuple):
    """A row from one of two sources, and the factor of its weights."""

    kind: int  # 0: a, 1: b
    row: Any
    scale: np.float32


class MixSource:
    """See pipeline.mixed_batches."""

    def __init__(self, a: Batches, b: Batches, fraction: float, seed: int, of: str) -> None:
        self._kinds, self._of = (a, b), of
        self._readers = (_RowReader(a), _RowReader(b))
        self._size = a.batch_size
        self._fraction = fraction
        self._seed = seed
        self._step = 0

    def _rows_of_b(self, steps: int) -> int:
        return math.floor(steps * self._fraction * self._size + 1e-6)

    def __next__(self) -> list[MixedRow]:
        count = self._rows_of_b(self._step + 1) - self._rows_of_b(self._step)
        order = np.random.default_rng((self._seed, self._step)).permutation(self._size)
        of_a, of_b = self._readers[0].take(self._size - count), self._readers[1].take(count)
        scale = self._scale(of_a, of_b) if self._of == "loss" else np.float32(1)
        rows = [MixedRow(0, row, np.float32(1)) for row in of_a]
        rows += [MixedRow(1, row, scale) for row in of_b]
        self._step += 1
        return [rows[i] for i in order]

    def _scale(self, of_a: Sequence, of_b: Sequence) -> np.float32:
        """The factor of b's weights that makes them `fraction` of the sum of all weights."""
        both = zip(self._kinds, (of_a, of_b), strict=True)
        ours, theirs = (np.float32(sum(map(of.targets, rows))) for of, rows in both)
        if not ours or not theirs:
            return np.float32(1)
        return np.float32(self._fraction / (1 - self._fraction) * ours / theirs)

    def size(self, row: MixedRow) -> int:
        return self._kinds[row.kind].size(row.row)

    def to_batch(self, rows: Sequence[MixedRow]) -> Batch:
        parts, places = [], []
        for kind, batches in enumerate(self._kinds):
            here = [i for i, row in enumerate(rows) if row.kind == kind]
            if here:
                parts.append(batches.to_batch([rows[i].row for i in here]))
                places += here
        shapes = [{k: v.shape[1:] for k, v in part.items()} for part in parts]
        if any(shape != shapes[0] for shape in shapes):
            raise ConfigError(f"mixed_batches: rows differ: {shapes[0]} and {shapes[-1]}")
        back = np.argsort(places)
        batch = {k: np.concatenate([part[k] for part in parts])[back] for k in parts[0]}
        if self._of == "loss":
            batch["weights"] *= np.array([row.scale for row in rows])[:, None]
        return batch

    def get_state(self) -> State:
        return {"step": self._step, "rows": [reader.get_state() for reader in self._readers]}

    def set_state(self, state: State) -> None:
        self._step = state["step"]
        for reader, saved in zip(self._readers, state["rows"], strict=True):
            reader.set_state(saved)
