"""A config of nested dataclasses from the JSON values that `fingerprint_of` makes of it."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

from rlhf_jax.durable.fingerprint import CLASS, class_path
from rlhf_jax.errors import ConfigError


def from_json(kind: Any, value: Any, field: str = "config") -> Any:
    """`value` as the type `kind`: dataclass, union, tuple, Literal, path, string or number.

    An object is of the class that it names, one of those that `kind` allows; nothing is imported.
    Fields left out take their defaults. Raises ConfigError naming the field of a wrong value.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(_of_that_class(arguments, value, field), value, field)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, field)
    if origin is Literal:
        return _expect(value in arguments, value, field, f"one of {arguments}")
    if origin is tuple:
        _expect(isinstance(value, list), value, field, "a list")
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        _expect(len(value) == len(arguments), value, field, f"{len(arguments)} values")
        pairs = enumerate(zip(arguments, value, strict=True))
        return tuple(from_json(k, v, f"{field}.{i}") for i, (k, v) in pairs)
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        number = number or value in ("inf", "-inf", "nan")
        return float(_expect(number, value, field, "a number"))
    if kind is Path:
        return Path(_expect(isinstance(value, str), value, field, "a path"))
    if kind is types.NoneType:
        return _expect(value is None, value, field, "null")
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return _expect(fits, value, field, f"of type {kind.__name__}")


def _dataclass(kind: type, value: Any, field: str) -> Any:
    _expect(isinstance(value, dict), value, field, f"the fields of {kind.__name__}")
    _of_that_class((kind,), value, field)
    hints = typing.get_type_hints(kind)
    value = {name: inner for name, inner in value.items() if name != CLASS}
    for name in value:
        _expect(name in hints, name, field, f"a field of {kind.__name__}")
    given = {
        name: from_json(hints[name], inner, f"{field}.{name}") for name, inner in value.items()
    }
    needed = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - given.keys())
    _expect(not missing, value, field, f"complete: {', '.join(missing)} missing")
    return kind(**given)


def _of_that_class(kinds: tuple, value: Any, field: str) -> tuple:
    """The one of the kinds that an object names by its class; all of them for another value."""
    if not isinstance(value, dict):
        return kinds
    paths = {class_path(kind): kind for kind in kinds if dataclasses.is_dataclass(kind)}
    _expect(CLASS in value, value, field, 'an object with its "class"')
    path, allowed = value[CLASS], f"one of {', '.join(paths)}"
    _expect(isinstance(path, str) and path in paths, path, f"{field}.{CLASS}", allowed)
    return (paths[path],)


def _first_that_fits(kinds: tuple, value: Any, field: str) -> Any:
    errors = []
    for kind in kinds:
        try:
            return from_json(kind, value, field)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError("; or ".join(errors))


def _expect(ok: bool, value: Any, field: str, allowed: str) -> Any:
    if not ok:
        shown = repr(value)
        raise ConfigError(f"{field} = {shown[:60]}: must be {allowed}")
    return value
