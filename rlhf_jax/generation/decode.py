"""Prefill and decode loop with a KV cache, compiled as one program."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.errors import require
from rlhf_jax.generation import slots
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig, sample
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How a batch is decoded. All values give the same numbers up to rounding, which may draw
    another token: rarely in float32, more often in bfloat16."""

    # Rows that are decoded at once. A row that ends gives its slot to the next row of the batch,
    # so that no slot waits for the longest response. None, or as many as rows: all rows at once.
    slots: int | None = None
    # The cache of the response grows in so many equal pieces, and a step reads only the pieces that
    # are there. The loop is compiled once for each piece.
    cache_pieces: int = 1

    def __post_init__(self):
        ok = self.slots is None or self.slots > 0
        require(ok, "slots", self.slots, "positive, or None for all rows at once")
        require(self.cache_pieces > 0, "cache_pieces", self.cache_pieces, "positive")

    def sizes(self, response_length: int) -> list[int]:
        """The columns of the response's cache, in each of the loops."""
        pieces = min(self.cache_pieces, response_length)
        return [-(-response_length * (i + 1) // pieces) for i in range(pieces)]

    def turns(self, rows: int, response_length: int) -> int:
        """The most turns of each of the loops over `rows` prompts.

        With S slots it is ceil(rows / S) (R - 1): while a queue is not empty, every slot ends a
        response in R - 1 turns or fewer. R - 1: the first token is drawn from the prompt.
        """
        if self.slots is not None and self.slots < rows:
            return -(-rows // self.slots) * (response_length - 1)
        return min(response_length - 1, self.sizes(response_length)[0])

    def share(self, rows: int, all_rows: int) -> "DecodingConfig":
        """The settings of a device that has `rows` of all rows."""
        if self.slots is None:
            return self
        return dataclasses.replace(self, slots=max(1, self.slots * rows // all_rows))


TOGETHER = DecodingConfig()


class Rollout(NamedTuple):
    """Sampled responses: arrays [B, R], R the maximum length; padding after the last token."""

    tokens: jax.Array  # int32
    mask: jax.Array  # float32, 1 up to and including the last token
    log_probs: jax.Array  # float32, per sampled token; NaN where logits are NaN; 0 in padding

    @property
    def sick(self) -> jax.Array:
        """[B], true where a token of the response was drawn from logits that are not finite."""
        return ~jnp.isfinite(self.log_probs).all(axis=1)

    def with_column(self, t, token, log_prob, live, pad: int) -> "Rollout":
        """With tokens [B] in column t of the rows that are live, and padding in the others'."""
        column = lambda array, value: jax.lax.dynamic_update_slice_in_dim(
            array, value[:, None].astype(array.dtype), t, axis=1
        )
        return Rollout(
            column(self.tokens, jnp.where(live, token, pad)),
            column(self.mask, live),
            column(self.log_probs, jnp.where(live, log_prob, 0.0)),
        )


class Decoder(NamedTuple):
    """A policy that is ready to decode."""

    config: TransformerConfig
    params: transformer.Params  # of `for_decoding`
    blocks: list[transformer.Params]  # of `decoding_layers`
    sampling: SamplingConfig
    ending: Ending
    response_length: int

    def draw(self, states: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(tokens [B], their log-probabilities) after hidden states [B, 1, D]."""
        logits = transformer.logits(self.config, self.params, states)[:, 0]
        return sample(self.sampling, logits, uniform)

    def goes_on(self, token: jax.Array, column: Any) -> jax.Array:
        """Whether a response goes on after the token that was drawn at this column of it."""
        return ~self.ending.stops(token, column) & (column + 1 < self.response_length)

    def turn(self, token, drawn, lengths, prompt_columns, turn, cache, uniform):
        """(tokens [B], their log-probabilities, cache) after the token of each row.

        The response's columns of the cache are a ring: every row writes to the same one, and sees
        those of its own last tokens.

        Args:
          token: [B], the tokens that were drawn last.
          drawn: how many tokens each row has drawn, [B] or a number, at most the ring's columns.
          lengths, prompt_columns: of the prompts, tokens [B] and where they are [B, P].
          turn: the turns before this one.
        """
        prompt_length = prompt_columns.shape[1]
        ring = transformer.columns_of(cache) - prompt_length
        drawn = jnp.broadcast_to(drawn, lengths.shape)[:, None]
        # The age of a column is how many tokens its own token lies before this one.
        before = prompt_length - 1 - jnp.arange(prompt_length)[None] + drawn
        inside = jnp.broadcast_to((turn - jnp.arange(ring))[None] % ring, (len(lengths), ring))
        states, cache = transformer.decode_step(
            self.config,
            self.blocks,
            self.params,
            token,
            lengths + drawn[:, 0] - 1,
            jnp.concatenate([prompt_columns, inside < drawn], axis=1),
            jnp.concatenate([before, inside], axis=1),
            prompt_length + turn % ring,
            cache,
        )
        return *self.draw(states, uniform), cache


def row_uniforms(key: jax.Array, rows: jax.Array, length: int) -> jax.Array:
    """Uniform numbers [B, length]; each row depends only on the key and the row's number."""
    draw = lambda row: jax.random.uniform(jax.random.fold_in(key, row), (length,))
    return jax.vmap(draw)(rows)


def generate(
    config: TransformerConfig,
    params: transformer.Params,
    prompts: jax.Array,
    segments: jax.Array,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    response_length: int,
    ending: Ending,
    rows: jax.Array | None = None,
    decoding: DecodingConfig = TOGETHER,
) -> Rollout:
    """Samples a response to each left-padded prompt [B, P], until it ends or has `response_length`
    tokens.

    The noise of row b depends only on the key and the row's number rows[b] (None: b), not on how
    rows are cut into batches, over devices or into slots. The loop ends when every row has ended.
    Raises ConfigError where prompt and response do not fit the context.
    """
    batch, total = len(prompts), prompts.shape[1] + response_length
    require(total <= config.context, "context", config.context, f">= prompt + response = {total}")
    params = transformer.for_decoding(config, params)
    blocks = transformer.decoding_layers(params)
    decoder = Decoder(config, params, blocks, sampling, ending, response_length)
    rows = jnp.arange(batch) if rows is None else rows
    noise = row_uniforms(key, rows, response_length)
    few = decoding.slots is not None and decoding.slots < batch
    room = 0 if few else decoding.sizes(response_length)[0]
    states, cache = transformer.prefill(config, params, prompts, segments, room)
    token, log_prob = decoder.draw(states, noise[:, 0])
    zeros = jnp.zeros(noise.shape)
    rollout = Rollout(jnp.full(noise.shape, ending.pad, jnp.int32), zeros, zeros)
    rollout = rollout.with_column(0, token, log_prob, jnp.ones(batch, bool), ending.pad)
    decode = slots.decode if few else _together
    return decode(decoder, decoding, segments, noise, rollout, cache)


def _together(decoder: Decoder, decoding: DecodingConfig, segments, noise, rollout, cache):
    """The rollout of rows that are decoded at once, from their first tokens and prompts' cache."""
    length, pad = decoder.response_length, decoder.ending.pad
    lengths, prompt_columns = (segments > 0).sum(axis=1), segments > 0

    def step(carry):
        t, token, live, rollout, cache = carry
        uniform = jax.lax.dynamic_index_in_dim(noise, t, 1, keepdims=False)
        token, log_prob, cache = decoder.turn(
            token, t, lengths, prompt_columns, t - 1, cache, uniform
        )
        rollout = rollout.with_column(t, token, log_prob, live, pad)
        return t + 1, token, live & decoder.goes_on(token, t), rollout, cache

    token = rollout.tokens[:, 0]
    t, live = jnp.int32(1), decoder.goes_on(token, 0)
    for size in decoding.sizes(length):
        if room := segments.shape[1] + size - transformer.columns_of(cache):
            cache = transformer.longer_cache(cache, room)
        carry = t, token, live, rollout, cache
        last = min(size + 1, length)
        more = lambda carry, last=last: (carry[0] < last) & carry[2].any()
        t, token, live, rollout, cache = jax.lax.while_loop(more, step, carry)
    return rollout
