"""A published model: a folder as `transformers` writes it, a GGUF file, or a name on the hub."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from etils import epath

from rlhf_jax.data.special_tokens import BESIDE
from rlhf_jax.data.tokenizer import NAMES
from rlhf_jax.durable.files import entries, modified
from rlhf_jax.errors import UserError
from rlhf_jax.models import families
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families import Family, Published
from rlhf_jax.published import hub, tensor_file
from rlhf_jax.published.gguf_file import GGUF
from rlhf_jax.published.reading import Readable
from rlhf_jax.strict_json import read_json

CONFIG = "config.json"
CARD = "README.md"
PART = 1 << 24  # bytes that are hashed at a time


class Origin(NamedTuple):
    """licence: of the model, as its author names it. base_model: the name on the hub of the model
    that it was made from. None: not named."""

    licence: str | None = None
    base_model: str | None = None


class PublishedModel(Protocol):
    """A model that was published: its shape, tokenizer and tensors."""

    path: epath.Path

    def shape(self) -> TransformerConfig:
        """Raises UserError where this transformer does not compute such a model."""

    def tokenizer(self) -> Mapping[str, bytes]:
        """The tokenizer's files by name: tokenizer.json or tokenizer.model, and those BESIDE it."""

    def tensors(self) -> Mapping[str, Readable]:
        """The tensors of its files that hold parameters, by the names that `places` has. The files
        are checked, none is read."""

    def places(self) -> list[Published]:
        """Where each tensor lies in our parameters."""

    def files(self) -> list[epath.Path]:
        """All its files that are read."""

    def digest(self) -> str:
        """The sha256 (hex) of all its files."""

    def origin(self) -> Origin: ...


class Folder:
    """config.json, model*.safetensors and tokenizer files of a folder."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)

    @functools.cached_property
    def _family(self) -> Family:
        kind = self.config().get("model_type", "(absent)")
        with self._naming_the_folder():
            return families.of(kind)

    def config(self) -> dict[str, Any]:
        """The fields of config.json. Raises UserError where they cannot be read."""
        if not (self.path / CONFIG).is_file():
            raise UserError(f"{self.path}: expected {CONFIG}: it is not there")
        found = read_json(self.path / CONFIG)
        if not isinstance(found, dict):
            raise UserError(f"{self.path / CONFIG}: expected an object, got {found!r}"[:300])
        return found

    def shape(self) -> TransformerConfig:
        family, config = self._family, self.config()
        with self._naming_the_folder():
            return family.from_config(config)

    @contextlib.contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.path}/{error}") from None

    def tokenizer(self) -> dict[str, bytes]:
        first = next((name for name in NAMES if (self.path / name).is_file()), None)
        if first is None:
            raise UserError(f"{self.path}: expected {' or '.join(NAMES)}, neither is there")
        names = [name for name in (first, *BESIDE) if (self.path / name).is_file()]
        return {name: (self.path / name).read_bytes() for name in names}

    def tensors(self) -> dict[str, tensor_file.Stored]:
        named = {}
        for name, stored in tensor_file.tensors_of(self.path).items():
            if (own := self._family.own_name(name)) is not None:
                stored.check_dtype()
                named[own] = stored
        if self.shape().tied_embeddings and self._family.head in named:
            self._check_tied(named, named.pop(self._family.head))
        return named

    def _check_tied(self, tensors: Mapping[str, Readable], head: tensor_file.Stored) -> None:
        """Raises UserError where a head that repeats the token embeddings has other values."""
        (tokens,) = (each.name for each in self.places() if each.path == "tokens")
        there = tensors.get(tokens)
        if there is not None and (
            head.shape != there.shape or not np.array_equal(head.read(), there.read())
        ):
            raise UserError(f"{self.path}: tensor {head.name!r}: differs from {tokens!r}, which it "
                            f"repeats by {CONFIG} (tie_word_embeddings)")  # fmt: skip

    def places(self, scorer: bool = False) -> list[Published]:
        """scorer: of a reward model, with the tensor of its head."""
        return self._family.tensors(self.shape(), scorer)

    def files(self) -> list[epath.Path]:
        known = (CONFIG, tensor_file.INDEX, *NAMES, *BESIDE)
        return [path for path in entries(self.path)
                if path.name in known or path.suffix == ".safetensors"]  # fmt: skip

    def digest(self) -> str:
        return _digest(self.files())

    def origin(self) -> Origin:
        """Of the first lines of its model card."""
        card = self.path / CARD
        fields = _front(card.read_text()) if card.is_file() else {}
        return Origin(fields.get("license"), fields.get("base_model"))


class File:
    """A GGUF file."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        self.read = functools.cache(lambda: GGUF(self.path))

    def shape(self) -> TransformerConfig:
        return self.read().shape()

    def tokenizer(self) -> dict[str, bytes]:
        return self.read().tokenizer()

    def tensors(self) -> Mapping[str, Readable]:
        return self.read().tensors

    def places(self) -> list[Published]:
        return self.read().places()

    def files(self) -> list[epath.Path]:
        return [self.path]

    def digest(self) -> str:
        return _digest(self.files())

    def origin(self) -> Origin:
        return Origin(self.read().license)


def find_model(name: str, weights: bool = True, field: str | None = None) -> PublishedModel | None:
    """The model of a folder, of a .gguf file or of a name on the hub; None: there is none such on
    this machine, and the name is none of the hub's.

    weights: whether the tensors too are fetched from the hub. field: the config's field that has
    the name, for errors.
    """
    if (here := on_this_machine(name)) is not None:
        return here
    return Folder(hub.folder(name, weights, _called(name, field))) if hub.is_name(name) else None


def _called(name: str, field: str | None) -> str:
    return name if field is None else f"{field} = {name!r}"


def on_this_machine(name: str) -> PublishedModel | None:
    """The model of a folder or of a .gguf file; None: there is none such."""
    path = epath.Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return File(path)
    return Folder(path) if path.is_dir() else None


def need_model(name: str, weights: bool = True, field: str | None = None) -> PublishedModel:
    """As `find_model`; raises UserError where there is none."""
    found = find_model(name, weights, field)
    if found is None:
        raise UserError(f"{_called(name, field)}: must be a folder with {CONFIG} and "
                        f"{tensor_file.WHOLE} (rlhf-jax fetch smollm2 makes one), a .gguf file, "
                        "or a name on the hub, as in HuggingFaceTB/SmolLM2-135M")  # fmt: skip
    return found


def tokenizer_digest(model: PublishedModel) -> str:
    """The sha256 (hex) of the tokenizer's files."""
    found = hashlib.sha256()
    for name, content in sorted(model.tokenizer().items()):
        found.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return found.hexdigest()


def _front(card: str) -> dict[str, str]:
    """The fields of a model card's first lines (YAML between lines of ---) that are one text, or
    the first of a list."""
    found, head = {}, card.split("\n---", 1)[0].splitlines()
    if head[:1] != ["---"]:
        return {}
    for line, after in zip(head, [*head[1:], ""], strict=True):
        name, colon, value = line.partition(":")
        first = after.strip().removeprefix("- ") if after.strip().startswith("- ") else ""
        if colon and name == name.strip():
            found[name] = (value.strip() or first).strip("\"'")
    return {name: value for name, value in found.items() if value}


def _digest(files: list[epath.Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        content = _sha256(str(file), file.stat().length, modified(file))
        found.update(f"{file.name} {content}\n".encode())
    return found.hexdigest()


@functools.lru_cache(256)
def _sha256(path: str, size: int, written: float) -> str:
    """Of a file's content. size, written: so that a file that has changed is hashed again."""
    del size, written
    found = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while part := file.read(PART):
            found.update(part)
    return found.hexdigest()
