"""Log-probabilities of tokens, the maximum-likelihood loss, and the update of a stage that trains
one model."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.data.batches import Pass
from rlhf_jax.models import parts, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.likelihood import chunked_over_time, entropy, token_log_probs
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.parallel.runner import Compile, one_device
from rlhf_jax.training.gradients import accumulate_gradients, all_finite, keep_if, means
from rlhf_jax.training.optimizer import (
    OptimizerConfig,
    applied_updates,
    learning_rate_at,
    make_optimizer,
)

Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that changes from step to step in a stage that trains one model."""

    step: jax.Array
    params: Any  # the trained parameters
    opt_state: Any
    key: jax.Array


def initial_state(params: Any, optimizer: optax.GradientTransformation, key) -> TrainState:
    """The state before the first step. params: the trained parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def log_probs_of(
    model: TransformerConfig,
    params: Any,
    states: jax.Array,
    targets: jax.Array,
    temperature: float = 1.0,
) -> jax.Array:
    """log p(target) [B, T] in nats, at the temperature, from hidden states [B, T, D].

    With model.logit_chunk, logits exist for so many tokens per row at a time. The backward pass
    computes them again.
    """

    def log_probs(states, targets):
        return token_log_probs(transformer.wide_logits(model, params, states), targets, temperature)

    if model.logit_chunk is None:
        return log_probs(states, targets)
    return chunked_over_time(log_probs, model.logit_chunk)(states, targets)


def log_probs_and_entropy_of(
    model: TransformerConfig,
    params: Any,
    states: jax.Array,
    targets: jax.Array,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """`log_probs_of`, and the entropy of each token's distribution in nats, at the temperature."""

    def both(states, targets):
        logits = transformer.wide_logits(model, params, states)
        return token_log_probs(logits, targets, temperature), entropy(logits, temperature)

    if model.logit_chunk is None:
        return both(states, targets)
    return chunked_over_time(both, model.logit_chunk)(states, targets)


def likelihood_loss(model: TransformerConfig, packed: bool = True) -> Callable:
    """loss(params, batch, key): the mean of -log p(token t | tokens before t), by the weights.

    batch: tokens, segments, weights [B, T]; the weight at t is that of predicting token t. A key
    turns dropout on if the model has any. packed: whether a row may hold several segments.
    """

    def loss(params, batch: Batch, key=None):
        mean = WeightedMean.of(
            token_losses(model, params, batch, key, packed), batch["weights"][:, 1:]
        )
        return mean, {"loss": mean}

    return loss


def token_losses(
    model: TransformerConfig, params: Any, batch: Batch, key=None, packed: bool = True
) -> jax.Array:
    """-log p of every token except the first: [B, T - 1]."""
    dropout_key = key if model.dropout > 0 else None
    states = transformer.hidden(
        model, params, batch["tokens"], batch["segments"], dropout_key=dropout_key, packed=packed
    )
    return -log_probs_of(model, params, states[:, :-1], batch["tokens"][:, 1:])


class HowToUpdate(Protocol):
    """The fields of a stage's config that an update reads."""

    optimizer: OptimizerConfig
    micro_batches: int


def make_update(
    loss: Callable, config: HowToUpdate, total_steps: int, compile: Compile = one_device
) -> tuple[Callable, Any]:
    """The compiled `update(state, batch, fixed) -> (state, metrics)` of a loss, and its optimizer.

    fixed: the parameters that are not trained (models/parts.py). The loss reads all parameters; the
    gradient is with respect to the state's trained parameters. The state is donated. If the loss or
    gradient is not finite, or the batch has weight 0, parameters and optimizer do not change;
    skipped_steps or empty_steps is then 1.
    """
    optimizer = make_optimizer(config.optimizer, total_steps)

    def update(state: TrainState, batch: Batch, fixed: Any = {}):  # noqa: B006
        key = jax.random.fold_in(state.key, state.step)
        whole = lambda trained, *micro: loss(parts.merge(fixed, trained), *micro)
        grads, sums = accumulate_gradients(whole, state.params, batch, config.micro_batches, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ok = all_finite(sums["loss"].mean, sums["grad_norm"].mean)
        empty = sums["loss"].weight == 0
        old = state.params, state.opt_state
        params, opt_state = keep_if(ok & ~empty, (params, opt_state), old)
        metrics = means(sums)
        metrics["skipped_steps"] = (~ok).astype(jnp.int32)
        metrics["empty_steps"] = (ok & empty).astype(jnp.int32)
        applied = applied_updates(state.opt_state)
        metrics["learning_rate"] = learning_rate_at(config.optimizer, applied, total_steps)
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return compile(update, rows=(1,), donate=True), optimizer


def with_padding(loss: Callable) -> Callable:
    """The loss, with the metric `padding`: the share of the places of a batch that hold no
    token."""

    def counted(params, batch: Batch, *key):
        mean, told = loss(params, batch, *key)
        segments = batch["segments"]
        places = jnp.float32(segments.size)
        return mean, told | {"padding": WeightedMean(jnp.sum(segments == 0, dtype=float), places)}

    return counted


def document_losses(
    model: TransformerConfig, params: Any, batches: Pass, evaluate: Callable | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For each document of a `text_pass`: the sum of -log p over its targets, and their number.

    evaluate: the compiled `token_losses` of the model; None: compiles it.
    Returns: (losses in nats, tokens), both [documents] in float64.
    """
    evaluate = evaluate or jax.jit(functools.partial(token_losses, model))
    losses, tokens = np.zeros(batches.examples), np.zeros(batches.examples)
    for batch in batches:
        rows = dict(batch)
        first = rows.pop("document")
        found = np.asarray(evaluate(params, rows), np.float64)
        here = batch["weights"][:, 1:] > 0
        document = (first[:, None] + batch["segments"][:, 1:] - 1)[here]
        losses += np.bincount(document, found[here], batches.examples)
        tokens += np.bincount(document, minlength=batches.examples)
    return losses, tokens
