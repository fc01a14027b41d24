"""What a benchmark asks of a model. language_model.py answers with a model of this package; tests
answer with models made by hand."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlhf_jax.data.messages import Messages
from rlhf_jax.errors import UserError
from rlhf_jax.generation.sampling import SamplingConfig

# Text is read as it stands, behind the token that begins a text. Messages are rendered by the
# model's chat template, up to the beginning of the assistant's turn.
Prompt = str | Messages
GREEDY = SamplingConfig(temperature=0.0)


class TooLongError(UserError):
    """A text is longer than the model's context."""


class Likelihood(NamedTuple):
    """log p of a text given what stands before it.

    log_prob  sum over the text's tokens, in nats
    tokens    how many they are
    greedy    whether each of them is the likeliest at its place
    """

    log_prob: float
    tokens: int
    greedy: bool


class Answer(NamedTuple):
    """A sampled answer. ended: False where it was cut at the maximum number of tokens."""

    text: str
    tokens: int
    ended: bool


class LanguageModel(Protocol):
    """A policy. has_chat: whether it has a chat template. context: the most tokens it reads."""

    has_chat: bool
    context: int

    def likelihoods(self, requests: Sequence[tuple[Prompt, str]]) -> list[Likelihood]:
        """log p(text | prompt) of each (prompt, text). A prompt that is too long with its text
        loses its first tokens, which is counted (`cut`). Raises UserError where a text is empty,
        and TooLongError where it is longer than the context."""

    def documents(self, texts: Sequence[str]) -> list[Likelihood]:
        """log p of each whole text. A text longer than the context is read in windows that begin
        anew: every token is predicted once."""

    def answers(
        self,
        prompts: Sequence[Prompt],
        *,
        most_tokens: int,
        sampling: SamplingConfig = GREEDY,
        stops: Sequence[str] = (),
        ids: Sequence[str] | None = None,
    ) -> list[Answer]:
        """An answer to each prompt. It ends before the first of the texts `stops`.

        ids: different names of the prompts; the noise of an answer depends on its own name alone.
        None: their places. A prompt that leaves no room for `most_tokens` loses its first tokens,
        which is counted (`cut`)."""

    @property
    def cut(self) -> int:
        """The number of prompts so far that lost their first tokens."""


class Scorer(Protocol):
    """A reward model."""

    has_chat: bool
    context: int

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """The score of each whole response, [N] float64, read at its end token. A prompt that is
        too long with its response loses its first tokens, which is counted (`cut`). Raises
        TooLongError where a response is as long as the context."""

    @property
    def cut(self) -> int:
        """The number of prompts so far that lost their first tokens."""


class Judge(Protocol):
    """Answers questions about responses. identity: what determines its answers, as JSON values."""

    identity: Mapping[str, Any]

    def expect(self, prompts: Sequence[str]) -> None:
        """Tells what these questions cost at most, before the first of them is asked."""

    def answers(self, prompts: Sequence[str]) -> list[str | None]:
        """The judge's answer to each prompt; None where it gave none."""
