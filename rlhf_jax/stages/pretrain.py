"""Pretraining on plain text, packed into full rows."""

import dataclasses
from typing import ClassVar

from rlhf_jax.errors import require
from rlhf_jax.stages import feeds
from rlhf_jax.stages.one_model import OneModelStage, new_policy
from rlhf_jax.stages.stage import text_shapes
from rlhf_jax.stages.supervised import likelihood_loss


@dataclasses.dataclass(frozen=True)
class Pretrain(OneModelStage):
    """Pretrains a model of the experiment's shape from random weights."""

    trained_to_end: ClassVar = False

    def check_shapes(self, build):
        super().check_shapes(build)
        context = build.model.context
        require(self.length <= context, "length", self.length, f"<= model.context = {context}")

    def check(self, facts):
        facts.there("text", "train")

    def steps(self, examples):
        return None  # depends on the number of tokens in the text

    def programs(self, build, steps):
        batch, params = text_shapes(self.batch_size, self.length), self.parameters(build.model)
        return {"update": self.update_program(likelihood_loss(build.model), params, batch, steps)}

    def task(self, inputs):
        batches = feeds.text(inputs, self.batch_size, self.length, "text")
        params = new_policy(inputs)
        return self.training(inputs, params, batches, self.batch_size * self.length, ("loss",))
