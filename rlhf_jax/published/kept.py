"""What a run keeps of the published model that it has read, so that it needs its files no more.

<run>/pretrained/published.json   name, files, digest, shape, licence and base_model
<run>/pretrained/tokenizer/       the tokenizer's files
"""

import dataclasses
import functools
import json
from typing import Any

from etils import epath

from rlhf_jax.durable import formats
from rlhf_jax.durable.files import absolute, modified, remove, write_atomically
from rlhf_jax.durable.model_files import has_model
from rlhf_jax.errors import UserError
from rlhf_jax.models.config import TransformerConfig, from_json
from rlhf_jax.published import folder
from rlhf_jax.published.folder import Folder, Origin, PublishedModel
from rlhf_jax.strict_json import read_json

ABOUT = "published.json"
TOKENIZER = "tokenizer"
FIELDS = {"name": str, "files": dict, "digest": str, "shape": dict}


class Kept:
    """A published model whose tensors are the finished model of a stage: its files may be gone."""

    def __init__(self, stage: epath.Path):
        self.path = stage / ABOUT

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """The fields of published.json. Raises UserError where it is damaged, or has a format that
        is not read here."""
        found = read_json(self.path)
        if isinstance(found, dict):
            formats.PUBLISHED.check(found.get(formats.FIELD), self.path)
        for name, kind in FIELDS.items():
            if not isinstance(found, dict) or not isinstance(found.get(name), kind):
                raise UserError(f"{self.path}: {name}: expected {kind.__name__}; remove the file: "
                                "the published model's own files are then needed")  # fmt: skip
        return found

    def shape(self) -> TransformerConfig:
        try:
            return from_json(self.about["shape"])
        except (TypeError, KeyError, UserError) as error:
            raise UserError(f"{self.path}: shape: {error}") from None

    def tokenizer(self) -> dict[str, bytes]:
        return Folder(self.path.parent / TOKENIZER).tokenizer()

    def tensors(self):
        raise self._gone()

    def places(self):
        raise self._gone()

    def files(self) -> list[epath.Path]:
        return []

    def digest(self) -> str:
        return self.about["digest"]

    def origin(self) -> Origin:
        return Origin(self.about.get("licence"), self.about.get("base_model"))

    def _gone(self) -> UserError:
        return UserError(f"pretrained = {self.about['name']!r}: its tensors are not there; the "
                         f"model that was read from them is in {self.path.parent}")  # fmt: skip


def of(stage: epath.Path) -> Kept | None:
    """What the directory of a finished stage has kept; None: nothing."""
    there = (stage / ABOUT).is_file() and has_model(stage / "model")
    return Kept(stage) if there else None


def find(name: str, stage: epath.Path, weights: bool = True) -> PublishedModel | None:
    """The model that `pretrained` names: its files where they are on this machine, or what `stage`
    has kept of a model of this name, or the hub's; None: there is none.

    weights: whether the tensors too are fetched from the hub.
    """
    if (here := folder.on_this_machine(name)) is not None:
        return here
    kept = of(stage)
    if kept is not None and kept.about["name"] == name:
        return kept
    return folder.find_model(name, weights, "pretrained")


def digest(model: PublishedModel, stage: epath.Path) -> str:
    """`model.digest()`; files that have the places, sizes and times that `stage` has kept are not
    read."""
    kept = of(stage)
    if kept is not None and kept.about["files"] == _listed(model):
        return kept.digest()
    return model.digest()


def keep(model: PublishedModel, name: str, stage: epath.Path) -> None:
    """Writes into a stage's directory what `find` and `digest` need."""
    remove(stage / TOKENIZER)
    (stage / TOKENIZER).mkdir(parents=True)
    for file, content in model.tokenizer().items():
        write_atomically(stage / TOKENIZER / file, content)
    about = {
        formats.FIELD: formats.PUBLISHED.now,
        "name": name,
        "files": _listed(model),
        "digest": model.digest(),
        "shape": dataclasses.asdict(model.shape()),
        **model.origin()._asdict(),
    }
    write_atomically(stage / ABOUT, json.dumps(about, indent=1).encode())


def _listed(model: PublishedModel) -> dict[str, list]:
    """{file: [bytes, seconds of its last change]}"""
    return {str(absolute(file)): [file.stat().length, modified(file)] for file in model.files()}
