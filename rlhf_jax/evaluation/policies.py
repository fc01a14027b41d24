"""Samples responses of policies, measures their KL to a reference, and scores them."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.pipeline import prompt_pass
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.generation.decode import TOGETHER, DecodingConfig, generate
from rlhf_jax.generation.ending import Ending, Response, final_scores
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import exact_kl
from rlhf_jax.stages.reward_model import score_sequences
from rlhf_jax.stages.stage import (
    KEY,
    Program,
    floats,
    ints,
    policy_shapes,
    prompt_shapes,
    score_shapes,
)

ROOM = 32  # tokens: lengths are rounded up to a multiple of it, so that few programs are compiled


def rounded_up(length: int, most: int) -> int:
    """A length of tokens, rounded up to a multiple of ROOM, at most `most`."""
    return min(most, -(-max(length, 1) // ROOM) * ROOM)


def sampling_program(
    model: TransformerConfig,
    sampling: SamplingConfig,
    ending: Ending,
    *,
    prompt_length: int,
    response_length: int,
    batch_size: int,
    decoding: DecodingConfig = TOGETHER,
) -> Program:
    """sample(params, tokens, segments, key) -> Rollout, for a batch of prompts."""
    function = functools.partial(
        generate,
        model,
        sampling=sampling,
        response_length=response_length,
        ending=ending,
        decoding=decoding,
    )
    prompts = prompt_shapes(batch_size, prompt_length)
    arguments = (policy_shapes(model), prompts["tokens"], prompts["segments"], KEY)
    turns = decoding.turns(batch_size, response_length)
    return Program(function, arguments, whole=True, turns=turns)


def kl_program(
    model: TransformerConfig,
    reference: TransformerConfig,
    temperature: float,
    *,
    prompt_length: int,
    response_length: int,
    batch_size: int,
) -> Program:
    """kl(params, reference params, tokens, segments, mask): `response_kl` of a batch."""
    tokens = ints(batch_size, prompt_length + response_length)
    mask = floats(batch_size, response_length)
    function = functools.partial(response_kl, model, reference, temperature)
    policies = policy_shapes(model), policy_shapes(reference)
    return Program(function, (*policies, tokens, tokens, mask), whole=True)


def score_program(model: TransformerConfig, *, batch_size: int, length: int) -> Program:
    """score(params, tokens, segments) -> scores [B] of sequences [B, T], T = length."""
    rows = ints(batch_size, length)
    function = functools.partial(score_sequences, model)
    return Program(function, (score_shapes(model), rows, rows), whole=True)


def response_kl(model, reference, temperature, params, reference_params, tokens, segments, mask):
    """KL(policy || reference) of each response, [B] in nats: the sum over its tokens of the KL of
    the full distributions at the temperature.

    tokens, segments: [B, P + R]; mask: [B, R] of the response.
    """
    logits = [
        transformer.logits(
            shape,
            p,
            transformer.hidden(shape, p, tokens, segments, last=mask.shape[1] + 1)[:, :-1],
        )
        for shape, p in ((model, params), (reference, reference_params))
    ]
    return (exact_kl(*logits, temperature) * mask).sum(axis=1)


class Sampler:
    """Samples responses of policies of one shape in batches of prompts; compiles only once.

    sample, kl: the programs above, compiled; None: compiles them for the first device.
    """

    def __init__(
        self,
        model: TransformerConfig,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        ending: Ending,
        *,
        prompt_length: int,
        response_length: int,
        batch_size: int,
        decoding: DecodingConfig = TOGETHER,
        sample: Callable | None = None,
        kl: Callable | None = None,
    ):
        self.tokenizer, self.ending = tokenizer, ending
        self.prompt_length, self.batch_size = prompt_length, batch_size
        shape = {
            "prompt_length": prompt_length,
            "response_length": response_length,
            "batch_size": batch_size,
        }
        here = lambda program: jax.jit(program.function)
        sampling_of = functools.partial(sampling_program, decoding=decoding, **shape)
        self._sample = sample or here(sampling_of(model, sampling, ending))
        self._kl = kl or here(kl_program(model, model, sampling.temperature, **shape))

    def batches(self, params: Any, prompts: Sequence[str], key: jax.Array) -> Iterable:
        """(prompt batch, rollout) for all prompts in order, as arrays on the host.

        Raises UserError where every prompt is longer than prompt_length, or where the policy's
        logits are not finite.
        """
        passes = prompt_pass(
            prompts, self.tokenizer, batch_size=self.batch_size, length=self.prompt_length
        )
        for number, batch in enumerate(passes):
            row_key = jax.random.fold_in(key, number)
            rollout = self._sample(params, batch["tokens"], batch["segments"], row_key)
            rollout = jax.device_get(rollout)
            real = batch["index"] >= 0
            if sick := int(np.asarray(rollout.sick)[real].sum()):
                raise UserError(f"{sick} of {real.sum()} responses were drawn from logits that are "
                                "not finite: the policy is damaged")  # fmt: skip
            yield batch, rollout

    def responses(
        self, params: Any, prompts: Sequence[str], key: jax.Array
    ) -> list[Response | None]:
        """One response to each prompt; None where the prompt is longer than prompt_length."""
        found: list[Response | None] = [None] * len(prompts)
        for place, ids, _ in self.each(params, prompts, key):
            found[place] = self.ending.response(ids, self.tokenizer)
        return found

    def each(
        self, params: Any, prompts: Sequence[str], key: jax.Array
    ) -> Iterator[tuple[int, list[int], np.ndarray]]:
        """(place, sampled ids, their log-probabilities) of each prompt in order, batch by batch; a
        prompt that is longer than prompt_length has none.

        The log-probabilities [R] are the sampler's: nats, at its temperature.
        """
        for batch, rollout in self.batches(params, prompts, key):
            rows = zip(batch["index"], *rollout, strict=True)
            for place, tokens, mask, log_probs in rows:
                if place >= 0:
                    yield int(place), tokens[mask > 0].tolist(), log_probs[mask > 0]

    def kl(self, params: Any, reference: Any, prompts: Sequence[str], key: jax.Array) -> np.ndarray:
        """`response_kl` of one response of the policy to each prompt: [N]; NaN where the prompt is
        longer than prompt_length."""
        found = np.full(len(prompts), np.nan)
        for batch, rollout in self.batches(params, prompts, key):
            tokens = np.concatenate([batch["tokens"], rollout.tokens], axis=1)
            segments = np.concatenate([batch["segments"], rollout.mask.astype(np.int32)], axis=1)
            kl = np.asarray(self._kl(params, reference, tokens, segments, rollout.mask))
            real = batch["index"] >= 0
            found[batch["index"][real]] = kl[real]
        return found


def score_responses(
    score: Callable,
    params: Any,
    prompts: Sequence[str],
    responses: Sequence[Response],
    tokenizer: Tokenizer,
    *,
    missing: float | None,
    batch_size: int,
    length: int,
) -> np.ndarray:
    """The score of each sampled response as in PPO (`final_scores`): [N] float32.

    score: the compiled score_sequences(params, tokens, segments). missing: `Ending.missing`.
    Raises UserError where prompt and response are longer than `length` tokens.
    """
    sequences = [
        [*tokenizer.prompt_ids(prompt), *response.ids]
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    for number, ids in enumerate(sequences, 1):
        if len(ids) > length:
            raise UserError(f"prompt {number}: {len(ids)} tokens with its response, must be "
                            f"{length} at most")  # fmt: skip
    scores = score_ids(
        score, params, sequences, tokenizer.pad_id, batch_size=batch_size, length=length
    )
    ended = np.array([response.ended for response in responses])
    return np.asarray(final_scores(scores, ended, missing))


def score_ids(
    score: Callable,
    params: Any,
    sequences: Sequence[Sequence[int]],
    pad: int,
    *,
    batch_size: int,
    length: int,
) -> np.ndarray:
    """Scores [N] of N sequences of at most `length` ids, read at the last one, batch by batch.

    score: score_sequences(params, tokens, segments), compiled.
    """
    values = [np.zeros(0, np.float32)]
    for start in range(0, len(sequences), batch_size):
        tokens = np.full((batch_size, length), pad, np.int32)
        segments = np.zeros((batch_size, length), np.int32)
        for row, ids in enumerate(sequences[start : start + batch_size]):
            tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
        values.append(np.asarray(score(params, jnp.array(tokens), jnp.array(segments))))
    return np.concatenate(values)[: len(sequences)]
