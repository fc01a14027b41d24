"""A comparison of runs as a figure: one panel per column, against the varied field."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from rlhf_jax.evaluation.comparison import Comparison, Estimate, Row
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.figure import ACROSS, SOFT, frame, look
from rlhf_jax.evaluation.statistics import Interval
from rlhf_jax.evaluation.summary import SECTIONS

DASHES = ("-", "--", ":", "-.")  # line styles for the values of further varied fields
APART = 7.0  # points between two lines at one value
EDGE = 0.04  # of the axis, beyond the possible values
DECADES = 10.0  # an axis is logarithmic if the largest value is so many times the smallest


class Axis(NamedTuple):
    """The positions of the settings on the axis: by their value of a field, or by their names.

    places  the position of each setting, as a number
    labels  labels of the positions if they are categories; else {}
    scale   "linear", "log" or "symlog"
    """

    label: str
    places: Mapping[str, float]
    labels: Mapping[float, str]
    scale: str


def draw_comparison(comparison: Comparison) -> bytes:
    """The figure as the bytes of a PNG: lines are models, bars intervals, small marks seeds."""
    axis = axis_of(comparison.settings)
    panels = []
    for section in SECTIONS.values():
        rows = [row for row in comparison.rows if row.section == section]
        for name, column in comparison.columns(section).items():
            known = [row for row in rows if row.estimate(name).value is not None]
            if column.drawn and known:
                panels.append((name, column, known))
    deep = max(1, math.ceil(len(panels) / ACROSS))
    figure = Figure(figsize=(15, 0.8 + 4.1 * deep), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14, h_pad=0.14)
    places = list(figure.subplots(deep, ACROSS, squeeze=False).flat)
    models = dict.fromkeys(row.model for row in comparison.rows)
    looks = {model: look(number) for number, model in enumerate(models)}
    styles = styles_of(comparison.settings)
    for place, panel in zip(places, panels, strict=False):
        _panel(place, *panel, axis, looks, styles)
    for place in places[len(panels) :]:
        place.set_axis_off()
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=8, label=model)
        for model, (color, marker) in looks.items()
    ]
    handles += [
        Line2D([], [], color=SOFT, linestyle=style, label=named)
        for named, style in styles.items()
        if named
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def axis_of(settings: Mapping[str, Mapping[str, str]]) -> Axis:
    """The axis of the first field that differs; if no field differs, one position for all."""
    fields = list(next(iter(settings.values()), {}))
    if not fields:
        return Axis("", dict.fromkeys(settings, 0.0), {0.0: ""}, "linear")
    texts = {setting: values[fields[0]] for setting, values in settings.items()}
    numbers = {text: _number(text) for text in texts.values()}
    if None in numbers.values():
        order = {text: float(place) for place, text in enumerate(numbers)}
        labels = {place: text for text, place in order.items()}
        return Axis(fields[0], {s: order[text] for s, text in texts.items()}, labels, "linear")
    places = {setting: numbers[text] for setting, text in texts.items()}
    return Axis(fields[0], places, {}, _scale(list(places.values())))


def _scale(values: Sequence[float]) -> str:
    positive = [value for value in values if value > 0]
    if min(values) < 0 or not positive or max(positive) < DECADES * min(positive):
        return "linear"
    return "log" if min(values) > 0 else "symlog"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def styles_of(settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Line styles, by the values of a setting's further fields, such as "ppo.epochs=2"."""
    others = dict.fromkeys(others_of(values) for values in settings.values())
    return {named: DASHES[number % len(DASHES)] for number, named in enumerate(others)}


def others_of(values: Mapping[str, str]) -> str:
    return ", ".join(f"{field}={value}" for field, value in list(values.items())[1:])


def _panel(
    panel: Axes, name: str, column: Column, rows: Sequence[Row], axis: Axis, looks, styles
) -> None:
    frame(panel, name.replace("_", " "), axis.label, column.about.partition(";")[0])
    if column.middle is not None:
        panel.axhline(column.middle, color=SOFT, linestyle="--", linewidth=1, zorder=0)
    lines: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    models = list(dict.fromkeys(row.model for row in rows))
    alone, levels = len(axis.places) == 1, []
    for row in rows:
        if alone:  # one setting: models side by side
            lines[row.model, ""] = [(models.index(row.model), row)]
        elif not row.setting:
            levels.append(row)
        else:
            line = row.model, others_of(row.cells[0].values)
            lines.setdefault(line, []).append((axis.places[row.setting], row))
    for number, ((model, others), points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        aside = 0.0 if alone else APART * (number - (len(lines) - 1) / 2)
        _points(panel, name, points, looks[model], "none" if alone else styles[others], aside)
    for number, row in enumerate(levels):
        _level(panel, name, row, looks[row.model], number)
    if alone:
        panel.set_xticks(range(len(models)), models, rotation=30, ha="right")
        panel.set_xlim(-0.5, len(models) - 0.5)
    elif axis.labels:
        panel.set_xticks(list(axis.labels), list(axis.labels.values()))
        panel.set_xlim(-0.6, max(axis.labels) + 0.4)
    else:
        _scaled(panel, axis)
    _around(panel, [row.estimate(name) for row in rows], rows[0].possible(name))


def _around(panel: Axes, found: Sequence[Estimate], possible: tuple[float, float]) -> None:
    """Sets y limits that contain every interval and seed, and hardly exceed the possible values.
    (Matplotlib's own limits would misplace points that are moved aside.)"""
    ends = [value for each in found for value in each.by_seed.values()]
    for value in (each.value for each in found):
        below, above = _reach(value)
        ends += [value.mean - below, value.mean + above]
    margin = 0.06 * (max(ends) - min(ends)) or 0.5
    low, high = min(ends) - margin, max(ends) + margin
    edge = EDGE * (min(high, possible[1]) - max(low, possible[0]))
    panel.set_ylim(max(low, possible[0] - edge), min(high, possible[1] + edge))


def _scaled(panel: Axes, axis: Axis) -> None:
    """Ticks at the values that were tried, on an axis with their scale."""
    values = sorted(set(axis.places.values()))
    if axis.scale == "symlog":
        least = min(value for value in values if value > 0)
        panel.set_xscale("symlog", linthresh=least)
        panel.set_xlim(-0.5 * least, 2 * values[-1])
    elif axis.scale == "log":
        panel.set_xscale("log")
        panel.set_xlim(values[0] ** 1.3 / values[-1] ** 0.3, values[-1] ** 1.1 / values[0] ** 0.1)
    else:
        span = values[-1] - values[0] or 1.0
        panel.set_xlim(values[0] - 0.3 * span, values[-1] + 0.1 * span)
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.minorticks_off()


def _points(
    panel: Axes, name: str, points: Sequence, look: tuple[str, str], line: str, aside: float
) -> None:
    """Means joined by a line, with intervals, and seeds as small marks; all moved aside by some
    points, so that lines do not hide each other."""
    color, marker = look
    across, found = [x for x, _ in points], [row.estimate(name) for _, row in points]
    reach = np.array([_reach(estimate.value) for estimate in found]).T
    moved = ScaledTranslation(aside / 72, 0, panel.figure.dpi_scale_trans)
    how = {"color": color, "transform": panel.transData + moved}
    means = [estimate.value.mean for estimate in found]
    panel.errorbar(
        across, means, reach, marker=marker, markersize=7, capsize=3, linestyle=line,
        linewidth=1.4, **how,
    )  # fmt: skip
    for x, estimate in zip(across, found, strict=True):
        if len(estimate.by_seed) > 1:
            seeds = list(estimate.by_seed.values())
            panel.plot([x] * len(seeds), seeds, "_", markersize=9, **how)


def _reach(value: Interval) -> tuple[float, float]:
    """The lengths of an interval below and above the mean; 0 without an interval."""
    if not math.isfinite(value.high - value.low):
        return 0.0, 0.0
    return max(0.0, value.mean - value.low), max(0.0, value.high - value.mean)


def _level(panel: Axes, name: str, row: Row, look: tuple[str, str], number: int) -> None:
    """A model that is the same in all settings: a dotted line, with its interval at the left."""
    value, (color, marker) = row.estimate(name).value, look
    below, above = _reach(value)
    place = {"transform": panel.get_yaxis_transform(), "color": color}
    x = 0.02 + 0.025 * number
    panel.axhline(value.mean, color=color, linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
    panel.plot([x], [value.mean], marker, markersize=7, **place)
    panel.plot([x, x], [value.mean - below, value.mean + above], linewidth=1.2, **place)
