"""The config of a stage, stored beside its results and compared with the config on resume."""

import dataclasses
import json
import math
import re
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

from etils import epath

from rlhf_jax.durable import formats
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.fields import ADDED_LATER, NOT_FINGERPRINTED
from rlhf_jax.strict_json import read_json

CLASS = "class"  # a name that no field can have
CONFIG = "config.json"  # in a stage's directory, and in data/
EXPERIMENT = "experiment_"  # an experiment file is the module of this name + the file's name
EXPERIMENT_CLASS = re.compile(rf'^("{EXPERIMENT})[^:]*')


@runtime_checkable
class Identified(Protocol):
    """A part of a config that its fields do not describe completely, such as files on disk."""

    def identity(self) -> Any:
        """JSON values that complete the fields; None: the fields are enough."""


def class_path(kind: type) -> str:
    """ "rlhf_jax.stages.dpo:IPO"."""
    return f"{kind.__module__}:{kind.__qualname__}"


def fingerprint_of(config: Any) -> Any:
    """A config of nested dataclasses as plain JSON values, without NOT_FINGERPRINTED fields, and
    without ADDED_LATER fields that have their default.

    A dataclass becomes {"class": its `class_path`, field: value, ...}, with "identity" where its
    `identity()` is not None.

    Raises:
        TypeError: a value is no dataclass, dict, sequence, path, string, number or None.
    """
    if dataclasses.is_dataclass(config):
        fields = [f for f in dataclasses.fields(config) if _counts(f, getattr(config, f.name))]
        values = {f.name: fingerprint_of(getattr(config, f.name)) for f in fields}
        identity = config.identity() if isinstance(config, Identified) else None
        known = {} if identity is None else {"identity": fingerprint_of(identity)}
        return {CLASS: class_path(type(config))} | known | values
    if isinstance(config, dict):
        return {str(name): fingerprint_of(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [fingerprint_of(value) for value in config]
    if isinstance(config, float) and not math.isfinite(config):
        return str(config)
    if isinstance(config, PurePath):
        return str(config)
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"{config!r} has no place in a config's fingerprint")


def _counts(field: dataclasses.Field, value: Any) -> bool:
    """Whether a field with this value is part of the fingerprint."""
    how = field.metadata.get("fingerprint")
    if how == ADDED_LATER["fingerprint"]:
        return value != field.default
    return how != NOT_FINGERPRINTED["fingerprint"]


def check_fingerprint(
    directory: epath.PathLike, fingerprint: dict, insist: bool | None = None
) -> None:
    """Writes `config.json` into a new stage directory, or compares with the file that is there.

    insist: True prints the differences and replaces the stored config; False raises and mentions
    --insist; None raises without mentioning it.

    Raises:
        UserError: a field differs, one line for each; or config.json is damaged, or has a format
            that this version does not read.
    """
    path = epath.Path(directory) / CONFIG
    content = {formats.FIELD: formats.RUN.now, "config": fingerprint_of(fingerprint)}
    text = (json.dumps(content, indent=2) + "\n").encode()
    if not path.exists():
        write_atomically(path, text)
        return
    lines = differences(directory, fingerprint)
    if lines and insist:
        print(f"{directory}: goes on under another config:\n" + "\n".join(lines), flush=True)
        write_atomically(path, text)
    elif lines:
        ways = "the same config" if insist is None else "the same config, or --insist to go on"
        raise UserError(
            f"{directory} belongs to a run with another config; "
            f"give another directory, or {ways}:\n" + "\n".join(lines)
        )


def differences(directory: epath.PathLike, fingerprint: dict) -> list[str]:
    """A line for each field in which a stage directory's config differs from a fingerprint.

    Raises UserError as `stored` does.
    """
    old, new = flatten(stored(directory)), flatten(fingerprint_of(fingerprint))
    return [
        f"  {name}: {_shown(name, old, new)} there, {_shown(name, new, old)} now"
        for name in sorted(old.keys() | new.keys())
        if _named_alike(name, old) != _named_alike(name, new)
    ]


def stored(directory: epath.PathLike) -> Any:
    """The config that a directory's config.json holds.

    Raises UserError where it is damaged, or has a format that this version does not read.
    """
    path, anew = epath.Path(directory) / CONFIG, "remove it to write it anew"
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {anew}") from None
    if isinstance(content, dict):
        formats.RUN.check(content.get(formats.FIELD), path.parent)
    if not isinstance(content, dict) or "config" not in content:
        raise UserError(f"{path}: expected format and config, got other JSON; {anew}")
    return content["config"]


def _names_class(name: str) -> bool:
    return name.rpartition(".")[2] == CLASS


def _named_alike(name: str, values: dict[str, str]) -> str | None:
    """A value; a class defined in an experiment file counts as the same in a file of any name."""
    value = values.get(name)
    return EXPERIMENT_CLASS.sub(r"\1", value) if value and _names_class(name) else value


def _shown(name: str, values: dict[str, str], others: dict[str, str]) -> str:
    """A value; a class without its module, if the names alone tell the two classes apart."""
    value, other = values.get(name, "(absent)"), others.get(name, "(absent)")
    if not _names_class(name):
        return value
    short, long = value.strip('"').rpartition(":")[2], value.strip('"')
    return long if short == other.strip('"').rpartition(":")[2] else short


def flatten(value, prefix: str = "") -> dict[str, str]:
    """{"optimizer.learning_rate": "1e-05", ...}; an empty dict or list is a value of its own."""
    if isinstance(value, dict) and value:
        parts = value.items()
    elif isinstance(value, list) and value:
        parts = enumerate(value)
    else:
        return {prefix: json.dumps(value)}
    return {
        name: text
        for part, inner in parts
        for name, text in flatten(inner, f"{prefix}.{part}" if prefix else str(part)).items()
    }
