"""A scalar head on the trunk: reward models and value functions."""

import jax
import jax.numpy as jnp

from rlhf_jax.models.transformer import Params

# The parameters that are added to the trunk's; see transformer.PARAMETERS.
PARAMETERS = {"score/weights": ("features",), "score/bias": ()}


def with_score_head(params: Params, key: jax.Array) -> Params:
    """The trunk of `params` with a new scalar head: weights of std 1/sqrt(D + 1), bias 0
    (Huang et al. 2023, detail 8). A head over the vocabulary is dropped."""
    width = params["tokens"].shape[1]
    weights = jax.random.normal(key, (width,)) / jnp.sqrt(width + 1.0)
    trunk = {name: value for name, value in params.items() if name != "head"}
    return {**trunk, "score": {"weights": weights, "bias": jnp.zeros(())}}


def zero_score_head(params: Params) -> Params:
    """The same trunk with a scalar head of zeros (Huang et al. 2023, detail 11)."""
    return {**params, "score": jax.tree.map(jnp.zeros_like, params["score"])}


def rescale(params: Params, gain: jax.Array, bias: jax.Array) -> Params:
    """The model with score gain x score + bias; gain and bias are folded into its head."""
    head = params["score"]
    return {
        **params,
        "score": {"weights": gain * head["weights"], "bias": gain * head["bias"] + bias},
    }


def scores(params: Params, hidden_states: jax.Array) -> jax.Array:
    """Scalar of each hidden state: [..., D] -> [...], float32."""
    head = params["score"]
    return jnp.einsum("...d,d->...", hidden_states, head["weights"]) + head["bias"]


def at_last_token(values: jax.Array, segments: jax.Array) -> jax.Array:
    """values [..., T] at each row's last token that is not padding: [...]; 0 if all is padding."""
    time = jnp.arange(segments.shape[-1])
    index = jnp.max(jnp.where(segments > 0, jnp.broadcast_to(time, segments.shape), -1), axis=-1)
    picked = jnp.take_along_axis(values, jnp.maximum(index, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(index >= 0, picked, 0.0)
