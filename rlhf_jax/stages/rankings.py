"""The common part of stages that learn from rankings."""

import dataclasses
import math
from typing import get_args

from rlhf_jax.data.buckets import first_fit, most_rows, shared_length
from rlhf_jax.errors import require
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.models.attention import fused
from rlhf_jax.models.lora import LoRA
from rlhf_jax.objectives.reward_models import DivideBy
from rlhf_jax.stages import feeds
from rlhf_jax.stages.facts import Facts
from rlhf_jax.stages.one_model import CutToLength
from rlhf_jax.stages.stage import Need, ints, text_shapes


@dataclasses.dataclass(frozen=True)
class RankingStage(CutToLength):
    """Learns from rankings. InstructGPT: 64 prompts per batch, K = 4..9 outputs each, one epoch.

    start      the stage whose policy it starts from
    rankings   the stage that collects the rankings; None: the data source has them
    lora       the form of an adapter that is trained; None: the model is trained
    packed     maximum number of rankings that share the outputs of a batch element
    divide_by  the divisor of a prompt's sum over its untied pairs. "all_pairs": C(K, 2), as in
               equation 1 of the paper; a prompt with ties then weighs less. "untied_pairs": the
               number of untied pairs; every prompt then has the same weight, and a pair weighs more
               if other pairs of its prompt tie
    buckets    without the fused attention kernel several outputs of an element share a row of
               twice `length` tokens (of `length`, if the model's context is shorter), and the
               number of rows is cut instead of their length
    """

    batch_size: int = 64  # prompts
    outputs: int = 9  # outputs of a batch element; at least the largest K
    packed: int = 1
    length: int = 2048  # tokens of prompt and response; longer outputs are left out and counted
    divide_by: DivideBy = "all_pairs"
    start: str = dataclasses.field(kw_only=True)
    rankings: str | None = dataclasses.field(default=None, kw_only=True)
    lora: LoRA | None = dataclasses.field(default=None, kw_only=True, metadata=ADDED_LATER)

    def __post_init__(self):
        super().__post_init__()
        require(self.outputs >= 2, "outputs", self.outputs, "at least 2")
        whole = self.packed is not True and self.packed is not False
        ok = whole and 1 <= self.packed <= self.outputs // 2
        require(ok, "packed", self.packed, f"1 to outputs / 2 = {self.outputs // 2}")
        counts = get_args(DivideBy)
        require(self.divide_by in counts, "divide_by", self.divide_by, f"one of {counts}")

    def needs(self):
        collected = {} if self.rankings is None else {"rankings": Need(self.rankings, "rankings")}
        return {"start": Need(self.start, "policy"), **collected}

    def check_shapes(self, build):
        super().check_shapes(build)
        context = build.shapes["start"].context
        allowed = f"<= the context of {self.start} = {context}"
        require(self.length <= context, "length", self.length, allowed)

    def check(self, facts: Facts) -> None:
        warmup = self.optimizer.warmup_steps
        found = facts.rankings("train", self.length, self.outputs, self.rankings)
        if found is None:
            # An upper bound: some rankings will be held out or tied, and each takes at most a row.
            facts.warms_up(facts.expected.rankings, self.epochs, self.batch_size, warmup)
            return
        if self.packed > 1:
            found = first_fit([ranking.outputs for ranking in found], self.outputs, self.packed)
        facts.warms_up(len(found), self.epochs, self.batch_size, warmup)

    def steps(self, examples):
        known = None if self.packed > 1 or self.rankings is not None else examples("rankings")
        if known is None:
            return None
        return max(1, round(self.epochs * math.ceil(known / self.batch_size)))

    def batch_shapes(self, row_length: int | None = None) -> dict:
        """The shapes of the largest batch: tokens, segments, weights [B, K, T], or [B, M, T] where
        outputs share rows of `row_length`; ranks [B, G, K], or [B, K] if packed (G) is 1."""
        rows, outputs = self.batch_size, self.outputs
        grouped = (rows, self.packed, outputs) if self.packed > 1 else (rows, outputs)
        shape = (rows, outputs, self.length)
        if row_length is not None:
            shape = (rows, most_rows(outputs, self.length, row_length), row_length)
        return text_shapes(*shape) | {"ranks": ints(*grouped)}

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.outputs * self.length

    def row_length(self, build) -> int | None:
        """The tokens of a row that several outputs share; None: each output has its own row."""
        shape = self.shape(build)
        if self.bucket_count == 1 or fused(shape, self.length):
            return None
        return shared_length(self.length, shape.context)

    def _batches(self, inputs):
        return feeds.rankings(
            inputs,
            self.batch_size,
            self.length,
            self.outputs,
            self.packed,
            self.bucket_count,
            self.row_length(inputs.build),
        )
