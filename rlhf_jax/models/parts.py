"""The parameters of a model in two parts: fixed parameters and trained parameters.

Both parts are nested dicts, and each parameter is in exactly one of them. An adapter is a trained
part that adds its own parameters to a fixed model.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlhf_jax.errors import require


class Parts(NamedTuple):
    """merge(fixed, trained) is the whole model."""

    fixed: Any
    trained: Any


def split(params: Any, train: Sequence[str] = (), field: str = "train") -> Parts:
    """Splits a model into fixed and trained parameters.

    train: names of trained parameters or branches at any depth, such as ("score",); everything
    below a named branch is trained. Empty: all parameters are trained.
    Raises ConfigError naming `field` where the model has no such name.
    """
    if not train:
        return Parts({}, params)
    paths = [
        [key.key for key in path] for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
    names = sorted({name for path in paths for name in path})
    for name in train:
        require(name in names, field, name, f"one of the model's parameters: {', '.join(names)}")
    return Parts(*(_pick(params, train, wanted) for wanted in (False, True)))


def _pick(tree: Any, names: Sequence[str], named: bool) -> Any:
    """The branches with those names, or (named=False) everything else, without empty dicts."""
    if not isinstance(tree, dict):
        return {} if named else tree
    found = {}
    for name, inner in tree.items():
        whole = inner if named else {}
        part = whole if name in names else _pick(inner, names, named)
        if not isinstance(part, dict) or part:
            found[name] = part
    return found


def merge(fixed: Any, trained: Any) -> Any:
    """The whole model, with the same arrays: none is copied or changed."""
    if not isinstance(fixed, dict) or not fixed:
        return trained
    if not isinstance(trained, dict):
        return trained
    both = {name: merge(fixed[name], trained[name]) for name in fixed.keys() & trained.keys()}
    return {**fixed, **trained, **both}
