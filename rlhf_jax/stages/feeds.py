"""Batches for a stage, each kind shuffled by its own seed (rlhf_jax/randomness.py). A batch holds
the rows that this process loads."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rlhf_jax.data import pipeline
from rlhf_jax.data.batches import Batches
from rlhf_jax.parallel.runner import Runner

if TYPE_CHECKING:
    from rlhf_jax.stages.stage import Inputs


def text(inputs: "Inputs", rows: int, length: int, use: str) -> Batches:
    """Batches of plain text."""
    return pipeline.text_batches(
        inputs.records("text", "train"),
        inputs.tokenizer,
        batch_size=rows,
        length=length,
        seed=inputs.shuffle(use),
        part=inputs.runner.own_rows(rows),
    )


def demonstrations(
    inputs: "Inputs",
    rows: int,
    length: int,
    packed: bool = False,
    text_fraction: float = 0.0,
    fraction_of: str = "rows",
    buckets: int = 1,
) -> Batches:
    """Batches of demonstrations. text_fraction: the fraction of plain text mixed in
    (`pipeline.mixed_batches`)."""
    part = inputs.runner.own_rows(rows)
    batches = pipeline.supervised_batches(
        inputs.records("demonstrations", "train"),
        inputs.tokenizer,
        batch_size=rows,
        length=length,
        seed=inputs.shuffle("demonstrations"),
        packed=packed,
        part=part,
        buckets=buckets,
    )
    if text_fraction == 0:
        return batches
    more, seed = text(inputs, rows, length, "text"), inputs.shuffle("mix")
    return pipeline.mixed_batches(batches, more, text_fraction, seed, part, fraction_of)


def rankings(
    inputs: "Inputs",
    rows: int,
    length: int,
    outputs: int,
    packed: int = 1,
    buckets: int = 1,
    row_length: int | None = None,
) -> Batches:
    """Batches of rankings. An element holds up to `packed` rankings with up to `outputs` outputs
    together. buckets, row_length: see `pipeline.ranking_batches`."""
    return pipeline.ranking_batches(
        inputs.records("rankings", "train"),
        inputs.tokenizer,
        batch_size=rows,
        length=length,
        outputs=outputs,
        seed=inputs.shuffle("rankings"),
        packed=packed,
        part=inputs.runner.own_rows(rows),
        close=inputs.build.ending.close,
        buckets=buckets,
        row_length=row_length,
    )


def scored(inputs: "Inputs", rows: int, length: int, buckets: int = 1) -> Batches:
    """Batches of responses with absolute scores."""
    return pipeline.scored_batches(
        inputs.records("scored", "train"),
        inputs.tokenizer,
        batch_size=rows,
        length=length,
        seed=inputs.shuffle("scored"),
        part=inputs.runner.own_rows(rows),
        close=inputs.build.ending.close,
        buckets=buckets,
    )


def prompts(
    inputs: "Inputs", split: str, rows: int, length: int, group: int = 1
) -> "Batches | Repeated":
    """Batches of a split's prompts, without prompts longer than `length` tokens. Each prompt fills
    `group` neighbouring rows of the `rows`."""
    own = range(rows)[inputs.runner.own_rows(rows)]
    first, last = own.start // group, -(-own.stop // group)
    batches = pipeline.prompt_batches(
        inputs.records("prompts", split),
        inputs.tokenizer,
        batch_size=rows // group,
        length=length,
        seed=inputs.shuffle("prompts"),
        part=slice(first, last),
    )
    if group == 1:
        return batches
    return Repeated(batches, group, slice(own.start - first * group, own.stop - first * group))


@dataclasses.dataclass(frozen=True)
class Together:
    """Batches of several kinds, {name: batch}, with one position in the data for all.

    rows: the number of rows of each kind, in all processes together.
    """

    runner: Runner
    parts: dict[str, Batches]
    rows: dict[str, int]

    def place(self, batch: dict) -> dict:
        """The batch on the devices."""
        return {name: self.runner.rows(part, self.rows[name]) for name, part in batch.items()}

    def whole(self, batch: dict) -> dict:
        """The batch with the rows of all processes."""
        return {name: self.runner.gather(part, self.rows[name]) for name, part in batch.items()}

    def __next__(self) -> dict:
        return {name: next(part) for name, part in self.parts.items()}

    def get_state(self) -> dict:
        return {name: part.get_state() for name, part in self.parts.items()}

    def set_state(self, state: dict) -> None:
        for name, part in self.parts.items():
            part.set_state(state[name])


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Batches of prompts, each prompt repeated `group` times in neighbouring rows. Of these rows a
    batch holds those of the slice `own`."""

    batches: Batches
    group: int
    own: slice

    def __next__(self) -> dict:
        repeated = lambda x: np.repeat(x, self.group, axis=0)[self.own]
        return jax.tree.map(repeated, next(self.batches))

    def get_state(self) -> dict:
        return self.batches.get_state()

    def set_state(self, state: dict) -> None:
        self.batches.set_state(state)


class Prompted(Together):
    """Batches of "prompts", and of "text" for ptx. A step may draw more prompts; they are added to
    its batch as {"more": {"1": ..., "2": ...}}."""

    def draws(self, batch: dict) -> Iterator[dict]:
        """Prompts on the devices: first those of the batch, then more."""
        rows, number = self.rows["prompts"], 0
        yield self.runner.rows(batch["prompts"], rows)
        while True:
            number += 1
            more = batch.setdefault("more", {})
            if str(number) not in more:
                more[str(number)] = next(self.parts["prompts"])
            yield self.runner.rows(more[str(number)], rows)

    def text(self, batch: dict) -> Any:
        """The batch's text on the devices; None without text."""
        return self.runner.rows(batch["text"], self.rows["text"]) if "text" in batch else None

    def whole(self, batch: dict) -> dict:
        rows = self.rows | {"more": self.rows["prompts"]}
        return {name: self.runner.gather(part, rows[name]) for name, part in batch.items()}
