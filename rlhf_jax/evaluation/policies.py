"""What policies say to prompts, how far they are from a reference, and what it scores."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.pipeline import prompt_pass
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.ending import Ending, Response, final_scores
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import exact_kl


class Sampler:
    """Responses of policies of one shape, sampled in batches; compiled once for all of them."""

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
        compile: Callable = jax.jit,
    ):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.temperature, self.ending = sampling.temperature, ending
        self.prompt_length, self.response_length = prompt_length, response_length
        self._generate = compile(
            functools.partial(
                generate,
                model,
                sampling=sampling,
                response_length=response_length,
                ending=ending,
            )
        )
        self._kl = compile(self._response_kl)

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
            rollout = self._generate(params, batch["tokens"], batch["segments"], row_key)
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
        for batch, rollout in self.batches(params, prompts, key):
            for index, tokens, mask in zip(
                batch["index"], rollout.tokens, rollout.mask, strict=True
            ):
                if index >= 0:
                    ids = tokens[mask > 0].tolist()
                    found[index] = self.ending.response(ids, self.tokenizer)
        return found

    def _response_kl(self, params, reference, tokens, segments, mask):
        logits = [
            transformer.logits(
                self.model,
                p,
                transformer.hidden(self.model, p, tokens, segments, last=mask.shape[1] + 1)[:, :-1],
            )
            for p in (params, reference)
        ]
        return (exact_kl(*logits, self.temperature) * mask).sum(axis=1)

    def kl(self, params: Any, reference: Any, prompts: Sequence[str], key: jax.Array) -> float:
        """KL(policy || reference), nats a response: the mean over responses of the policy of the
        summed KL of each token's full distribution, both at the temperature of the sampling."""
        total, count = 0.0, 0
        for batch, rollout in self.batches(params, prompts, key):
            real = batch["index"] >= 0
            tokens = np.concatenate([batch["tokens"], rollout.tokens], axis=1)
            segments = np.concatenate([batch["segments"], rollout.mask.astype(np.int32)], axis=1)
            kl = np.asarray(self._kl(params, reference, tokens, segments, rollout.mask))
            total, count = total + float(kl[real].sum()), count + int(real.sum())
        return total / count


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
    compile: Callable = jax.jit,
) -> np.ndarray:
    """What PPO would score each sampled response, [N] float32 (`final_scores`).

    score: score_sequences(params, tokens, segments); missing: PPO's `missing_eos_score`.
    Raises UserError where prompt and response are longer than `length` tokens.
    """
    run, values = compile(score), []
    for start in range(0, len(prompts), batch_size):
        tokens = np.full((batch_size, length), tokenizer.pad_id, np.int32)
        segments = np.zeros((batch_size, length), np.int32)
        pairs = zip(prompts[start : start + batch_size], responses[start:], strict=False)
        for row, (prompt, response) in enumerate(pairs):
            ids = [tokenizer.bos_id, *tokenizer.encode(prompt), *response.ids]
            if len(ids) > length:
                raise UserError(f"prompt {start + row + 1}: {len(ids)} tokens with its response, "
                                f"must be {length} at most")  # fmt: skip
            tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
        values.append(np.asarray(run(params, jnp.array(tokens), jnp.array(segments))))
    ended = np.array([response.ended for response in responses])
    return np.asarray(final_scores(np.concatenate(values)[: len(prompts)], ended, missing))
