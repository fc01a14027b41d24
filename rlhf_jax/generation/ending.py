"""Where a response ends, whether it ended, what a reward model reads of it, and what it scores.

The one rule of sampling, PPO, training on rankings, the report and `rlhf-jax generate`.
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
    ids: tuple[int, ...]  # what a reward model reads, the end token included
    ended: bool


@dataclasses.dataclass(frozen=True)
class EndingConfig:
    """Where every policy's responses end, and what one scores that does not: in feedback, training,
    evaluation and `rlhf-jax generate` alike."""

    stop_token: str | None = None  # ends a response in place of EOS (Ziegler et al. 2019: ".")
    stop_after: int = 0  # at or after this column of the response
    missing_eos_score: float | None = -1.0  # replaces the score of a response that does not end

    def __post_init__(self):
        require(self.stop_after >= 0, "stop_after", self.stop_after, "0 or more")


@dataclasses.dataclass(frozen=True)
class Ending:
    """The ids that end and fill a response.

    Sampling stops at EOS, at `stop` at or after column `stop_after` (from 0), or at the longest
    length. A response has ended where its last token is the end token: EOS, or `stop` in its place
    where there is one (Ziegler et al. 2019). Any other response was cut. It stays cut: no end token
    is appended to it, in training, scoring or evaluation.
    """

    eos: int
    pad: int
    stop: int | None = None
    stop_after: int = 0
    missing: float | None = None  # what a response scores that was cut; None: what is read of it

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: EndingConfig) -> "Ending":
        """Raises ConfigError where the tokenizer makes not one id of config.stop_token."""
        eos, pad, missing = tokenizer.eos_id, tokenizer.pad_id, config.missing_eos_score
        if config.stop_token is None:
            return cls(eos, pad, missing=missing)
        ids, field = tokenizer.encode(config.stop_token), "ending.stop_token"
        allowed = f"one token, the tokenizer makes {len(ids)} of it"
        require(len(ids) == 1, field, config.stop_token, allowed)
        return cls(eos, pad, ids[0], config.stop_after, missing)

    @classmethod
    def planned(cls, config: EndingConfig) -> "Ending":
        """Without a tokenizer: which ids these are changes no shape."""
        stop = None if config.stop_token is None else 3
        return cls(2, 0, stop, config.stop_after, config.missing_eos_score)

    def check(self, response_length: int) -> None:
        """Raises ConfigError where responses are over before they may stop."""
        last, field = response_length - 1, "response_length"
        ok = self.stop is None or self.stop_after <= last
        require(ok, field, response_length, f"above ending.stop_after = {self.stop_after}")

    @property
    def end(self) -> int:
        """The last token of a response that ended."""
        return self.eos if self.stop is None else self.stop

    def stops(self, tokens, column):
        """Whether tokens drawn at a column of the response are its last."""
        last = tokens == self.eos
        if self.stop is not None:
            last |= (tokens == self.stop) & (column >= self.stop_after)
        return last

    def ended(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Whether each sampled response [B, R] with its mask ended: [B] bool."""
        return at_last_token(tokens, mask) == self.end

    def read(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """The mask [B, R] of what a reward model reads: no EOS where another token is the end."""
        return mask if self.stop is None else jnp.where(tokens == self.eos, 0, mask)

    def close(self, ids: Sequence[int], ended: bool) -> list[int]:
        """What a reward model reads of a response's text: its ids, and the end token after one that
        ended, unless that is there."""
        there = self.stop is not None and len(ids) > self.stop_after and ids[-1] == self.stop
        return [*ids, self.end] if ended and not there else list(ids)

    def response(self, ids: Sequence[int], tokenizer: Tokenizer) -> Response:
        """The sampled ids of one response, last token included."""
        ended = bool(ids) and ids[-1] == self.end
        read = tuple(i for i in ids if i != self.eos or self.stop is None)
        text = tokenizer.decode(read[:-1] if ended else read)
        return Response(text.replace("\0", "\ufffd"), read, ended)  # no record holds NUL

    def responses(self, tokens, mask, tokenizer: Tokenizer) -> list[Response]:
        """Each sampled response [B, R], of NumPy arrays with all of them."""
        rows = zip(tokens, mask, strict=True)
        return [self.response(row[kept > 0].tolist(), tokenizer) for row, kept in rows]


def final_scores(scores: jax.Array, ended: jax.Array, missing: float | None) -> jax.Array:
    """Scores [B] of responses: a reward model's, read at the last token of what it reads; `missing`
    (`missing_eos_score`) in its place where a response was cut, unless that is None."""
    return scores if missing is None else jnp.where(ended, scores, missing)
