"""Loads finished models. A model is in memory once while anything holds its arrays, so models whose
adapters lie on the same trunk share it."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
from etils.epath import Path

from rlhf_jax.durable import taken
from rlhf_jax.durable.model_files import load_model, read_about, shape_of
from rlhf_jax.models import lora as adapters
from rlhf_jax.models import parts
from rlhf_jax.models.lora import LoRA
from rlhf_jax.parallel import processes
from rlhf_jax.parallel.runner import Runner


def under(directory: Path) -> Path | None:
    """The stage's directory with the model on which the adapter in `directory` was trained; None:
    there is a whole model. Raises UserError where it is missing or another."""
    found = read_about(directory)["trunk"]
    if found is None:
        return None
    advice = "bring it back: only the adapter is stored here"
    return taken.located(directory, found, f"{directory} is an adapter on", advice)


def base_of(directory: Path) -> Path:
    """The directory of the stage whose model, with its own adapter merged, is the trunk of the
    adapter in `directory`: adapters that a stage has continued are on the same one."""
    place = under(directory)
    forms = (read_about(each)["model"].lora for each in (directory, place / "model"))
    return base_of(place / "model") if len({*forms}) == 1 else place


class Models:
    """Finished models by directory, on the devices of the runner; None: on the first device."""

    def __init__(self, runner: Runner | None = None):
        self._runner = runner
        self._held: dict[tuple[str, str], tuple[Any, list[weakref.ref]]] = {}

    def load(self, directory: Path, kind: str, tokenizer: str) -> Any:
        """The parameters of a finished model, its trunk's included.

        Raises UserError where the model or the model under its adapter is missing, damaged or
        another.
        """
        load = functools.partial(self._load, directory, kind, tokenizer)
        return self._once((str(directory), "whole"), load)

    def trunk(self, directory: Path, kind: str, tokenizer: str, lora: LoRA | None = None) -> Any:
        """The parameters without an adapter. Where it is of the form `lora` it is left out;
        otherwise it is merged into the matrices."""
        there = shape_of(directory, kind, tokenizer).lora
        params = self.load(directory, kind, tokenizer)
        if there in (None, lora):
            return adapters.trunk_of(params)
        merge = functools.partial(self._merged, there, params)
        return self._once((str(directory), "merged"), merge)

    def _load(self, directory: Path, kind: str, tokenizer: str) -> Any:
        layout = None if self._runner is None else self._runner.layout
        shape, params = load_model(directory, kind, tokenizer, layout)
        place = under(directory)
        if place is None:
            return params
        trunk = self.trunk(place / "model", "policy", tokenizer, shape.lora)
        if kind == "score":
            trunk = {name: value for name, value in trunk.items() if name != "head"}
        return parts.merge(trunk, params)

    def _merged(self, lora: LoRA, params: Any) -> Any:
        make = functools.partial(adapters.merged_matrices, lora)
        changed = make(params) if self._runner is None else self._runner.create(make, params)
        return parts.merge(adapters.trunk_of(params), changed)

    def _once(self, key: tuple[str, str], make: Callable[[], Any]) -> Any:
        """make(), or the arrays that it made before, if all of them are still held somewhere, in
        every process: `make` may need them all."""
        tree, references = self._held.get(key, (None, []))
        leaves = [reference() for reference in references]
        gone = tree is None or any(leaf is None for leaf in leaves)
        if not processes.total(gone):
            return tree.unflatten(leaves)
        made = make()
        leaves, tree = jax.tree.flatten(made)
        self._held[key] = tree, [weakref.ref(leaf) for leaf in leaves]
        return made
