"""Prefill and decode loop with a KV cache, compiled as one program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig, sample
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig


class Rollout(NamedTuple):
    """Sampled responses: arrays [B, R], R the maximum length; padding after the last token."""

    tokens: jax.Array  # int32
    mask: jax.Array  # float32, 1 up to and including the last token
    log_probs: jax.Array  # float32, per sampled token; NaN where logits are NaN; 0 in padding

    @property
    def sick(self) -> jax.Array:
        """[B], true where a token of the response was drawn from logits that are not finite."""
        return ~jnp.isfinite(self.log_probs).all(axis=1)


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
) -> Rollout:
    """Samples a response to each left-padded prompt [B, P], until it ends or has `response_length`
    tokens.

    The noise of row b depends only on the key and the row's number rows[b] (None: b), not on how
    rows are cut into batches or over devices. The loop ends when every row has ended.
    Raises ConfigError where prompt and response do not fit the context.
    """
    params = transformer.for_decoding(config, params)
    blocks = transformer.decoding_layers(params)
    batch, prompt_length = prompts.shape
    rows = jnp.arange(batch) if rows is None else rows
    noise = row_uniforms(key, rows, response_length)
    lengths = (segments > 0).sum(axis=1)
    prompt_columns = jnp.pad(segments > 0, ((0, 0), (0, response_length)))
    columns = jnp.arange(prompt_length + response_length)[None]

    def draw(states, t):
        logits = transformer.logits(config, params, states)[:, 0]
        return sample(sampling, logits, jax.lax.dynamic_index_in_dim(noise, t, 1, keepdims=False))

    def write(rollout, t, token, log_prob, live):
        column = lambda array, value: jax.lax.dynamic_update_slice_in_dim(
            array, value[:, None].astype(array.dtype), t, axis=1
        )
        return Rollout(
            column(rollout.tokens, jnp.where(live, token, ending.pad)),
            column(rollout.mask, live),
            column(rollout.log_probs, jnp.where(live, log_prob, 0.0)),
        )

    def step(carry):
        t, token, live, rollout, cache = carry
        column = prompt_length + t - 1  # the cache's column of the token that was drawn last
        visible = prompt_columns | ((columns >= prompt_length) & (columns <= column))
        states, cache = transformer.decode_step(
            config, blocks, params, token, lengths + t - 1, visible, column, cache
        )
        token, log_prob = draw(states, t)
        rollout = write(rollout, t, token, log_prob, live)
        return t + 1, token, live & ~ending.stops(token, t), rollout, cache

    shape = (batch, response_length)
    empty = Rollout(jnp.full(shape, ending.pad, jnp.int32), jnp.zeros(shape), jnp.zeros(shape))
    states, cache = transformer.prefill(config, params, prompts, segments, response_length)
    token, log_prob = draw(states, 0)
    everyone = jnp.ones(batch, bool)
    rollout = write(empty, 0, token, log_prob, everyone)
    carry = (jnp.int32(1), token, ~ending.stops(token, 0), rollout, cache)
    more = lambda carry: (carry[0] < response_length) & carry[2].any()
    return jax.lax.while_loop(more, step, carry)[3]
