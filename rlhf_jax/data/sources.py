"""Endless sources of batches: shuffled rows, text cut into rows, and a mixture of two."""

import functools
import math
import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from rlhf_jax.data import arrays
from rlhf_jax.data.arrays import Batch, Rows
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
    """Batch i of endless epochs of tokenised rows, as a Grain random-access source."""

    def __init__(self, rows: Rows, batch_size: int, seed: int, part: slice) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._part = part
        self._order = EpochOrder(len(rows.rows), seed)

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, i: int) -> Batch:
        numbers = self._order.take(i * self._batch_size, self._batch_size)[self._part]
        return self._rows.to_batch([self._rows.rows[number] for number in numbers])


def shuffled_rows(rows: Rows, batch_size: int, seed: int, part: slice) -> Iterator[Batch]:
    """Grain's iterator over `ShuffledRows`; batches are made in this thread on request."""
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    dataset = grain.MapDataset.source(ShuffledRows(rows, batch_size, seed, part))
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


class TextSource:
    """Batches of text rows; a document is tokenised when it is needed."""

    def __init__(
        self,
        texts: Sequence[str | Text],
        tokenizer: Tokenizer,
        batch_size: int,
        length: int,
        seed: int,
        part: slice = slice(None),
    ) -> None:
        self._part = part
        self._texts = texts
        self._order = EpochOrder(len(texts), seed)
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._length = length
        self._position = (0, 0)
        self._held: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int32))

    def _ids(self, turn: int) -> np.ndarray:
        if self._held[0] != turn:
            (number,) = self._order.take(turn, 1)
            text = self._texts[number]
            self._held = (turn, arrays.text_ids(text, self._tokenizer))
        return self._held[1]

    def __next__(self) -> Batch:
        rows = []
        for _ in range(self._batch_size):
            row, *self._position = arrays.next_text_row(
                self._ids, math.inf, *self._position, self._length
            )
            rows.append(row)
        return arrays.supervised_batch(rows[self._part], self._length, self._tokenizer.pad_id)

    def get_state(self) -> State:
        document, offset = self._position
        return {"document": document, "offset": offset}

    def set_state(self, state: State) -> None:
        self._position = (state["document"], state["offset"])


class _RowReader:
    """Takes single rows out of batches in order, so that a mixture uses every row."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._batch: Batch | None = None
        self._before = batches.get_state()
        self._used = 0

    def take(self, count: int) -> list[Batch]:
        parts = []
        while count:
            if self._batch is None:
                self._batch = next(self._batches)
            parts.append({k: v[self._used : self._used + count] for k, v in self._batch.items()})
            got = len(parts[-1]["tokens"])
            count -= got
            self._used += got
            if self._used == self._batches.batch_size:
                self._batch, self._before, self._used = None, self._batches.get_state(), 0
        return parts

    def get_state(self) -> State:
        return {"before": self._before, "used": self._used}

    def set_state(self, state: State) -> None:
        self._batches.set_state(state["before"])
        self._batch, self._before, self._used = None, state["before"], state["used"]


class MixSource:
    """See pipeline.mixed_batches."""

    def __init__(
        self, a: Batches, b: Batches, fraction: float, seed: int, part: slice, of: str
    ) -> None:
        self._part, self._of = part, of
        self._readers = (_RowReader(a), _RowReader(b))
        self._size = a.batch_size
        self._fraction = fraction
        self._seed = seed
        self._step = 0

    def _rows_of_b(self, steps: int) -> int:
        return math.floor(steps * self._fraction * self._size + 1e-6)

    def __next__(self) -> Batch:
        count = self._rows_of_b(self._step + 1) - self._rows_of_b(self._step)
        order = np.random.default_rng((self._seed, self._step)).permutation(self._size)
        of_a, of_b = self._readers[0].take(self._size - count), self._readers[1].take(count)
        parts = of_a + (self._weighted(of_a, of_b) if self._of == "loss" else of_b)
        shapes = [{k: v.shape[1:] for k, v in part.items()} for part in parts]
        if any(shape != shapes[0] for shape in shapes):
            raise ConfigError(f"mixed_batches: rows differ: {shapes[0]} and {shapes[-1]}")
        self._step += 1
        order = order[self._part]
        return {k: np.concatenate([part[k] for part in parts])[order] for k in parts[0]}

    def _weighted(self, of_a: list[Batch], of_b: list[Batch]) -> list[Batch]:
        """b's parts with weights scaled to `fraction` of the sum of all weights."""
        ours, theirs = (
            sum(part["weights"][:, 1:].sum() for part in parts) for parts in (of_a, of_b)
        )
        if not ours or not theirs:
            return of_b
        scale = np.float32(self._fraction / (1 - self._fraction) * ours / theirs)
        return [part | {"weights": part["weights"] * scale} for part in of_b]

    def get_state(self) -> State:
        return {"step": self._step, "rows": [reader.get_state() for reader in self._readers]}

    def set_state(self, state: State) -> None:
        self._step = state["step"]
        for reader, saved in zip(self._readers, state["rows"], strict=True):
            reader.set_state(saved)
