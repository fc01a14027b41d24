"""Errors that a user can mend. The command line prints them as one line and exits with 2."""

from typing import Any


class UserError(Exception):
    """A mistake in a command, a config or a file, told in one sentence."""


class ConfigError(UserError):
    """A config field holds a value that it must not."""


class RecordError(UserError):
    """A data record is malformed."""


def require(ok: bool, field: str, value: Any, allowed: str) -> None:
    """Raises ConfigError naming the field, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ConfigError(f"{field} = {value!r}: must be {allowed}")
