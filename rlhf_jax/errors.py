"""Errors that a user can fix. The command line prints them as one line and exits with code 2."""

import contextlib
from collections.abc import Iterator
from typing import Any


class UserError(Exception):
    """A mistake in a command, a config or a file; the message is one sentence."""


class ConfigError(UserError):
    """A config field holds a value that it must not; the message begins with the field's name."""

    field = ""

    def inside(self, path: str) -> "ConfigError":
        """The same error for an enclosing config: its field is named `path`.field."""
        error = ConfigError(f"{path}.{self}")
        error.field = f"{path}.{self.field}"
        return error


class RecordError(UserError):
    """A data record is malformed."""


def require(ok: bool, field: str, value: Any, allowed: str) -> None:
    """Raises ConfigError naming the field, its value and what is allowed, unless `ok`."""
    if not ok:
        _refuse(field, repr(value), allowed)


def _refuse(field: str, shown: str, allowed: str) -> None:
    error = ConfigError(f"{field} = {shown}: must be {allowed}")
    error.field = field
    raise error


def require_a(kind: type | tuple[type, ...], field: str, value: Any, allowed: str = "") -> None:
    """`require` that the value is of the kind, or of one of several. allowed: "": their names."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = " or ".join(each.__name__ for each in kinds)
    article = "an" if names[0] in "AEIOU" else "a"
    require_form(isinstance(value, kinds), field, value, allowed or f"{article} {names}")


def require_form(ok: bool, field: str, value: Any, allowed: str) -> None:
    """`require` of a value that may be anything: one that is long is named by its class."""
    if not ok:
        shown, kind = repr(value), type(value).__name__
        _refuse(field, shown if len(shown) <= 60 else f"<{kind}>", allowed)


@contextlib.contextmanager
def inside(path: str) -> Iterator[None]:
    """A ConfigError raised in this block gets `path.` in front of its field's name."""
    try:
        yield
    except ConfigError as error:
        raise error.inside(path) from None
