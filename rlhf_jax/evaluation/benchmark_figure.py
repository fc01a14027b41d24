"""A figure of one column: a point and an interval for each model, as SVG."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.summary import estimate

LEFT, WIDTH, ROW, BELOW = 190, 620, 26, 34  # pixels: names, the whole, a model, the axis


def forest(values: Mapping[str, Any], column: Column, chance: float | None = None) -> str:
    """The figure; "" where no value is known.

    values: by model, as in eval.json. chance: a dashed line.
    """
    known = {name: _bounds(value) for name, value in values.items() if _bounds(value)}
    if not known:
        return ""
    ends = [end for each in known.values() for end in each] + ([] if chance is None else [chance])
    low, high = min(ends), max(ends)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.06
    low, high = low - room, high + room
    place = lambda value: LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 20)
    height = ROW * len(known) + BELOW
    parts = [_axis(low, high, place, height, column)]
    if chance is not None:
        x = place(chance)
        parts.append(
            f'<line class="chance" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - BELOW}"/>'
        )
    for i, (name, (mean, least, most)) in enumerate(known.items()):
        y = ROW * i + ROW / 2
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(name[:26])}</text>'
            f'<line class="bar" x1="{place(least):.1f}" y1="{y}" x2="{place(most):.1f}" y2="{y}"/>'
            f'<circle cx="{place(mean):.1f}" cy="{y}" r="4"/>'
        )
    label = f"{column.plain} of each model, with 95 % intervals"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _axis(low: float, high: float, place, height: int, column: Column) -> str:
    found = ""
    for tick in ticks(low, high):
        x, text = place(tick), estimate(tick, column._replace(digits=max(column.digits - 1, 0)))
        found += (
            f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - BELOW}"/>'
            f'<text class="soft" x="{x:.1f}" y="{height - BELOW + 18}" text-anchor="middle">'
            f"{escape(text)}</text>"
        )
    return found


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
