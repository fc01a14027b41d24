"""Finished models on disk: parameters by Orbax; shape and tokenizer in model.json; checksums."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from rlhf_jax.durable import formats, manifest, taken
from rlhf_jax.durable.checkpoint import reason
from rlhf_jax.durable.files import (
    absolute,
    entries,
    in_bucket,
    remove,
    sync_directory,
    write_atomically,
)
from rlhf_jax.durable.fingerprint import CONFIG
from rlhf_jax.errors import UserError
from rlhf_jax.models import parts, score, transformer
from rlhf_jax.models.config import TransformerConfig, from_json
from rlhf_jax.models.lora import TRAINED
from rlhf_jax.parallel.processes import first_alone
from rlhf_jax.strict_json import read_json

ABOUT = "model.json"  # written last: a model with this file is complete
KINDS = ("policy", "score")
# Files of a stage's directory that say which model it holds: the manifest has the hashes of its
# parameters.
IDENTITY = (CONFIG, f"model/{manifest.NAME}")


def save_model(
    directory: epath.Path,
    config: TransformerConfig,
    params: Any,
    kind: str,
    tokenizer: str,
    trunk: epath.Path | None = None,
) -> None:
    """Writes params and model.json. After a kill half-way, the model counts as absent.

    kind: "policy" (logits) or "score" (a scalar head). tokenizer: the tokenizer's fingerprint.
    trunk: the directory of the stage whose model lies under the adapter; only the adapter is then
        written, and where that model is. None: all params are written.

    Raises UserError where the model cannot be written, for example on a full disk.
    """
    directory = absolute(directory)
    renamed = not in_bucket(directory)
    place = directory.with_name(directory.name + ".partial") if renamed else directory
    under = {} if trunk is None else {"trunk": taken.pointer(directory, trunk, IDENTITY)}
    if trunk is not None:
        params = parts.split(params, TRAINED[kind]).trained

    def prepare():
        (place / ABOUT).unlink(missing_ok=True)
        remove(place)
        place.mkdir(parents=True, exist_ok=True)

    def finish():
        about = {"kind": kind, "tokenizer": tokenizer, "model": dataclasses.asdict(config)}
        about = {formats.FIELD: formats.MODEL.now} | about | under
        content = json.dumps(about, indent=1).encode()
        manifest.write(place, {"kind": kind}, later={ABOUT: content})
        write_atomically(place / ABOUT, content)
        if renamed:
            remove(directory)
            os.replace(place, directory)
            sync_directory(directory.parent)

    try:
        first_alone(prepare, "model")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(place / "params", params)
        first_alone(finish, "model is whole")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{directory}: cannot be written ({reason(error)}); the same command writes it from "
            "the stage's last checkpoint"
        ) from error


def has_model(directory: epath.Path) -> bool:
    """Whether a finished model is in the directory."""
    return (directory / ABOUT).is_file()


def finished(run: epath.Path, stage: str) -> epath.Path:
    """The directory of a finished stage with a model. Raises UserError where it has none."""
    directory = taken.followed(run / stage)
    if not has_model(directory / "model"):
        stages = [path.name for path in entries(run)]
        there = [name for name in stages if has_model(taken.followed(run / name) / "model")]
        raise UserError(f"{run}: {stage!r} has no finished model here; stages with one are: "
                        f"{', '.join(there) or 'none'}")  # fmt: skip
    return directory


def check_format(directory: epath.Path) -> None:
    """Raises UserError where another version wrote a model in a format that is not read here."""
    try:
        content = read_json(directory / ABOUT)
    except UserError:  # `read_about` reports damage
        return
    formats.MODEL.check(
        content.get(formats.FIELD) if isinstance(content, dict) else None, directory
    )


def read_about(directory: epath.Path) -> dict[str, Any]:
    """The content of model.json: kind, tokenizer, model as a TransformerConfig, and trunk, which is
    None or a pointer of taken.py.

    Raises UserError where the file is damaged, or another version wrote it in a format that is not
    read here.
    """
    path = directory / ABOUT
    check_format(directory)
    about = read_json(path)
    try:
        kind, tokenizer, model = (about[name] for name in ("kind", "tokenizer", "model"))
        trunk = about.get("trunk")
        if trunk is not None and not taken.is_pointer(trunk):
            raise TypeError(f"trunk: {trunk!r}")
        return {"kind": kind, "tokenizer": tokenizer, "model": from_json(model), "trunk": trunk}
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: expected kind, tokenizer and model, got: {error}") from None


def shape_of(directory: epath.Path, kind: str, tokenizer: str) -> TransformerConfig:
    """The shape of a finished model. Raises UserError where its kind or tokenizer is another."""
    about = read_about(directory)
    for field, wanted in (("kind", kind), ("tokenizer", tokenizer)):
        if about[field] != wanted:
            raise UserError(
                f"{directory / 'model.json'}: {field}: expected {wanted!r}, got {about[field]!r}"
            )
    return about["model"]


def load_model(
    directory: epath.Path, kind: str, tokenizer: str, layout: Callable | None = None
) -> tuple[TransformerConfig, Any]:
    """The shape and the parameters of a finished model; with a trunk only those of its adapter
    (runs/models.py finds the others).

    layout: a function from the parameters' shapes to shapes with shardings; None: first device.
    Raises UserError where the model is missing or damaged, or has another kind, tokenizer or
    format.
    """
    if not has_model(directory):
        raise UserError(f"{directory}: no finished model here")
    check_format(directory)
    if wrong := manifest.problems_of_all(directory):
        raise UserError(
            f"{directory} is damaged: {wrong[0]}; remove it, and the same command writes it again "
            "from the stage's last checkpoint"
        )
    config = shape_of(directory, kind, tokenizer)

    def abstract(key):
        params = transformer.init(config, key)
        return score.with_score_head(params, key) if kind == "score" else params

    target = jax.eval_shape(abstract, jax.random.key(0))
    if read_about(directory)["trunk"] is not None:
        target = parts.split(target, TRAINED[kind]).trained
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    here = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    target = jax.tree.map(here, target) if layout is None else layout(target)
    with ocp.StandardCheckpointer() as checkpointer:
        return config, checkpointer.restore(absolute(directory) / "params", target)
