"""What a family of published models says: its config.json, and where each of its tensors lies in
our parameters."""

import abc
import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models.config import TransformerConfig, different_fields
from rlhf_jax.models.families.fields import Fields


@dataclasses.dataclass(frozen=True)
class Published:
    """A published tensor and the part of our parameters that it fills.

        ours   = theirs.reshape(split).transpose(order).reshape(into)
        theirs = ours.reshape(...).transpose(the inverse of order).reshape(shape)

    name   in the file
    shape  in the file
    path   of our parameter, "blocks/qkv"
    layer  the index into the parameter's first axis; None: a parameter that is of no block
    index  the part of the parameter (of its layer), of slices and whole numbers; (): all
    split  the shape of the file's numbers before their axes are put into our order
    order  our order of these axes
    into   the shape of the part
    """

    name: str
    shape: tuple[int, ...]
    path: str
    layer: int | None
    index: tuple[slice | int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    into: tuple[int, ...]

    def ours(self, array: Any) -> Any:
        """A published array (NumPy's or JAX's) in our layout: the same numbers."""
        return array.reshape(self.split).transpose(self.order).reshape(self.into)

    def theirs(self, array: Any) -> Any:
        """The inverse of `ours`."""
        moved = tuple(self.split[axis] for axis in self.order)
        back = tuple(int(axis) for axis in np.argsort(self.order))
        return array.reshape(moved).transpose(back).reshape(self.shape)


def published(
    name: str,
    path: str,
    layer: int | None,
    shape: tuple[int, ...],
    *,
    split: tuple[int, ...] | None = None,
    order: tuple[int, ...] | None = None,
    into: tuple[int, ...] | None = None,
    index: tuple[slice | int, ...] = (),
) -> Published:
    """A `Published`; without split, order and into it is stored as it is here."""
    split = shape if split is None else split
    order = tuple(range(len(split))) if order is None else order
    into = tuple(split[axis] for axis in order) if into is None else into
    if math.prod(split) != math.prod(shape) or math.prod(into) != math.prod(shape):
        raise ValueError(f"{name}: {shape}, {split} and {into} differ in size")
    return Published(name, shape, path, layer, index, split, order, into)


class Family(abc.ABC):
    """A family of published models: one model_type of config.json.

    model_types       what config.json may call it
    architecture      transformers' class with logits
    classifier        transformers' class with a score
    prefix            what a whole model's tensor names begin with; files of the trunk alone lack it
    head              the tensor of the matrix over the vocabulary; a model with tied embeddings may
                      repeat the token embeddings under this name
    buffers           pattern of the names of tensors that hold no parameter (masks, frequencies)
    gguf_architecture general.architecture in GGUF's metadata; None: GGUF files are not read
    """

    model_types: ClassVar[tuple[str, ...]]
    architecture: ClassVar[str]
    classifier: ClassVar[str]
    prefix: ClassVar[str] = "model."
    head: ClassVar[str] = "lm_head.weight"
    buffers: ClassVar[str] = r"\.rotary_emb\.inv_freq$"
    gguf_architecture: ClassVar[str | None] = None

    def from_config(self, fields: Mapping[str, Any]) -> TransformerConfig:
        """The shape that config.json describes.

        Raises UserError, which names the field and its value, where one is missing, has the wrong
        type, or says what this transformer does not compute.
        """
        reader = Fields(fields, self.model_types[0])
        reader.only("quantization_config", None, (None,))
        try:
            return self._shape(reader)
        except ConfigError as error:
            raise UserError(f"config.json: describes an impossible model: {error}") from None

    def to_config(self, config: TransformerConfig) -> dict[str, Any]:
        """The fields of config.json for this shape, with model_type and architectures.

        Raises UserError, which names the fields, where the family has no such shape.
        """
        if differ := self.lacking(config):
            raise UserError(f"a {self.model_types[0]} has no such shape: {', '.join(differ)}")
        return {
            "architectures": [self.architecture],
            "model_type": self.model_types[0],
            **self._fields(config),
        }

    def lacking(self, config: TransformerConfig) -> list[str]:
        """The fields of a shape for which the family's config.json has no words."""
        try:
            written = self._shape(Fields(self._fields(config), self.model_types[0]))
        except ConfigError as error:
            return [error.field]
        return different_fields(written, config)

    def tensors(self, config: TransformerConfig, scorer: bool = False) -> list[Published]:
        """Every tensor of a published model; it fills our parameters completely, each once.

        scorer: of a reward model, with "score.weight" in place of the head. Published reward models
        have no bias: score/bias lies in no tensor.
        """
        width, vocabulary = config.width, config.vocab_size
        found = self._trunk(config)
        if scorer:
            one = published("score.weight", "score/weights", None, (1, width), into=(width,))
            found.append(one)
        elif not config.tied_embeddings:
            found.append(published(self.head, "head", None, (vocabulary, width)))
        return found

    def own_name(self, name: str) -> str | None:
        """A tensor's name in a file as `tensors` has it; None: it holds no parameter."""
        if re.search(self.buffers, name):
            return None
        whole = name in (self.head, "score.weight") or name.startswith(self.prefix)
        return name if whole else self.prefix + name

    @abc.abstractmethod
    def _shape(self, fields: Fields) -> TransformerConfig: ...

    @abc.abstractmethod
    def _fields(self, config: TransformerConfig) -> dict[str, Any]: ...

    @abc.abstractmethod
    def _trunk(self, config: TransformerConfig) -> list[Published]:
        """The tensors of the model without its head."""

    def from_gguf(self, metadata: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """The shape that the metadata of a GGUF file describes. names: of the file's tensors.

        Raises UserError as `from_config` does.
        """
        raise UserError(f"GGUF files of a {self.model_types[0]} are not read")

    def gguf(self, config: TransformerConfig) -> list[Published]:
        """`tensors` by the names and in the layout of a GGUF file."""
        raise UserError(f"GGUF files of a {self.model_types[0]} are not read")
