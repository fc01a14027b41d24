"""Supervised fine-tuning: maximises the likelihood of demonstrations; prompts have no loss."""

import dataclasses
import math
from typing import Literal

from rlhf_jax.data.arrays import first_fit
from rlhf_jax.errors import require
from rlhf_jax.stages import feeds
from rlhf_jax.stages.one_model import OneModelStage
from rlhf_jax.stages.stage import Need, text_shapes
from rlhf_jax.stages.supervised import likelihood_loss


@dataclasses.dataclass(frozen=True)
class SFT(OneModelStage):
    """Fine-tunes the policy of the stage `start` on demonstrations.

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
    start: str = dataclasses.field(kw_only=True)  # the stage whose policy is trained further

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

    def needs(self):
        return {"start": Need(self.start, "policy")}

    def check_shapes(self, build):
        super().check_shapes(build)
        context = build.shapes["start"].context
        allowed = f"<= the context of {self.start} = {context}"
        require(self.length <= context, "length", self.length, allowed)

    def check(self, facts):
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
        model = build.shapes["start"]
        batch, params = text_shapes(self.batch_size, self.length), self.parameters(model)
        return {"update": self.update_program(likelihood_loss(model), params, batch, steps)}

    def task(self, inputs):
        batches, params = self._batches(inputs), inputs.model("start")
        return self.training(inputs, params, batches, self.batch_size * self.length, ("loss",))

    def _batches(self, inputs):
        fraction, of = self.pretraining_fraction, self.pretraining_fraction_of
        return feeds.demonstrations(inputs, self.batch_size, self.length, self.packed, fraction, of)
