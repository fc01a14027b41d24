"""Log-probabilities of tokens, the same functions for sampler check, reference, policy and
evaluation."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.objectives.reductions import as_float

Array = jax.Array


def at_temperature(logits: Array, temperature: float) -> Array:
    """logits / temperature in float32, as the sampler uses them. Temperature > 0."""
    if isinstance(temperature, int | float):
        chex.assert_scalar_positive(float(temperature))
    return as_float(logits) / temperature


def top_logit(logits: Array) -> Array:
    """max_v logit_v, or 0 where it is not finite: [..., V] -> float32[...], without gradient.

    Subtract it before any other operation: logits that are far from 0 then keep their digits.
    """
    top = jnp.max(jax.lax.stop_gradient(as_float(logits)), axis=-1)
    return jnp.where(jnp.isfinite(top), top, 0)


@jax.custom_jvp
def _log_sum_exp(below: Array) -> Array:
    """log sum exp over the vocabulary, of logits whose maximum is 0 already.

    The gradient exp(below - log Z) is computed in the backward pass. JAX's own gradient would keep
    exp(below) from the forward pass: one more array [B, T, V].
    """
    return jnp.log(jnp.sum(jnp.exp(below), axis=-1))


@_log_sum_exp.defjvp
def _log_sum_exp_jvp(primals, tangents):
    log_sum = _log_sum_exp(*primals)
    probabilities = jnp.exp(primals[0] - log_sum[..., None])
    return log_sum, jnp.sum(probabilities * tangents[0], axis=-1)


def _pick(logits: Array, targets: Array) -> Array:
    chex.assert_type(targets, int)
    chex.assert_shape(targets, logits.shape[:-1])
    return _gathered(logits, targets)


@jax.custom_jvp
def _gathered(logits: Array, targets: Array) -> Array:
    """logits[target]. Its gradient is a `where`, which XLA fuses, instead of a scatter, which it
    does not."""
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


@_gathered.defjvp
def _gathered_jvp(primals, tangents):
    columns = jax.lax.broadcasted_iota(primals[1].dtype, primals[0].shape, primals[0].ndim - 1)
    chosen = jnp.where(columns == primals[1][..., None], tangents[0], 0)
    return _gathered(*primals), jnp.sum(chosen, axis=-1)


def token_log_probs(logits: Array, targets: Array, temperature: float = 1.0) -> Array:
    """log softmax(logits / temperature)[target] = logit[target] - max - log sum exp(logits - max).

    Use the temperature at which the tokens were sampled: at any other, the estimated KL between
    identical models is not 0 (Huang et al. 2023, detail 10).

    Args:
      logits: [..., V], any float dtype; computed in float32.
      targets: int[...], ids in [0, V). Next-token prediction: logits[:, :-1] and tokens[:, 1:].
      temperature: > 0.

    Returns: float32[...], nats.
    """
    logits = as_float(logits)
    top = top_logit(logits)
    log_sum = _log_sum_exp(at_temperature(logits - top[..., None], temperature))
    return at_temperature(_pick(logits, targets) - top, temperature) - log_sum


def cross_entropy(
    logits: Array, targets: Array, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Array:
    """-(1 - e) log p[target] - e mean_v log p[v] + z (log Z)^2, per token.

    Args:
      logits: [..., V].
      targets: int[...].
      label_smoothing: e in [0, 1); Szegedy et al. 2015 (arXiv 1512.00567), section 7.
      z_loss: z >= 0; keeps log Z = logsumexp(logits) near 0. PaLM (arXiv 2204.02311), section 5.

    Returns: float32[...], nats.
    """
    logits = as_float(logits)
    top = top_logit(logits)
    below = logits - top[..., None]
    log_sum = _log_sum_exp(below)
    loss = log_sum - (_pick(logits, targets) - top)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_sum - jnp.mean(below, -1))
    return loss + z_loss * jnp.square(top + log_sum) if z_loss else loss


def entropy(logits: Array, temperature: float = 1.0) -> Array:
    """H = -sum_v p log p of p = softmax(logits / temperature): [..., V] -> [...], nats.

    Entries of -inf have probability 0 and add nothing. Add `-coefficient * term("entropy", ...)`
    to an objective for the entropy bonus of A2C (Mnih et al. 2016, arXiv 1602.01783).
    """
    logits = as_float(logits)
    logits = at_temperature(logits - top_logit(logits)[..., None], temperature)
    finite = jnp.where(jnp.isneginf(logits), 0, logits)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jax.nn.softmax(logits) * finite, axis=-1)


def sequence_log_prob(log_probs: Array, mask: Array, per_token: bool = False) -> Array:
    """log p(response | prompt) = sum_t mask_t log p_t: [B, T] -> [B].

    per_token: the mean over the tokens instead, the length-normalised score of SimPO and ORPO.
    Rows without tokens give 0.
    """
    chex.assert_equal_shape([log_probs, mask])
    chex.assert_type(log_probs, float)
    total = jnp.sum(jnp.where(mask != 0, log_probs, 0), axis=-1)
    return total / jnp.maximum(jnp.sum(as_float(mask), axis=-1), 1) if per_token else total


def _split(x: Array, count: int) -> Array:
    """[B, T, ...] -> [count, B, T / count, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], count, -1, *x.shape[2:]), 1, 0)


def _join(x: Array) -> Array:
    """[count, B, t, ...] -> [B, count * t, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def chunked_over_time(per_token: Callable[..., chex.ArrayTree], chunk: int) -> Callable:
    """per_token(*arrays), `chunk` columns of axis 1 at a time, recomputed in the backward pass.

    Large arrays inside `per_token`, such as logits [B, T, V], exist for one chunk at a time only:

      log_probs_and_entropy = chunked_over_time(
          lambda h, t: (token_log_probs(h @ w, t), entropy(h @ w)), chunk=128)(hidden, targets)

    Args:
      per_token: function of arrays [B, t, ...] to a tree of arrays [B, t, ...]; it may close over
        weights.
      chunk: columns at a time; the last chunk may be shorter.

    Returns: a function of arrays [B, T, ...] to the same tree of arrays [B, T, ...].
    """
    per_token = jax.checkpoint(per_token)

    def chunked(*arrays: Array) -> chex.ArrayTree:
        count = arrays[0].shape[1] // chunk
        outputs = []
        if count:
            parts = [_split(x[:, : count * chunk], count) for x in arrays]
            stacked = jax.lax.map(lambda part: per_token(*part), parts)
            outputs.append(jax.tree.map(_join, stacked))
        if arrays[0].shape[1] % chunk:
            outputs.append(per_token(*(x[:, count * chunk :] for x in arrays)))
        return jax.tree.map(lambda *y: jnp.concatenate(y, axis=1), *outputs)

    return chunked


def chunked_token_log_probs(
    hidden: Array, embedding: Array, targets: Array, chunk: int, temperature: float = 1.0
) -> Array:
    """token_log_probs(hidden @ embedding.T, targets), `chunk` rows of the vocabulary at a time.

    Z is accumulated: max <- max(max, chunk), sum <- sum exp(old max - max) + sum exp(chunk - max).
    The whole logits [..., V] never exist: the backward pass recomputes each chunk.

    Args:
      hidden: [..., D].
      embedding: [V, D], the (tied) output embedding.
      targets: int[...].
      chunk: rows at a time; the last chunk may be shorter.
      temperature: > 0.

    Returns: float32[...], nats.
    """
    chex.assert_type(targets, int)
    chex.assert_shape(targets, hidden.shape[:-1])
    chex.assert_rank(embedding, 2)

    @jax.checkpoint
    def sum_and_target(carry, start_and_rows):
        top, total, picked = carry
        start, rows = start_and_rows
        logits = jnp.einsum("...d,vd->...v", hidden, rows, preferred_element_type=jnp.float32)
        local = targets - start
        inside = (local >= 0) & (local < rows.shape[0])
        here = _pick(logits, jnp.clip(local, 0, rows.shape[0] - 1))
        higher = jnp.maximum(top, top_logit(logits))
        part = jnp.exp(at_temperature(logits - higher[..., None], temperature))
        total = total * jnp.exp(at_temperature(top - higher, temperature)) + part.sum(-1)
        return (higher, total, jnp.where(inside, here, picked)), None

    vocabulary = embedding.shape[0]
    count = vocabulary // chunk
    nothing = jnp.zeros(targets.shape)
    carry = (jnp.full(targets.shape, -jnp.inf), nothing, nothing)
    if count:
        rows = embedding[: count * chunk].reshape(count, chunk, -1)
        carry, _ = jax.lax.scan(sum_and_target, carry, (jnp.arange(count) * chunk, rows))
    if vocabulary % chunk:
        carry, _ = sum_and_target(carry, (count * chunk, embedding[count * chunk :]))
    top, total, picked = carry
    return at_temperature(picked - top, temperature) - jnp.log(total)
