"""A reward model from rankings: all pairs of a prompt in one batch element."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

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
from rlhf_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """Of stages that learn from rankings. InstructGPT: 64 prompts a batch, K = 4..9 outputs each,
    one epoch.

    divide_by  what a prompt's sum over its untied pairs is divided by. "all_pairs": by C(K,2), as
               equation 1 of the paper; a prompt with ties then weighs less. "untied_pairs": by the
               number of untied pairs; every prompt weighs alike, and an untied pair weighs more
               where other pairs of its prompt tie
    """

    optimizer: OptimizerConfig
    epochs: float = 1.0
    batch_size: int = 64  # prompts
    outputs: int = 9  # of a batch element; at least the largest K
    packed: bool = False  # several rankings in a batch element
    length: int = 2048  # tokens of prompt and response; longer outputs are dropped and counted
    micro_batches: int = 1
    divide_by: DivideBy = "all_pairs"  # C(K,2), or the untied pairs

    def __post_init__(self):
        for field in ("epochs", "batch_size", "length", "micro_batches"):
            value = getattr(self, field)
            require(value > 0, field, value, "positive")
        require(self.outputs >= 2, "outputs", self.outputs, "at least 2")
        require(
            self.batch_size % self.micro_batches == 0,
            "micro_batches",
            self.micro_batches,
            f"a divisor of batch_size = {self.batch_size}",
        )
        counts = get_args(DivideBy)
        require(self.divide_by in counts, "divide_by", self.divide_by, f"one of {counts}")


@dataclasses.dataclass(frozen=True)
class RewardConfig(RankingConfig):
    """A reward model, and how its scores are moved at the end."""

    normalise: Literal["none", "shift", "gain_and_bias"] = "shift"

    def __post_init__(self):
        super().__post_init__()
        ways = ("none", "shift", "gain_and_bias")
        require(self.normalise in ways, "normalise", self.normalise, f"one of {ways}")


def score_sequences(model: TransformerConfig, params: Any, tokens, segments) -> jax.Array:
    """Score of each sequence [..., T], read at its last real token: [...]."""
    flat = lambda array: array.reshape(-1, array.shape[-1])
    states = transformer.hidden(model, params, flat(tokens), flat(segments))
    values = score.scores(params, states).reshape(tokens.shape)
    return score.at_last_token(values, segments)


def ranking_by_ranking(scores, ranks) -> tuple[jax.Array, jax.Array]:
    """Scores [B, K] and ranks [B, K], or [B, G, K] where G rankings share the outputs of an
    element: both as [N, K], a ranking a row. The outputs of other rankings have rank -1."""
    outputs = scores.shape[-1]
    ranks = ranks.reshape(scores.shape[0], -1, outputs)
    scores = jnp.broadcast_to(scores[:, None], ranks.shape)
    return scores.reshape(-1, outputs), ranks.reshape(-1, outputs)


def reward_loss(model: TransformerConfig, divide_by: DivideBy = "all_pairs") -> Callable:
    """loss(params, batch, key): the ranked loss over batch of tokens, segments [B, K, T] and
    ranks [B, K] or [B, G, K]; one forward pass an output, each prompt one example, its pairs
    divided as `objectives.reward_models.over_pairs` says (Ouyang et al., eq. 1)."""

    def loss(params, batch, key=None):
        del key
        scores = score_sequences(model, params, batch["tokens"], batch["segments"])
        ranked = ranking_by_ranking(scores, batch["ranks"])
        mean = WeightedMean.of(*ranked_loss(*ranked, divide_by=divide_by))
        correct, pairs = ranked_accuracy(*ranked)
        accuracy = WeightedMean(correct.sum(), pairs.sum())
        return mean, {"loss": mean, "accuracy": accuracy}

    return loss


def pair_counts(
    model: TransformerConfig, params: Any, batches: Iterable, compile: Callable = jax.jit
) -> tuple[Any, Any]:
    """Correctly ordered and all non-tied pairs, prompt by prompt: two [N] arrays.

    A tie between two scores counts one half.
    """

    def count(params, batch):
        scores = score_sequences(model, params, batch["tokens"], batch["segments"])
        return ranked_accuracy(*ranking_by_ranking(scores, batch["ranks"]))

    count = compile(count)
    counts = [count(params, batch) for batch in batches]
    return tuple(jnp.concatenate(part) for part in zip(*counts, strict=True))


def length_pair_counts(batches: Iterable) -> tuple[Any, Any]:
    """`pair_counts` of the baseline that holds the longer output, in tokens, for the better."""
    lengths = lambda batch: (batch["segments"] > 0).sum(-1).astype(jnp.float32)
    counts = [ranked_accuracy(*ranking_by_ranking(lengths(b), b["ranks"])) for b in batches]
    return tuple(jnp.concatenate(part) for part in zip(*counts, strict=True))


def normalise(
    model: TransformerConfig, params: Any, batches: Iterable, how: str, compile: Callable = jax.jit
) -> Any:
    """Params whose scores of `batches` (supervised batches) have mean 0, and for
    "gain_and_bias" (Ziegler et al. 2019) standard deviation 1 too. "shift" moves the bias only,
    as InstructGPT does so that demonstrations score 0 on average."""
    if how == "none":
        return params
    run = compile(lambda params, b: score_sequences(model, params, b["tokens"], b["segments"]))
    scored = [run(params, b)[(b["segments"] > 0).any(-1)] for b in batches]
    scores = jnp.concatenate(scored)
    counted = jnp.ones_like(scores)
    if how == "shift":
        return score.rescale(params, 1.0, shift_to_zero(scores, counted))
    return score.rescale(params, *gain_and_bias(scores, counted))
