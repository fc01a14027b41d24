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
        error = ConfigError(f"{field} = {value!r}: must be {allowed}")
        error.field = field
        raise error


@contextlib.contextmanager
def inside(path: str) -> Iterator[None]:
    """A ConfigError raised in this block gets `path.` in front of its field's name."""
    try:
        yield
    except ConfigError as error:
        raise error.inside(path) from None
