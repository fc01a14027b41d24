"""A published reward model: a folder of transformers' class for sequences, with a single label."""

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.errors import UserError
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published.folder import Folder, PublishedModel
from rlhf_jax.published.model import load_parts, policy_shapes
from rlhf_jax.published.saving import SCORE_BIAS

CLASS = "ForSequenceClassification"


def is_one(model: PublishedModel) -> bool:
    """Whether a published model is a reward model, by `architectures` of config.json."""
    if not model.path.is_dir():
        return False
    named = Folder(model.path).config().get("architectures") or [""]
    return isinstance(named, list) and str(named[0]).endswith(CLASS)


def load(model: PublishedModel, shape: TransformerConfig) -> transformer.Params:
    """The parameters of a published reward model: score = w . h + bias of a hidden state h.

    bias: the field of config.json that `rlhf-jax export` writes, else 0.
    Raises UserError, naming file and tensor, where the files hold no such model.
    """
    folder = Folder(model.path)
    bias = folder.config().get(SCORE_BIAS, 0.0)
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        raise UserError(f"{folder.path}/config.json: {SCORE_BIAS}: expected a number, got {bias!r}")
    params = load_parts(folder, folder.places(scorer=True), _shapes, shape)
    return {**params, "score": {**params["score"], "bias": jnp.float32(bias)}}


def _shapes(model: TransformerConfig) -> Any:
    """Of all parameters but the bias of the score, which lies in no tensor."""
    policy = policy_shapes(model)
    trunk = {name: value for name, value in policy.items() if name != "head"}
    return {**trunk, "score": {"weights": jax.ShapeDtypeStruct((model.width,), jnp.float32)}}
