"""All formats, and which of them a file has."""

from typing import Any

from rlhf_jax.data.formats import (
    alpaca,
    checked,
    compared,
    hh,
    openassistant,
    scored,
    sharegpt,
    summaries,
    trl,
)
from rlhf_jax.data.formats.item import Format
from rlhf_jax.errors import UserError

# A format with fewer fields comes after those that have the same fields and more.
FORMATS = (
    *openassistant.FORMATS,
    *hh.FORMATS,
    *scored.FORMATS,
    *compared.FORMATS,
    *checked.FORMATS,
    *summaries.FORMATS,
    *alpaca.FORMATS,
    *sharegpt.FORMATS,
    *trl.FORMATS,
)
BY_NAME = {each.name: each for each in FORMATS}


def find(where: str, row: Any, named: str | None = None) -> Format:
    """The format of the name; without a name, the first one that the row fits.

    Raises UserError, which tells the row's fields, where the row fits none.
    """
    if named is not None:
        return BY_NAME[named]
    for each in FORMATS:
        if each.fits(row):
            return each
    raise UserError(f"{where}: no known format has {_seen(row)}; known formats: "
                    f"{', '.join(BY_NAME)}")  # fmt: skip


def _seen(row: Any) -> str:
    if not isinstance(row, dict):
        return f"rows like {row!r:.60}"
    kinds = {type(None): "null", dict: "object", list: "list", str: "text", bool: "true or false"}
    fields = (f"{name} ({kinds.get(type(v), 'number')})" for name, v in list(row.items())[:12])
    return f"the fields {', '.join(fields)}" if row else "no fields"
