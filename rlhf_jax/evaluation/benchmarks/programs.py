"""The programs that answer a benchmark: log-probabilities of texts, answers, scores."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.evaluation.benchmarks.packing import LENGTHS, rounded
from rlhf_jax.evaluation.policies import score_program
from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.likelihood import chunked_over_time, token_log_probs
from rlhf_jax.stages.stage import KEY, Program, ints, policy_shapes, prompt_shapes

TOKENS = 8192  # the most tokens of a batch
CHUNK = 32  # targets of a row whose logits exist at a time
LIKELIHOODS, ANSWERS, SCORES = "likelihoods", "answers", "scores"


def target_log_probs(
    model: TransformerConfig,
    params: Any,
    tokens: jax.Array,
    branches: jax.Array,
    positions: jax.Array,
    places: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(log p [B, R] of the targets in nats, whether each is the likeliest token [B, R]).

    tokens, branches, positions: [B, T], as `hidden_of_branches` has them. places: [B, R] columns of
    the tokens that predict the targets [B, R].
    """
    states = transformer.hidden_of_branches(model, params, tokens, branches, positions)
    states = jnp.take_along_axis(states, places[:, :, None], axis=1)

    def of(states, targets):
        logits = transformer.wide_logits(model, params, states)
        found = token_log_probs(logits, targets)
        best = token_log_probs(logits, jnp.argmax(logits, axis=-1))
        return found, found >= best

    return chunked_over_time(of, min(CHUNK, targets.shape[1]))(states, targets)


@functools.lru_cache(64)
def likelihood_program(model: TransformerConfig, rows: int, length: int, targets: int) -> Program:
    """`target_log_probs` of a batch."""
    columns = ints(rows, length)
    arguments = (policy_shapes(model), *(columns,) * 3, ints(rows, targets), ints(rows, targets))
    return Program(_likelihoods(model), arguments, whole=True)


# One function for all shapes: whoever compiles it may do so once.
@functools.lru_cache(8)
def _likelihoods(model: TransformerConfig) -> Callable:
    return functools.partial(target_log_probs, model)


def answer_program(
    model: TransformerConfig,
    sampling: SamplingConfig,
    ending: Ending,
    *,
    rows: int,
    length: int,
    most_tokens: int,
) -> Program:
    """sample(params, tokens, segments, key, numbers) -> Rollout; the noise of row b depends on
    numbers[b] alone."""
    prompts = prompt_shapes(rows, length)
    arguments = (policy_shapes(model), prompts["tokens"], prompts["segments"], KEY, ints(rows))
    function = _sampler(model, sampling, ending, most_tokens)
    return Program(function, arguments, whole=True, turns=most_tokens - 1)


@functools.lru_cache(8)
def _sampler(model, sampling, ending, most_tokens) -> Callable:
    def sample(params, tokens, segments, key, numbers):
        return generate(
            model, params, tokens, segments, key, sampling=sampling, response_length=most_tokens,
            ending=ending, rows=numbers,
        )  # fmt: skip

    return sample


@functools.lru_cache(64)
def scorer_program(model: TransformerConfig, rows: int, length: int) -> Program:
    """The scores of a batch of prompts with their responses."""
    program = score_program(model, batch_size=rows, length=length)
    return dataclasses.replace(program, function=_scores(model))


@functools.lru_cache(8)
def _scores(model: TransformerConfig) -> Callable:
    return score_program(model, batch_size=1, length=1).function


def programs_of(
    uses: Sequence[str],
    model: TransformerConfig,
    ending: Ending,
    batch_size: int,
    most_tokens: int,
    sampling: SamplingConfig,
) -> dict[str, Program]:
    """The programs that a benchmark runs on a model, each at the largest of its shapes.

    uses: of LIKELIHOODS, ANSWERS, SCORES.
    """
    length = min(rounded(model.context), LENGTHS[-1])
    rows = rows_of(length, batch_size)
    make = {
        LIKELIHOODS: lambda: likelihood_program(model, rows, length, length),
        SCORES: lambda: scorer_program(model, rows, length),
        ANSWERS: lambda: answer_program(
            model, sampling, ending, rows=rows, length=max(1, length - most_tokens),
            most_tokens=most_tokens,
        ),
    }  # fmt: skip
    return {name: make[name]() for name in uses}


def rows_of(length: int, batch_size: int) -> int:
    """The rows of a batch of this length."""
    return max(1, min(batch_size, TOKENS // length))
