"""The only reader of JSON in this package: errors are one line."""

import json
from collections.abc import Callable
from typing import Any

from etils import epath

from rlhf_jax.errors import UserError

DIGITS = 300  # the most that an integer may have: one of 310 digits is beyond float64


class HugeNumber(float):
    """An infinity in place of an integer with more than DIGITS digits; every field refuses it."""

    def __new__(cls, digits: str) -> "HugeNumber":
        found = super().__new__(cls, "-inf" if digits.startswith("-") else "inf")
        found.length = len(digits.lstrip("-"))
        return found

    def __repr__(self) -> str:
        return f"a number of {self.length} digits"


def parse_json(content: bytes, hook: Callable[[list], Any] | None = None) -> Any:
    """The value of a JSON text. hook: turns the (name, value) pairs of an object into a value.

    Raises:
      UserError: the text is not UTF-8, not JSON, or nested too deep.
    """
    whole = lambda digits: int(digits) if len(digits) <= DIGITS else HugeNumber(digits)
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=hook, parse_int=whole)
    except UnicodeDecodeError as error:
        raise UserError(f"expected UTF-8, got byte {content[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(f"expected JSON, got: {error.msg} ({line}column {error.colno})") from None
    except RecursionError:
        raise UserError("expected JSON, got: lists or objects nested too deep") from None


def read_json(path: epath.PathLike) -> Any:
    """The value of a JSON file.

    Raises:
      UserError: "path: ...", where the file cannot be read or `parse_json` refuses its content.
    """
    try:
        return parse_json(epath.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UserError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
