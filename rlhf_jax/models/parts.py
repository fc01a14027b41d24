"""The parameters of a model in two parts: those that stay fixed, and those that are trained.

Both are nested dicts; a parameter is in one of them. An adapter is a trained part that adds
parameters of its own to a fixed model.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlhf_jax.errors import require


class Parts(NamedTuple):
    """merge(fixed, trained) is the whole."""

    fixed: Any
    trained: Any


def split(params: Any, train: Sequence[str] = (), field: str = "train") -> Parts:
    """train: names of the parameters that are trained, as in ("score",): all of a branch of that
    name, at any depth; none: everything is.

    Raises ConfigError, naming the config's field, where a name is none of the model's.
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
    """The branches of those names, or all else; a dict that is left empty is left out."""
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
    """The whole model; arrays are neither copied nor changed."""
    if not isinstance(fixed, dict) or not fixed:
        return trained
    if not isinstance(trained, dict):
        return trained
    both = {name: merge(fixed[name], trained[name]) for name in fixed.keys() & trained.keys()}
    return {**fixed, **trained, **both}
