"""A figure of one column: a point and an interval for each model, as SVG."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.summary import estimate

WIDTH, ROW, BELOW, SIDE = 340, 38, 42, 14  # pixels: the whole, a model, the axis, beside the axis
LONGEST = 44  # characters of a name


def forest(values: Mapping[str, Any], column: Column, chance: float | None = None) -> str:
    """The figure, as narrow as a phone; "" where no value is known. Its axis has the column's
    title, its caption what the column measures.

    values: by model, as in eval.json. chance: a dashed line.
    """
    known = {name: _bounds(value) for name, value in values.items() if _bounds(value)}
    if not known:
        return ""
    ends = [end for each in known.values() for end in each] + ([] if chance is None else [chance])
    low, high = min(ends), max(ends)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.06
    low, high = low - room, high + room
    place = lambda value: SIDE + (value - low) / (high - low) * (WIDTH - 2 * SIDE)
    height = ROW * len(known) + BELOW
    parts = [_axis(low, high, place, height, column)]
    if chance is not None:
        x = place(chance)
        parts.append(
            f'<line class="chance" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - BELOW}"/>'
        )
    for i, (name, (mean, least, most)) in enumerate(known.items()):
        y = ROW * i + ROW - 10
        short = name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."
        parts.append(
            f'<text x="{SIDE}" y="{y - 11}">{escape(short)}</text>'
            f'<line class="bar" x1="{place(least):.1f}" y1="{y}" x2="{place(most):.1f}" y2="{y}"/>'
            f'<circle cx="{place(mean):.1f}" cy="{y}" r="4"/>'
        )
    told = column.plain + (f": {column.about}" if column.about else "")
    told += ". Lines: 95 % intervals" + ("." if chance is None else "; dashed: chance.")
    return (
        f'<figure><figcaption class="soft">{escape(told)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(column.plain)} of each model, with 95 % intervals">'
        f"{''.join(parts)}</svg></figure>"
    )


def _axis(low: float, high: float, place, height: int, column: Column) -> str:
    found, below = "", height - BELOW
    for tick in ticks(low, high):
        x, text = place(tick), estimate(tick, column._replace(digits=max(column.digits - 1, 0)))
        found += (
            f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{below}"/>'
            f'<text class="soft" x="{x:.1f}" y="{below + 16}" text-anchor="middle">'
            f"{escape(text)}</text>"
        )
    return found + (
        f'<text class="axis" x="{WIDTH / 2:g}" y="{below + 34}" text-anchor="middle">'
        f"{escape(column.plain)}</text>"
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [low, high], at most `most` of them."""
    step = 10.0 ** math.floor(math.log10(high - low))
    sizes = (step * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5))
    for size in sizes:
        first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
        if last - first + 1 <= most:
            return [round(n * size, 12) for n in range(first, last + 1)]
    return [low, high]


def _bounds(value: Any) -> tuple[float, float, float] | None:
    """(mean, low, high); a value without an interval is its own bounds."""
    if value is None:
        return None
    if not isinstance(value, dict):
        return value, value, value
    mean = value["mean"]
    low, high = (mean if value[end] is None else value[end] for end in ("low", "high"))
    return mean, low, high
