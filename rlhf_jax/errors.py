"""Errors that a user can mend. The command line prints them as one line and exits with 2."""

import contextlib
from collections.abc import Iterator
from typing import Any


class UserError(Exception):
    """A mistake in a command, a config or a file, told in one sentence."""


class ConfigError(UserError):
    """A config field holds a value that it must not; the message begins with the field's name."""

    field = ""

    def inside(self, path: str) -> "ConfigError":
        """The error of the same field, named from further up: `path`.field."""
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
    """A ConfigError that is raised in this block names its field from `path` on."""
    try:
        yield
    except ConfigError as error:
        raise error.inside(path) from None
