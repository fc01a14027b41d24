"""A finished model as a folder that `transformers` loads."""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from rlhf_jax.durable.files import remove
from rlhf_jax.errors import require
from rlhf_jax.models import families
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families import Published
from rlhf_jax.models.transformer import Params
from rlhf_jax.published.tensor_file import NAMED, Tensor, write_files

GIB = 1 << 30
MARK = ".unfinished"  # the file of a folder that is being written
SCORE_BIAS = "rlhf_jax_score_bias"  # field of config.json


class Exported(NamedTuple):
    """What the model card says of the weights.

    architecture  transformers' class
    score_bias    what is to be added to the scores of the exported model; 0 of a policy
    """

    architecture: str
    score_bias: float = 0.0


def new_folder(path: epath.PathLike, field: str) -> epath.Path:
    """The folder to write: FOLDER.partial, until `finish`. What a kill has left of it is removed.

    Raises ConfigError where FOLDER is there and is not empty, or FOLDER.partial is another's.
    """
    path = epath.Path(path)
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    require(empty, field, str(path), "a folder that is not there yet, or is empty")
    partial = path.with_name(path.name + ".partial")
    ours = not partial.exists() or not any(partial.iterdir()) or (partial / MARK).is_file()
    require(ours, field, str(path), f"another: {partial}, which is not of this command, is there")
    remove(partial)
    partial.mkdir(parents=True)
    (partial / MARK).write_text("")
    return partial


def finish(partial: epath.Path) -> epath.Path:
    """Gives a folder that is whole its name."""
    path = partial.with_name(partial.name.removesuffix(".partial"))
    if path.is_dir():
        path.rmdir()
    os.replace(partial, path)
    (path / MARK).unlink()
    return path


def write_model(
    folder: epath.Path,
    shape: TransformerConfig,
    params: Params,
    scorer: bool,
    *,
    dtype: str = "float32",
    largest: int = 5 * GIB,
    fields: Mapping[str, Any],
) -> Exported:
    """Writes model.safetensors (several files and an index above `largest` bytes) and config.json.

    A published scorer has no bias: ours goes into the bias of the last norm, where there is one.

    fields: further fields of config.json, such as token ids.
    Raises UserError where no published family has such a shape, or a number is beyond the dtype.
    """
    require(dtype in NAMED, "dtype", dtype, f"one of {', '.join(NAMED)}")
    family = families.of_config(shape)
    config = {**family.to_config(shape), "dtype": dtype, "torch_dtype": dtype, **fields}
    told = Exported(family.architecture)
    if scorer:
        params, bias = without_score_bias(params)
        told = Exported(family.classifier, bias)
        config |= {
            "architectures": [family.classifier],
            "id2label": {"0": "score"},
            "label2id": {"score": 0},
            **({SCORE_BIAS: bias} if bias else {}),
        }
    tensors = [
        Tensor(each.name, tuple(each.shape), functools.partial(_read, params, each))
        for each in family.tensors(shape, scorer)
    ]
    write_files(folder, tensors, dtype, largest)
    write_json(folder / "config.json", config)
    return told


def without_score_bias(params: Params) -> tuple[Params, float]:
    """(the scorer with the bias of its head in that of its last norm, the bias that is left).

    The score of a state h = n + b, where b is the norm's bias, is w . h + c. With b + w c / |w|^2
    in place of b it is the same without c.
    """
    head, norm = params["score"], params["final_norm"]
    weights, bias = np.asarray(head["weights"], np.float64), float(head["bias"])
    size = float(weights @ weights)
    if "bias" not in norm or size == 0.0:
        return params, bias
    moved = np.asarray(norm["bias"], np.float64) + weights * (bias / size)
    return {**params, "final_norm": {**norm, "bias": moved.astype(np.float32)}}, 0.0


def _read(params: Params, each: Published) -> np.ndarray:
    """A published tensor of our parameters; of a parameter of all layers its layer alone is taken
    from the devices."""
    found: Any = params
    for name in each.path.split("/"):
        found = found[name]
    if each.layer is not None:
        found = _layer(found, each.layer)
    return each.theirs(np.asarray(found)[each.index])


_layer = jax.jit(lambda stacked, layer: jax.lax.dynamic_index_in_dim(stacked, layer, 0, False))


def write_generation(folder: epath.Path, ids: Mapping[str, Any], temperature: float = 1.0) -> None:
    """Writes generation_config.json, by which `generate` of transformers samples as this package
    does: from the whole vocabulary (its default is top_k = 50)."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    write_json(folder / "generation_config.json", {**sampling, **ids})


def write_json(path: epath.Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
