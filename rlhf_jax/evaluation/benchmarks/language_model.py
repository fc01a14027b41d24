"""A model of this package as a benchmark asks it (model.py): tokens, batches, compiled programs.

Requests are sorted by length and cut into few shapes, so that few programs are compiled. Texts that
continue one prompt share its tokens in a row (`transformer.hidden_of_branches`).
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.benchmarks.model import GREEDY, Answer, Likelihood, Prompt, TooLongError
from rlhf_jax.evaluation.benchmarks.packing import Piece, Row, filled, packed, rounded
from rlhf_jax.evaluation.benchmarks.programs import (
    ANSWERS,
    LIKELIHOODS,
    SCORES,
    answer_program,
    likelihood_program,
    rows_of,
    scorer_program,
)
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.randomness import random_key
from rlhf_jax.stages.stage import Program

Compile = Callable[[str, Program], Callable]


class Texts:
    """Prompts and texts as ids. chat: the tokenizer with the chat template; None: there is none.
    begins: whether bos begins a plain text."""

    def __init__(self, tokenizer: Tokenizer, chat: Tokenizer | None, begins: bool):
        self.tokenizer, self.chat, self.begins = tokenizer, chat, begins
        self.prompt_ids = functools.lru_cache(1024)(self._prompt_ids)
        self.cut = 0

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            whole = self.tokenizer.document_ids(prompt)[:-1]
            return tuple(whole if self.begins or not whole[1:] else whole[1:])
        if self.chat is None:
            raise UserError("the model has no chat template for a prompt of messages")
        return tuple(self.chat.prompt_ids(self.chat.chat.prompt(prompt)))

    def ids(self, text: str) -> list[int]:
        """Of a text that continues a prompt."""
        return self.tokenizer.encode(text)

    def fitting(self, ids: tuple[int, ...], room: int) -> tuple[int, ...]:
        """The last ids of a prompt, at most `room`; counts a prompt that loses some."""
        self.cut += len(ids) > room
        return ids[-room:]


class _Model:
    """What a policy and a reward model have in common."""

    def __init__(
        self,
        shape: TransformerConfig,
        params: Any,
        texts: Texts,
        ending: Ending,
        compile: Compile,
        batch_size: int,
    ):
        self._shape, self._params, self._texts = shape, params, texts
        self._ending, self._compile, self._batch_size = ending, compile, batch_size
        self.context, self.has_chat = shape.context, texts.chat is not None

    @property
    def cut(self) -> int:
        return self._texts.cut

    def _by_length(
        self, read: Sequence[Sequence[int]], answer: int = 0
    ) -> Iterator[list["_Sized"]]:
        """The places of sequences of ids as batches of one rounded length each. answer: tokens that
        follow each."""
        order = sorted(range(len(read)), key=lambda i: (len(read[i]), i))
        return batches([_Sized(i, len(read[i])) for i in order], self._batch_size, answer)


class Policy(_Model):
    """`model.LanguageModel` of parameters."""

    def likelihoods(self, requests: Sequence[tuple[Prompt, str]]) -> list[Likelihood]:
        pieces = [self._piece(i, *request) for i, request in enumerate(requests)]
        return self._measured(pieces, len(requests))

    def _piece(self, number: int, prompt: Prompt, text: str) -> Piece:
        ids = tuple(self._texts.ids(text))
        where = f"the text {text!r:.40}"
        if not ids:
            raise UserError(f"{where} has no token")
        if len(ids) > self.context:
            raise TooLongError(f"{where} has {len(ids)} tokens: must be 1 to {self.context}")
        room = self.context - len(ids) + 1  # the last token is predicted, not read
        return Piece(number, self._texts.fitting(self._texts.prompt_ids(prompt), room), ids)

    def documents(self, texts: Sequence[str]) -> list[Likelihood]:
        pieces, size = [], self.context
        for number, text in enumerate(texts):
            first, *ids = self._texts.tokenizer.document_ids(text)[:-1]
            if not ids:
                raise UserError(f"text {number + 1} has no token")
            before = [first, *ids]
            pieces += [
                Piece(number, (before[start],), tuple(ids[start : start + size]))
                for start in range(0, len(ids), size)
            ]
        return self._measured(pieces, len(texts))

    def _measured(self, pieces: Sequence[Piece], count: int) -> list[Likelihood]:
        totals, tokens, greedy = np.zeros(count), np.zeros(count, int), np.ones(count, bool)
        for rows in batches(packed(pieces, self.context), self._batch_size):
            length = rounded(max(len(row.tokens) for row in rows))
            targets = rounded(max(len(row.targets) for row in rows))
            shape = rows_of(length, self._batch_size), length, targets
            run = self._compile(LIKELIHOODS, likelihood_program(self._shape, *shape))
            arrays = filled(rows, *shape, self._ending.pad)
            log_probs, best = (np.asarray(x) for x in run(self._params, *arrays))
            for row, values, firsts in zip(rows, log_probs, best, strict=False):
                for number, span in row.spans:
                    found = values[span].astype(np.float64)
                    totals[number] += found.sum()
                    tokens[number] += len(found)
                    greedy[number] &= firsts[span].all()
        if not np.isfinite(totals).all():
            raise UserError("the policy's log-probabilities are not finite: it is damaged")
        found = zip(totals.tolist(), tokens.tolist(), greedy.tolist(), strict=True)
        return [Likelihood(*each) for each in found]

    def answers(
        self,
        prompts: Sequence[Prompt],
        *,
        most_tokens: int,
        sampling: SamplingConfig = GREEDY,
        stops: Sequence[str] = (),
        ids: Sequence[str] | None = None,
    ) -> list[Answer]:
        room = self.context - most_tokens
        require(room > 0, "most_tokens", most_tokens, f"below the model's context {self.context}")
        names = [str(i) for i in range(len(prompts))] if ids is None else ids
        read = [self._texts.fitting(self._texts.prompt_ids(prompt), room) for prompt in prompts]
        key, found = random_key(0, "benchmark/answers"), [Answer("", 0, False)] * len(prompts)
        ending = self._ending
        if any(not isinstance(prompt, str) for prompt in prompts):
            ending = dataclasses.replace(ending, eos=self._texts.chat.eos_id)
        for places in self._by_length(read, most_tokens):
            length = min(room, rounded(places[-1].length))
            rows = rows_of(length + most_tokens, self._batch_size)
            program = answer_program(
                self._shape, sampling, ending, rows=rows, length=length,
                most_tokens=most_tokens,
            )  # fmt: skip
            tokens = np.full((rows, length), self._ending.pad, np.int32)
            segments, numbers = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
            tokens[:, -1], segments[:, -1] = self._texts.tokenizer.bos_id, 1
            for row, (place, size) in enumerate(places):
                tokens[row, length - size :], segments[row, length - size :] = read[place], 1
                numbers[row] = number_of(names[place])
            run = self._compile(ANSWERS, program)
            rollout = jax.device_get(run(self._params, tokens, segments, key, numbers))
            if np.asarray(rollout.sick)[: len(places)].any():
                raise UserError("answers were drawn from logits that are not finite: the policy is "
                                "damaged")  # fmt: skip
            for row, (place, _) in enumerate(places):
                sampled = rollout.tokens[row][rollout.mask[row] > 0].tolist()
                response = ending.response(sampled, self._texts.tokenizer)
                found[place] = cut_before(stops, Answer(response.text, len(sampled),
                                                        response.ended))  # fmt: skip
        return found


class RewardModel(_Model):
    """`model.Scorer` of parameters."""

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        read = []
        for prompt, response in zip(prompts, responses, strict=True):
            own = self._ending.close(self._texts.ids(response), True)
            if len(own) >= self.context:
                raise TooLongError(f"the response {response!r:.40} has {len(own)} tokens: must be "
                                f"below the model's context {self.context}")  # fmt: skip
            before = self._texts.fitting(self._texts.prompt_ids(prompt), self.context - len(own))
            read.append([*before, *own])
        found = np.full(len(read), np.nan)
        for places in self._by_length(read):
            length = min(self.context, rounded(places[-1].length))
            rows = rows_of(length, self._batch_size)
            tokens = np.full((rows, length), self._ending.pad, np.int32)
            segments = np.zeros((rows, length), np.int32)
            for row, (place, size) in enumerate(places):
                tokens[row, :size], segments[row, :size] = read[place], 1
            run = self._compile(SCORES, scorer_program(self._shape, rows, length))
            values = np.asarray(run(self._params, tokens, segments))
            for row, (place, _) in enumerate(places):
                found[place] = values[row]
        if not np.isfinite(found).all():
            raise UserError("the reward model's scores are not finite: it is damaged")
        return found


class _Sized(NamedTuple):
    """A request: its place, and its number of tokens."""

    place: int
    length: int

    @property
    def tokens(self) -> range:
        return range(self.length)


def batches(rows: Sequence[Row | _Sized], batch_size: int, answer: int = 0) -> Iterator[list]:
    """The rows, sorted by length, as batches of one rounded length each. answer: tokens that follow
    each row."""
    some: list = []
    for row in rows:
        length = rounded(len(row.tokens))
        if some and (len(some) >= rows_of(length + answer, batch_size)
                     or rounded(len(some[0].tokens)) != length):  # fmt: skip
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def number_of(name: str) -> int:
    """A number in [0, 2^31) of a name, the same in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def cut_before(stops: Sequence[str], answer: Answer) -> Answer:
    """The answer up to the first of the texts `stops`."""
    places = [place for stop in stops if (place := answer.text.find(stop)) >= 0]
    return answer._replace(text=answer.text[: min(places)], ended=True) if places else answer
