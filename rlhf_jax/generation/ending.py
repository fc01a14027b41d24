"""When a response ends, which of its tokens a reward model reads, and how a cut response scores.

Sampling, PPO, training on rankings, the report and `rlhf-jax generate` all use these rules.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import require
from rlhf_jax.models.score import at_last_token


class Response(NamedTuple):
    """A sampled response."""

    text: str  # without the end token
    ids: tuple[int, ...]  # the tokens that a reward model reads, the end token included
    ended: bool  # whether it ended before the length limit


@dataclasses.dataclass(frozen=True)
class EndingConfig:
    """When a response ends, and the score of a response that does not: in feedback, training,
    evaluation and `rlhf-jax generate`."""

    stop_token: str | None = None  # ends a response in place of EOS (Ziegler et al. 2019: ".")
    stop_after: int = 0  # first column of the response, from 0, where stop_token ends it
    # The score of a response that does not end; None: the reward model's score.
    missing_eos_score: float | None = -1.0

    def __post_init__(self):
        require(self.stop_after >= 0, "stop_after", self.stop_after, "0 or more")


@dataclasses.dataclass(frozen=True)
class Ending:
    """The ids that end and pad a response.

    Sampling stops at EOS, at `stop` at or after column `stop_after` (from 0), or at the length
    limit. The end token is `stop` if there is one (Ziegler et al. 2019), else EOS. A response has
    ended if its last token is the end token. Any other response was cut: no end token is appended
    to it, in training, scoring or evaluation.
    """

    eos: int
    pad: int
    stop: int | None = None
    stop_after: int = 0
    missing: float | None = None  # the score of a cut response; None: the reward model's score

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: EndingConfig) -> "Ending":
        """Raises ConfigError where config.stop_token is not exactly one token."""
        eos, pad, missing = tokenizer.eos_id, tokenizer.pad_id, config.missing_eos_score
        if config.stop_token is None:
            return cls(eos, pad, missing=missing)
        ids, field = tokenizer.encode(config.stop_token), "ending.stop_token"
        allowed = f"one token, the tokenizer makes {len(ids)} of it"
        require(len(ids) == 1, field, config.stop_token, allowed)
        return cls(eos, pad, ids[0], config.stop_after, missing)

    @classmethod
    def planned(cls, config: EndingConfig) -> "Ending":
        """For `rlhf-jax plan`, without a tokenizer; the ids are arbitrary and change no shape."""
        stop = None if config.stop_token is None else 3
        return cls(2, 0, stop, config.stop_after, config.missing_eos_score)

    def check(self, response_length: int) -> None:
        """Raises ConfigError where `stop_after` is beyond the longest response."""
        last, field = response_length - 1, "response_length"
        ok = self.stop is None or self.stop_after <= last
        require(ok, field, response_length, f"above ending.stop_after = {self.stop_after}")

    @property
    def end(self) -> int:
        """The last token of a response that ended."""
        return self.eos if self.stop is None else self.stop

    def stops(self, tokens, column):
        """Whether a token drawn at this column ends its response."""
        last = tokens == self.eos
        if self.stop is not None:
            last |= (tokens == self.stop) & (column >= self.stop_after)
        return last

    def ended(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Whether each sampled response [B, R] has ended: [B] bool."""
        return at_last_token(tokens, mask) == self.end

    def read(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """The mask [B, R] of tokens that a reward model reads: without EOS if `stop` is set."""
        return mask if self.stop is None else jnp.where(tokens == self.eos, 0, mask)

    def read_ids(self, ids: Sequence[int]) -> tuple[int, ...]:
        """`read` for the ids of one response."""
        return tuple(i for i in ids if i != self.eos or self.stop is None)

    def close(self, ids: Sequence[int], ended: bool) -> list[int]:
        """The tokens that a reward model reads of a response given as text: its ids, plus the end
        token if the response ended and the token is not there yet."""
        there = self.stop is not None and len(ids) > self.stop_after and ids[-1] == self.stop
        return [*ids, self.end] if ended and not there else list(ids)

    def response(self, ids: Sequence[int], tokenizer: Tokenizer) -> Response:
        """The `Response` of sampled ids, which include the last token. Ids that the tokenizer does
        not have (a model may have more tokens) have no text."""
        ended = bool(ids) and ids[-1] == self.end
        read = self.read_ids(ids)
        shown = read[:-1] if ended else read
        text = tokenizer.decode([i for i in shown if i < tokenizer.vocab_size])
        return Response(text.replace("\0", "\ufffd"), read, ended)  # records must not hold NUL

    def responses(self, tokens, mask, tokenizer: Tokenizer) -> list[Response]:
        """The `Response` of each row of tokens and mask, NumPy arrays [B, R]."""
        rows = zip(tokens, mask, strict=True)
        return [self.response(row[kept > 0].tolist(), tokenizer) for row, kept in rows]


def final_scores(scores: jax.Array, ended: jax.Array, missing: float | None) -> jax.Array:
    """Scores [B] of responses: the reward model's `scores`, with `missing` (`missing_eos_score`) in
    place of the scores of cut responses, unless it is None."""
    return scores if missing is None else jnp.where(ended, scores, missing)
