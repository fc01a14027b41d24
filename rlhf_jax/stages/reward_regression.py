"""Trains a reward model on responses with absolute scores."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal

from rlhf_jax.errors import require
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.models import score
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.lora import LoRA
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.reward_models import regression_loss
from rlhf_jax.stages import feeds
from rlhf_jax.stages.adapters import model_at_start
from rlhf_jax.stages.one_model import CutToLength
from rlhf_jax.stages.reward_model import demonstration_batches, normalise, score_sequences
from rlhf_jax.stages.stage import Need, floats, score_shapes, text_shapes


@dataclasses.dataclass(frozen=True)
class RewardRegression(CutToLength):
    """Trains a reward model on absolute scores, such as ratings from 0 to 4, by the squared error.
    It reads the data source's scored responses.

    start      the stage whose policy it starts from
    lora       the form of an adapter that is trained; None: the model is trained
    normalise  "none": its scores are on the scale of the data; "shift" and "gain_and_bias": at the
               end they are normalised on the data source's demonstrations, as those of a reward
               model that learns from rankings
    """

    ends: ClassVar = "score"
    normalise: Literal["none", "shift", "gain_and_bias"] = "none"
    start: str = dataclasses.field(kw_only=True)
    lora: LoRA | None = dataclasses.field(default=None, kw_only=True, metadata=ADDED_LATER)

    def __post_init__(self):
        super().__post_init__()
        ways = ("none", "shift", "gain_and_bias")
        require(self.normalise in ways, "normalise", self.normalise, f"one of {ways}")

    def needs(self):
        return {"start": Need(self.start, "policy")}

    def parameters(self, model):
        return score_shapes(model)

    def check_shapes(self, build):
        super().check_shapes(build)
        context = build.shapes["start"].context
        allowed = f"<= the context of {self.start} = {context}"
        require(self.length <= context, "length", self.length, allowed)

    def check(self, facts):
        found = facts.some("scored", "train", "length", self.length)
        facts.warms_up(len(found), self.epochs, self.batch_size, self.optimizer.warmup_steps)
        if self.normalise != "none":
            facts.some("demonstrations", "train", "length", self.length)

    def steps(self, examples):
        known = examples("scored")
        return known and max(1, round(self.epochs * math.ceil(known / self.batch_size)))

    def programs(self, build, steps):
        model, params = self.shape(build), self.parameters(self.shape(build))
        batch = text_shapes(self.batch_size, self.length) | {"scores": floats(self.batch_size)}
        return {"update": self.update_program(score_loss(model), params, batch, steps)}

    def task(self, inputs):
        trunk = model_at_start(inputs, "start", self.lora)
        params = score.with_score_head(trunk, inputs.key("head"))
        tokens, show = self.batch_size * self.length, ("loss", "absolute_error")
        return self.training(inputs, params, self._batches(inputs), tokens, show)

    def _batches(self, inputs):
        return feeds.scored(inputs, self.batch_size, self.length, self.bucket_count)

    def finish(self, params, inputs):
        if self.normalise == "none":
            return params
        demonstrations = demonstration_batches(inputs, self.batch_size, self.length)
        model = self.shape(inputs.build)
        return normalise(model, params, demonstrations, self.normalise, inputs.runner.evaluate)


def score_loss(model: TransformerConfig) -> Callable:
    """loss(params, batch, key): the mean of `regression_loss` over the responses of a batch of
    tokens, segments [B, T] and scores [B]; and the mean of |score - target|. A row without tokens
    does not count."""

    def loss(params, batch, key=None):
        del key
        scores = score_sequences(model, params, batch["tokens"], batch["segments"])
        there = (batch["segments"] > 0).any(-1)
        mean = WeightedMean.of(regression_loss(scores, batch["scores"]), there)
        error = WeightedMean.of(abs(scores - batch["scores"]), there)
        return mean, {"loss": mean, "absolute_error": error}

    return loss
