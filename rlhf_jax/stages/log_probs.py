"""The one log-probability of the stages: of tokens, from a model's hidden states."""

from typing import Any

import jax

from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.likelihood import chunked_over_time, token_log_probs


def log_probs_of(
    model: TransformerConfig,
    params: Any,
    states: jax.Array,
    targets: jax.Array,
    temperature: float = 1.0,
) -> jax.Array:
    """log p(target) [B, T], nats at the temperature, of hidden states [B, T, D].

    With model.logit_chunk only the logits of so many tokens a row are ever held, in the backward
    pass too: they are computed twice.
    """

    def log_probs(states, targets):
        return token_log_probs(transformer.logits(model, params, states), targets, temperature)

    if model.logit_chunk is None:
        return log_probs(states, targets)
    return chunked_over_time(log_probs, model.logit_chunk)(states, targets)
