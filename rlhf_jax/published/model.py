"""A published model as a shape and parameters of this package."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from rlhf_jax.data.tokenizer import Tokenizer, find_tokenizer, load_tokenizer
from rlhf_jax.models import transformer
from rlhf_jax.models.config import COMPUTATION, TransformerConfig
from rlhf_jax.models.families import Published
from rlhf_jax.published import reading
from rlhf_jax.published.folder import PublishedModel


def shape_of(model: PublishedModel) -> TransformerConfig:
    """The shape of a published model, with a row for each token of its tokenizer: one whose padding
    is a token of ours (data/tokenizer.py) has more tokens than the model was published with."""
    shape, words = model.shape(), tokenizer_of(model).vocab_size
    return dataclasses.replace(shape, vocab_size=max(shape.vocab_size, words))


def tokenizer_of(model: PublishedModel) -> Tokenizer:
    """The tokenizer of a published model. Raises UserError where it cannot be used."""
    return _tokenizer(tuple(model.tokenizer().items()))


@functools.lru_cache(4)
def _tokenizer(files: tuple[tuple[str, bytes], ...]) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files:
            (epath.Path(folder) / name).write_bytes(content)
        return load_tokenizer(find_tokenizer(folder))


def computed_as(shape: TransformerConfig, model: TransformerConfig | None) -> TransformerConfig:
    """A shape with `model`'s fields that say how it computes, and with its context if smaller."""
    if model is None:
        return shape
    given = dataclasses.asdict(model)
    own = {name: given[name] for name in COMPUTATION}
    return dataclasses.replace(shape, **own, context=min(shape.context, model.context))


def changes(model: PublishedModel, shape: TransformerConfig) -> list[str]:
    """Sentences: how `shape`, as which the model is loaded, differs from the published one."""
    found, published = [], model.shape()
    if rows := shape.vocab_size - published.vocab_size:
        found.append(f"{model.path} has no embeddings of {rows} tokens of the tokenizer: they are "
                     "the mean of the others")  # fmt: skip
    if shape.context < published.context:
        found.append(f"the published context of {published.context} tokens is cut to "
                     f"{shape.context} (model.context)")  # fmt: skip
    return found


def check(model: PublishedModel) -> None:
    """Raises UserError, naming file and tensor, where the files do not hold this model. Only their
    headers are read."""
    reading.check(str(model.path), model.tensors(), model.places())


def load(
    model: PublishedModel, shape: TransformerConfig, layout: Callable | None = None
) -> transformer.Params:
    """The parameters of a published model, float32.

    The embeddings of tokens that the model was published without are the mean of the others: by
    Jensen's inequality the probability of such a token is then at most 1 / vocabulary (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models").

    shape: as `shape_of` has it, or with a smaller context. layout: a function from the parameters'
    shapes to shapes with shardings; None: first device.
    Raises UserError, naming file and tensor, where the files do not hold this model.
    """
    return load_parts(model, model.places(), policy_shapes, shape, layout)


def load_parts(
    model: PublishedModel,
    places: list[Published],
    shapes_of: Callable[[TransformerConfig], Any],
    shape: TransformerConfig,
    layout: Callable | None = None,
) -> transformer.Params:
    """`load` of the parameters whose shapes `shapes_of` gives; they lie at `places`."""
    published, found = model.shape(), model.tensors()
    reading.check(str(model.path), found, places)
    laid = layout or on_first_device
    params = reading.parameters(found, places, laid(shapes_of(published)))
    wanted = laid(shapes_of(shape))
    rows = shape.vocab_size - published.vocab_size
    changes = {name: lambda x: _with_rows(x, rows) for name in ("tokens", "head") if rows > 0}
    if published.positions == "learned" and shape.context < published.context:
        changes["positions"] = lambda x: x[: shape.context]
    for name in (name for name in changes if name in params):
        change = jax.jit(changes[name], out_shardings=wanted[name].sharding)
        params[name] = change(params[name])
    return params


def policy_shapes(model: TransformerConfig) -> Any:
    return jax.eval_shape(lambda key: transformer.init(model, key), jax.random.key(0))


def _with_rows(matrix: jax.Array, rows: int) -> jax.Array:
    mean = jnp.broadcast_to(matrix.mean(0), (rows, matrix.shape[1]))
    return jnp.concatenate([matrix, mean])


def on_first_device(shapes: Any) -> Any:
    """The shapes, each whole on this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
