"""Supervised fine-tuning: maximises the likelihood of demonstrations; prompts have no loss."""

import dataclasses
import math
from typing import Literal

from rlhf_jax.data.buckets import first_fit
from rlhf_jax.errors import require
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.models.lora import LoRA
from rlhf_jax.stages import feeds
from rlhf_jax.stages.adapters import model_at_start
from rlhf_jax.stages.one_model import CutToLength, new_policy
from rlhf_jax.stages.stage import Need, text_shapes
from rlhf_jax.stages.supervised import likelihood_loss


@dataclasses.dataclass(frozen=True)
class SFT(CutToLength):
    """Fine-tunes the policy of the stage `start` on demonstrations.

    start                    the stage; None: the experiment's model with random weights
    lora                     the form of an adapter that is trained; None: the model is trained
    pretraining_fraction     the fraction of plain text that is mixed with the demonstrations
    pretraining_fraction_of  what this is a fraction of; the paper says 10 % but not of what.
                             "rows": of the rows of a batch. Every token has weight 1, so long rows
                             of text have a larger share of the loss than short responses. "loss":
                             the same rows, with the tokens of text weighted so that text has this
                             fraction of the loss's weight, in each batch with rows of both kinds
    """

    packed: bool = False  # whether a row holds several demonstrations
    pretraining_fraction: float = 0.0
    pretraining_fraction_of: Literal["rows", "loss"] = "rows"
    start: str | None = dataclasses.field(kw_only=True)
    lora: LoRA | None = dataclasses.field(default=None, kw_only=True, metadata=ADDED_LATER)

    def __post_init__(self):
        super().__post_init__()
        require(
            0 <= self.pretraining_fraction < 1,
            "pretraining_fraction",
            self.pretraining_fraction,
            "in [0, 1)",
        )
        ways = ("rows", "loss")
        of = self.pretraining_fraction_of
        require(of in ways, "pretraining_fraction_of", of, f"one of {ways}")
        ok = self.lora is None or self.start is not None
        require(ok, "lora", self.lora, "None where start is None: random weights are no trunk")

    def needs(self):
        return {} if self.start is None else {"start": Need(self.start, "policy")}

    def check_shapes(self, build):
        super().check_shapes(build)
        context = self.shape(build).context
        allowed = f"<= the context of {self.start or 'model'} = {context}"
        require(self.length <= context, "length", self.length, allowed)

    def check(self, facts):
        if self.pretraining_fraction > 0:
            facts.there("text", "train")
        found = facts.some("demonstrations", "train", "length", self.length)
        if self.packed:
            found = first_fit([record.tokens for record in found], self.length)
        rows = len(found) / (1 - self.pretraining_fraction)
        facts.warms_up(rows, self.epochs, self.batch_size, self.optimizer.warmup_steps)

    def steps(self, examples):
        count = None if self.packed else examples("demonstrations")
        if count is None:
            return None
        rows = count / (1 - self.pretraining_fraction)
        return max(1, round(self.epochs * math.ceil(rows / self.batch_size)))

    def programs(self, build, steps):
        model = self.shape(build)
        batch, params = text_shapes(self.batch_size, self.length), self.parameters(model)
        loss = likelihood_loss(model, packed=self.packed or self.pretraining_fraction > 0)
        return {"update": self.update_program(loss, params, batch, steps)}

    def task(self, inputs):
        batches = self._batches(inputs)
        new = self.start is None
        params = new_policy(inputs) if new else model_at_start(inputs, "start", self.lora)
        return self.training(inputs, params, batches, self.batch_size * self.length, ("loss",))

    def _batches(self, inputs):
        return feeds.demonstrations(
            inputs,
            self.batch_size,
            self.length,
            self.packed,
            self.pretraining_fraction,
            self.pretraining_fraction_of,
            self.bucket_count,
        )
