"""An adapter as a folder that `peft` loads: adapter_config.json and adapter_model.safetensors.

A published matrix W [out, in] becomes W + (alpha / rank) B A with A [rank, in] and B [out, rank].
Where several published matrices are one of ours, such as queries, keys and values, each has the
same A and its own rows of B.
"""

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from rlhf_jax.errors import require
from rlhf_jax.models import families
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families import Published
from rlhf_jax.models.transformer import Params
from rlhf_jax.published.saving import write_json
from rlhf_jax.published.tensor_file import NAMED, Tensor, write_file

WITHIN = "base_model.model."  # what names of tensors begin with


def write_adapter(
    folder: epath.Path,
    shape: TransformerConfig,
    adapter: Params,
    scorer: bool,
    base: str,
    dtype: str = "float32",
) -> float:
    """Writes the folder's two files; returns what is to be added to the scores of a scorer.

    adapter: the parameters blocks/lora, and of a scorer score too. base: the folder or name of the
    model under the adapter, as peft calls it.
    Raises UserError where no published family has such a shape.
    """
    require(dtype in NAMED, "dtype", dtype, f"one of {', '.join(NAMED)}")
    form, shape = shape.lora, dataclasses.replace(shape, lora=None)
    family = families.of_config(shape)
    tensors, modules, transposed = [], {}, False
    for each in family.tensors(shape, scorer):
        matrix = each.path.rpartition("/")[2]
        if f"{matrix}_a" not in adapter["blocks"]["lora"]:
            continue
        module = each.name.removesuffix(".weight")
        a, b, transposed = matrices(shape, adapter, each)
        for letter, array in (("A", a), ("B", b)):
            name = f"{WITHIN}{module}.lora_{letter}.weight"
            tensors.append(Tensor(name, array.shape, lambda array=array: array))
        modules[module.split(f".{each.layer}.", 1)[1]] = None
    bias = 0.0
    if scorer:
        weights, bias = np.asarray(adapter["score"]["weights"])[None], adapter["score"]["bias"]
        tensors.append(Tensor(f"{WITHIN}score.weight", weights.shape, lambda: weights))
    write_file(folder / "adapter_model.safetensors", tensors, NAMED[dtype])
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scorer else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": form.rank,
        "lora_alpha": form.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules),
        "fan_in_fan_out": transposed,
        "modules_to_save": ["score"] if scorer else None,
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", config)
    return float(bias)


def matrices(
    shape: TransformerConfig, adapter: Any, each: Published
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(A [rank, in], B [out, rank], whether the file holds W transposed) of a published matrix.

    The order of its rows and columns is found by `theirs` of their numbers.
    """
    name = each.path.rpartition("/")[2]
    a, b = (np.asarray(adapter["blocks"]["lora"][f"{name}_{x}"][each.layer]) for x in "ab")
    ours = (len(a), *b.shape[1:])
    numbers = np.arange(np.prod(ours)).reshape(ours)
    placed = each.theirs(numbers[each.index])
    given, out = np.divmod(placed, np.prod(ours[1:]))
    transposed = bool((given[:, :1] == given).all())  # all of a row have one input
    given, out = (given[:, 0], out[0]) if transposed else (given[0], out[:, 0])
    return a[given].T.copy(), b.reshape(len(b), -1)[:, out].T.copy(), transposed
