"""The model with which a stage begins, and its adapter."""

import functools
from collections.abc import Sequence
from typing import Any

from rlhf_jax.models import lora as adapters
from rlhf_jax.models import parts
from rlhf_jax.models.lora import TRAINED, LoRA
from rlhf_jax.stages.stage import Build, Inputs


def model_at_start(inputs: Inputs, role: str, lora: LoRA | None) -> Any:
    """The parameters with which a stage begins: the model of the stage in this role, with an
    adapter of the form `lora`.

    An adapter of this form that the model has is continued. One of another form is merged into the
    matrices, and a new one, which changes nothing yet, lies on the result. None: all adapters are
    merged. The arrays of the trunk are those of the model, not copies, unless they are merged.
    """
    if inputs.build.shapes[role].lora == lora:
        return inputs.model(role)
    trunk = inputs.trunk(role)
    if lora is None:
        return trunk
    make = functools.partial(adapters.init, lora, trunk["blocks"])
    return parts.merge(trunk, inputs.runner.create(make, inputs.key(f"{role} adapter")))


def trunk_at_start(build: Build, role: str, lora: LoRA | None) -> str:
    """The name of the trunk of `model_at_start`, as in `Build.trunks`."""
    trunk = build.trunk(role)
    return trunk.name if build.shapes[role].lora in (None, lora) else trunk.merged


def repeated(models: Sequence[tuple[str, Any]]) -> tuple:
    """The parameters of trunks that occurred in an earlier model of the list, as trees.

    models: of each model the name of its trunk (`Trunk.name`) and the tree of its parameters, of
    which some may be missing.
    """
    seen: set[tuple[str, ...]] = set()

    def again(tree: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(tree, dict):
            known = path in seen
            seen.add(path)
            return tree if known else {}
        own = TRAINED["score"]
        found = {k: again(inner, (*path, k)) for k, inner in tree.items() if k not in own}
        return {k: inner for k, inner in found.items() if inner != {}}

    return tuple(again(tree, (name,)) for name, tree in models)
