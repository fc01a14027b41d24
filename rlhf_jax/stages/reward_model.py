"""Trains a reward model on rankings; all pairs of a prompt are in one batch element."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data import pipeline
from rlhf_jax.data.arrays import told
from rlhf_jax.errors import require
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.reward_models import (
    DivideBy,
    gain_and_bias,
    ranked_accuracy,
    ranked_loss,
    shift_to_zero,
)
from rlhf_jax.stages import outputs
from rlhf_jax.stages.adapters import model_at_start
from rlhf_jax.stages.rankings import RankingStage
from rlhf_jax.stages.stage import Inputs, score_shapes


@dataclasses.dataclass(frozen=True)
class RewardModel(RankingStage):
    """Trains a reward model, which gives a response a scalar score, on rankings.

    normalise  how the scores of the data source's demonstrations are normalised at the end.
               "shift": to mean 0, as in InstructGPT; "gain_and_bias": to mean 0 and standard
               deviation 1, before training too (Ziegler et al. 2019)
    """

    ends: ClassVar = "score"
    normalise: Literal["none", "shift", "gain_and_bias"] = "shift"

    def __post_init__(self):
        super().__post_init__()
        ways = ("none", "shift", "gain_and_bias")
        require(self.normalise in ways, "normalise", self.normalise, f"one of {ways}")

    def parameters(self, model):
        return score_shapes(model)

    def check(self, facts):
        super().check(facts)
        if self.normalise != "none":
            facts.some("demonstrations", "train", "length", self.length)

    def programs(self, build, steps):
        model = self.shape(build)
        params = self.parameters(model)
        row_length = self.row_length(build)
        loss = reward_loss(model, self.divide_by, row_length is not None)
        update = self.update_program(loss, params, self.batch_shapes(row_length), steps)
        return {"update": update}

    def task(self, inputs):
        trunk = model_at_start(inputs, "start", self.lora)
        params = score.with_score_head(trunk, inputs.key("head"))
        if self.normalise == "gain_and_bias":  # before training too (Ziegler et al. 2019)
            params = self.finish(params, inputs)
        batches = self._batches(inputs)
        return self.training(inputs, params, batches, self.tokens_per_step, ("loss", "accuracy"))

    def finish(self, params, inputs):
        if self.normalise == "none":
            return params
        demonstrations = demonstration_batches(inputs, self.batch_size, self.length)
        model = self.shape(inputs.build)
        return normalise(model, params, demonstrations, self.normalise, inputs.runner.evaluate)


def demonstration_batches(inputs: Inputs, batch_size: int, length: int) -> Iterable:
    """The data source's demonstrations, once, for `normalise`; says how many are left out."""
    found = pipeline.supervised_pass(
        inputs.records("demonstrations", "train"),
        inputs.tokenizer,
        batch_size=batch_size,
        length=length,
        close=inputs.build.ending.close,
    )
    if found.dropped:
        about = f"demonstrations: {told(found.dropped)} (length = {length})"
        print(f"{inputs.build.name}: {about}")
    return found


def score_sequences(model: TransformerConfig, params: Any, tokens, segments) -> jax.Array:
    """The score of each sequence [..., T], at its last token that is not padding: [...]."""
    return score.at_last_token(_values(model, params, tokens, segments, False), segments)


def _values(model: TransformerConfig, params: Any, tokens, segments, packed: bool) -> jax.Array:
    """The scalar head at each token of rows [..., T]."""
    flat = lambda array: array.reshape(-1, array.shape[-1])
    states = transformer.hidden(model, params, flat(tokens), flat(segments), packed=packed)
    return score.scores(params, states).reshape(tokens.shape)


def ranking_by_ranking(scores, ranks) -> tuple[jax.Array, jax.Array]:
    """(scores, ranks), both [N, K], one ranking per row.

    scores: [B, K]. ranks: [B, K], or [B, G, K] where G rankings share the outputs of an element:
    the outputs of other rankings then have rank -1."""
    outputs = scores.shape[-1]
    ranks = ranks.reshape(scores.shape[0], -1, outputs)
    scores = jnp.broadcast_to(scores[:, None], ranks.shape)
    return scores.reshape(-1, outputs), ranks.reshape(-1, outputs)


def reward_loss(
    model: TransformerConfig, divide_by: DivideBy = "all_pairs", share_rows: bool = False
) -> Callable:
    """loss(params, batch, key): `ranked_loss` of a batch of tokens, segments [B, M, T] and ranks
    [B, K] or [B, G, K] (Ouyang et al., eq. 1). Each output takes one forward pass; each prompt is
    one example. divide_by: as in `objectives.reward_models.over_pairs`. share_rows: whether several
    outputs may lie in a row, which excludes the fused attention kernel."""

    def loss(params, batch, key=None):
        del key
        segments, count = batch["segments"], batch["ranks"].shape[-1]
        values = _values(model, params, batch["tokens"], segments, share_rows)
        scores = outputs.at_last(values, segments, count)
        ranked = ranking_by_ranking(scores, batch["ranks"])
        mean = WeightedMean.of(*ranked_loss(*ranked, divide_by=divide_by))
        correct, pairs = ranked_accuracy(*ranked)
        accuracy = WeightedMean(correct.sum(), pairs.sum())
        return mean, {"loss": mean, "accuracy": accuracy}

    return loss


def length_pair_counts(batches: Iterable) -> tuple[Any, Any]:
    """(untied pairs that preferring the output with more tokens orders correctly, all untied pairs)
    of each ranking, both [N]. Two equal lengths count one half."""

    def lengths(batch):
        segments = batch["segments"]
        return outputs.sums(np.ones(segments.shape, np.float32), segments, batch["ranks"].shape[-1])

    counts = [ranked_accuracy(*ranking_by_ranking(lengths(b), b["ranks"])) for b in batches]
    return tuple(jnp.concatenate(part) for part in zip(*counts, strict=True))


def normalise(
    model: TransformerConfig, params: Any, batches: Iterable, how: str, compile: Callable = jax.jit
) -> Any:
    """The parameters, with the head rescaled by the scores of `batches` (supervised batches).

    how: "shift" changes the bias so that the mean is 0, as in InstructGPT; "gain_and_bias" also
    makes the standard deviation 1 (Ziegler et al. 2019); "none" changes nothing."""
    if how == "none":
        return params
    run = compile(lambda params, b: score_sequences(model, params, b["tokens"], b["segments"]))
    scored = [run(params, b)[(b["segments"] > 0).any(-1)] for b in batches]
    scores = jnp.concatenate(scored)
    counted = jnp.ones_like(scores)
    if how == "shift":
        return score.rescale(params, 1.0, shift_to_zero(scores, counted))
    return score.rescale(params, *gain_and_bias(scores, counted))
