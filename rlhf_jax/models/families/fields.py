"""Reads config.json of a published model field by field."""

from collections.abc import Mapping
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.models.config import RotaryScaling, TransformerConfig

REQUIRED = object()
MOST_LAYERS = 10_000  # a damaged file may hold a number that no memory has room for


class Fields:
    """config.json, or the part of it that `where` names, of one model_type.

    A field that transformers' class of this model_type does not read does nothing there, so it is
    not looked at here. Raises UserError, which names the field and its value.
    """

    def __init__(self, fields: Mapping[str, Any], model_type: str, where: str = "config.json"):
        self._fields, self._model_type, self._where = fields, model_type, where

    def __contains__(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._fields.get(name) is not None

    def whole(self, name: str, default: Any = REQUIRED) -> Any:
        """A whole number; the default where the field is missing or null."""
        return self._of((int,), "a whole number", name, default)

    def layers(self, name: str = "num_hidden_layers", default: Any = REQUIRED) -> int:
        """The number of layers, in 1..MOST_LAYERS."""
        count = self.whole(name, default)
        if not 1 <= count <= MOST_LAYERS:
            raise self.refuse(name, f"1 to {MOST_LAYERS}")
        return count

    def number(self, name: str, default: Any = REQUIRED) -> Any:
        return self._of((int, float), "a number", name, default)

    def nullable(self, name: str, default: Any) -> Any:
        """A number, or None where the file says null; the default where the field is missing."""
        if self._fields.get(name, default) is None:
            return None
        return self.number(name, default)

    def flag(self, name: str, default: bool) -> bool:
        value = self._fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._error(name, value, "true or false")
        return value

    def kinds(self, name: str) -> list[str] | None:
        """A list of texts, or None where the field is missing."""
        value = self._fields.get(name)
        if value is not None and not (
            isinstance(value, list) and all(isinstance(each, str) for each in value)
        ):
            raise self._error(name, value, "a list of texts")
        return value

    def only(self, name: str, default: Any, allowed: tuple[Any, ...]) -> Any:
        """A field that must be one of these values; the default where it is missing."""
        value = self._fields.get(name, default)
        if not any(value == one and type(value) is type(one) for one in allowed):
            told = ", ".join("null" if one is None else repr(one) for one in allowed)
            raise self._error(name, value, f"{told}: no other is computed here")
        return value

    def inner(self, name: str) -> "Fields":
        """The fields of an object, of none where it is missing."""
        value = self._fields.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._error(name, value, "an object")
        return Fields(value or {}, self._model_type, f"{self._where}: {name}")

    def refuse(self, name: str, expected: str) -> UserError:
        """The error for a field whose value is not supported."""
        return self._error(name, self._fields.get(name), expected)

    def _of(self, types, about, name, default):
        value = self._fields.get(name)
        if value is None and default is not REQUIRED:
            return default
        if isinstance(value, bool) or not isinstance(value, types):
            shown = value if name in self._fields else "(missing)"
            raise self._error(name, shown, about)
        return value

    def _error(self, name, value, expected) -> UserError:
        return UserError(
            f"{self._where}: {name} = {value!r}: a {self._model_type} needs {expected}"
        )


def rotary(fields: Fields, base: float) -> dict[str, Any]:
    """rotary_base and rotary_scaling of a config.json: of its rope_parameters (transformers 5), or
    of rope_theta and rope_scaling. base: the family's default."""
    given = fields.inner("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    base = float(given.number("rope_theta", fields.number("rope_theta", base)))
    return {"rotary_base": base, "rotary_scaling": scaling(given, fields)}


def scaling(given: Fields, fields: Fields) -> RotaryScaling | None:
    """Of one object of RoPE parameters; fields: the whole config.json."""
    name = "rope_type" if "rope_type" in given else "type"
    kind = given.only(name, "default", ("default", "linear", "llama3"))
    if kind == "default":
        return None
    factor = float(given.number("factor"))
    if kind == "linear":
        return RotaryScaling(factor)
    first = given.whole("original_max_position_embeddings", None)
    return RotaryScaling(
        factor,
        low=float(given.number("low_freq_factor")),
        high=float(given.number("high_freq_factor")),
        context=first or fields.whole("max_position_embeddings"),
    )


def rotary_fields(config: TransformerConfig) -> dict[str, Any]:
    """rope_theta and rope_scaling, which every version of transformers reads."""
    s = config.rotary_scaling
    if s is None:
        return {"rope_theta": config.rotary_base}
    given = {"rope_type": "linear", "factor": s.factor}
    if s.low is not None:
        given = {
            "rope_type": "llama3",
            "factor": s.factor,
            "low_freq_factor": s.low,
            "high_freq_factor": s.high,
            "original_max_position_embeddings": s.context,
        }
    return {"rope_theta": config.rotary_base, "rope_scaling": given}


def windows(fields: Fields, kinds: list[str], window: int | None) -> dict[str, Any]:
    """window and global_every of layers that are "sliding_attention" or "full_attention".

    Raises UserError where the layers without a window are not every n-th.
    """
    local = [kind == "sliding_attention" for kind in kinds]
    unknown = {*kinds} - {"sliding_attention", "full_attention"}
    if window is None or not (any(local) or unknown):
        return {}
    every = local.index(False) + 1 if False in local else None
    layers = range(fields.layers())
    if unknown or local != [every is None or (layer + 1) % every != 0 for layer in layers]:
        raise fields.refuse(
            "layer_types", "windows in all layers, in none, or in all but every n-th"
        )
    return {"window": window, "global_every": every}


def layer_types(config: TransformerConfig) -> list[str]:
    """layer_types of a config.json, the inverse of `windows`."""
    names = {True: "sliding_attention", False: "full_attention"}
    return [names[config.is_local(layer)] for layer in range(config.layers)]
