"""Batches for a stage, shuffled for a use of its own (rlhf_jax/randomness.py): of every batch, the
rows that this process loads."""

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


def text(inputs: "Inputs", rows: int, length: int, use: str, whole: bool = False) -> Batches:
    """Plain text; whole: all rows in every process."""
    return pipeline.text_batches(
        inputs.records("text", "train"),
        inputs.tokenizer,
        batch_size=rows,
        length=length,
        seed=inputs.shuffle(use),
        part=pipeline.ALL if whole else inputs.runner.own_rows(rows),
    )


def demonstrations(
    inputs: "Inputs",
    rows: int,
    length: int,
    packed: bool = False,
    text_fraction: float = 0.0,
    fraction_of: str = "rows",
) -> Batches:
    """Demonstrations; text_fraction: of plain text among them (`pipeline.mixed_batches`)."""
    part = inputs.runner.own_rows(rows)
    batches = pipeline.supervised_batches(
        inputs.records("demonstrations", "train"),
        inputs.tokenizer,
        batch_size=rows,
        length=length,
        seed=inputs.shuffle("demonstrations"),
        packed=packed,
        part=part if text_fraction == 0 else pipeline.ALL,
    )
    if text_fraction == 0:
        return batches
    more, seed = text(inputs, rows, length, "text", whole=True), inputs.shuffle("mix")
    return pipeline.mixed_batches(batches, more, text_fraction, seed, part, fraction_of)


def rankings(inputs: "Inputs", rows: int, length: int, outputs: int, packed: int = 1) -> Batches:
    """Rankings, as many an element as `packed` says, of `outputs` outputs in all at most."""
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
    )


def prompts(inputs: "Inputs", split: str, rows: int, length: int, whole: bool = False) -> Batches:
    """Prompts of a split, longer ones than `length` left out; whole: all rows in every process."""
    return pipeline.prompt_batches(
        inputs.records("prompts", split),
        inputs.tokenizer,
        batch_size=rows,
        length=length,
        seed=inputs.shuffle("prompts"),
        part=pipeline.ALL if whole else inputs.runner.own_rows(rows),
    )


@dataclasses.dataclass(frozen=True)
class Together:
    """Batches of several kinds, {name: batch}; one position for all.

    rows: of each, in all processes.
    """

    runner: Runner
    parts: dict[str, Batches]
    rows: dict[str, int]

    def place(self, batch: dict) -> dict:
        """On the devices."""
        return {name: self.runner.rows(part, self.rows[name]) for name, part in batch.items()}

    def whole(self, batch: dict) -> dict:
        """Of all processes."""
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
    """Batches of prompts, each prompt `group` times side by side; of all rows, those of `own`."""

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
    """Batches of "prompts", and of "text" where there is any; a step may draw more prompts, which
    become part of its batch, {"more": {"1": ..., "2": ...}}."""

    def draws(self, batch: dict) -> Iterator[dict]:
        """Prompts on the devices, those of the batch first."""
        rows, number = self.rows["prompts"], 0
        yield self.runner.rows(batch["prompts"], rows)
        while True:
            number += 1
            more = batch.setdefault("more", {})
            if str(number) not in more:
                more[str(number)] = next(self.parts["prompts"])
            yield self.runner.rows(more[str(number)], rows)

    def text(self, batch: dict) -> Any:
        """On the devices; None without."""
        return self.runner.rows(batch["text"], self.rows["text"]) if "text" in batch else None

    def whole(self, batch: dict) -> dict:
        rows = self.rows | {"more": self.rows["prompts"]}
        return {name: self.runner.gather(part, rows[name]) for name, part in batch.items()}
