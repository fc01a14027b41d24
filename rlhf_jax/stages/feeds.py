"""Batches for a stage, shuffled for a use of its own (rlhf_jax/randomness.py): of every batch, the
rows that this process loads."""

import dataclasses
from typing import TYPE_CHECKING

from rlhf_jax.data import pipeline
from rlhf_jax.data.batches import Batches
from rlhf_jax.parallel.runner import Runner

if TYPE_CHECKING:
    from rlhf_jax.stages.rankings import RankingStage
    from rlhf_jax.stages.sft import SFT
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


def demonstrations(inputs: "Inputs", stage: "SFT") -> Batches:
    """Demonstrations, with plain text among them where the stage wants it."""
    part, mixed = inputs.runner.own_rows(stage.batch_size), stage.pretraining_fraction > 0
    batches = pipeline.supervised_batches(
        inputs.records("demonstrations", "train"),
        inputs.tokenizer,
        batch_size=stage.batch_size,
        length=stage.length,
        seed=inputs.shuffle("demonstrations"),
        packed=stage.packed,
        part=pipeline.ALL if mixed else part,
    )
    if not mixed:
        return batches
    more = text(inputs, stage.batch_size, stage.length, "text", whole=True)
    fraction, of = stage.pretraining_fraction, stage.pretraining_fraction_of
    return pipeline.mixed_batches(batches, more, fraction, inputs.shuffle("mix"), part, of)


def rankings(inputs: "Inputs", stage: "RankingStage") -> Batches:
    """Rankings, as many a row as the stage packs."""
    return pipeline.ranking_batches(
        inputs.records("rankings", "train"),
        inputs.tokenizer,
        batch_size=stage.batch_size,
        length=stage.length,
        outputs=stage.outputs,
        seed=inputs.shuffle("rankings"),
        packed=stage.packed,
        part=inputs.runner.own_rows(stage.batch_size),
        close=inputs.build.ending.close,
    )


def prompts(
    inputs: "Inputs", split: str, rows: int, length: int, whole: bool = False
) -> Batches:
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
