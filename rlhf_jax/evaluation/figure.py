"""report.png: a panel for each evaluator, and the curves of training."""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.summary import SECTIONS, Results, columns_of, columns_of_one

Curves = Mapping[str, Mapping[str, Sequence[Mapping]]]  # rows of metrics, by metric and stage

# Okabe and Ito's colours, which colour-blind people can distinguish; markers differ too.
LOOKS = (
    *(("#7f7f7f", "o"), ("#56b4e9", "s"), ("#e69f00", "D"), ("#0072b2", "^"), ("#d55e00", "v")),
    *(("#009e73", "P"), ("#cc79a7", "X"), ("#000000", "*")),
)
SOFT = "#59636e"
CURVE_LABELS = {  # what a metric of training is; others stand under their names
    "score": "mean reward of a response, without KL",
    "kl": "KL to the reference, nats per response",
}
ACROSS = 3  # panels side by side
WORDS = 44  # letters in a line of an axis label


class Point(NamedTuple):
    """One value of a column: of a stage, or of a group of its rows."""

    label: str
    stage: str
    mean: float
    low: float
    high: float


def draw(report: dict, results: Results, curves: Curves, stages: Sequence[str]) -> bytes:
    """The figure as the bytes of a PNG.

    stages: all stages of the experiment, in order, so that a stage looks the same in every report.
    """
    looks = {stage: look(number) for number, stage in enumerate(stages)}
    panels = []
    for evaluator, found in results:
        drawn = {n: c for n, c in columns_of_one(evaluator, found).items() if c.drawn and c.shown}
        section = report[SECTIONS[evaluator.judges]]
        points = {name: _points(section, name) for name in drawn}
        drawn = {name: column for name, column in drawn.items() if points[name]}
        if drawn:
            all_columns = columns_of(results, evaluator.judges)
            title = evaluator.name.replace("_", " ")
            panels.append((_panel, (title, section, drawn, points, all_columns)))
    panels += [(_lines, (metric, rows)) for metric, rows in curves.items() if rows]
    image = io.BytesIO()
    _figure(panels, looks, report, curves).savefig(image, format="png")
    return image.getvalue()


def look(number: int) -> tuple[str, str]:
    """Colour and marker of a stage. From the ninth on, colours repeat with other markers."""
    again, place = divmod(number, len(LOOKS))
    return LOOKS[place][0], LOOKS[(place + again) % len(LOOKS)][1]


def _figure(panels: list, looks: dict, report: dict, curves: Curves) -> Figure:
    deep = max(1, math.ceil(len(panels) / ACROSS))
    figure = Figure(figsize=(15, 0.4 + 4.1 * deep), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14, h_pad=0.14)
    places = list(figure.subplots(deep, ACROSS, squeeze=False).flat)
    for place, (function, arguments) in zip(places, panels, strict=False):
        function(place, *arguments, looks)
    for place in places[len(panels) :]:
        place.set_axis_off()
    told = {stage for section in SECTIONS.values() for stage in report[section]}
    told |= {stage for rows in curves.values() for stage in rows}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=8, label=stage)
        for stage, (color, marker) in looks.items()
        if stage in told
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=8, frameon=False)
    return figure


def _points(section: Mapping[str, dict], name: str) -> list[Point]:
    """The known values of a column."""
    values = {}
    for stage, entry in section.items():
        values[stage, stage] = entry.get(name)
        for group, of in entry.get("groups", {}).items():
            values[f"{stage}, {group}", stage] = of.get(name)
    found = []
    for (label, stage), value in values.items():
        mean, low, high = value.values() if isinstance(value, dict) else (value, value, value)
        if mean is not None:
            ends = (mean if end is None else end for end in (low, high))
            found.append(Point(label, stage, mean, *ends))
    return found


def _panel(panel: Axes, title: str, section, drawn, points, columns, looks: dict) -> None:
    """Draws one column, by stage or over another column; several columns are drawn side by side."""
    (name, column), *more = drawn.items()
    if more:
        _groups(panel, title, drawn, points, list(section), looks)
    elif column.over in columns and (beside := _points(section, column.over)):
        _over(panel, title, column, points[name], columns[column.over], beside, looks)
    else:
        _rows(panel, title, column, points[name], looks)


def _rows(panel: Axes, title: str, column: Column, points: Sequence[Point], looks: dict) -> None:
    """One row per stage, the first on top: the mean, also as text, and its interval."""
    frame(panel, title, f"{column.about.partition(';')[0]} (95 % interval)")
    if column.middle is not None:
        panel.axvline(column.middle, color=SOFT, linestyle="--", linewidth=1, zorder=0)
    for row, point in enumerate(points):
        _point(panel, point.mean, row, "x", point, looks)
        panel.annotate(
            f"{point.mean:.2f}",
            (point.mean, row),
            (0, 9),
            textcoords="offset points",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    panel.set_yticks(range(len(points)), [point.label for point in points])
    panel.set_ylim(len(points) - 0.5, -0.7)
    low, high = min(point.low for point in points), max(point.high for point in points)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    margin = 0.04 * (high - low) or 0.5
    panel.set_xlim(low - margin, high + margin)
    panel.grid(visible=False, axis="y")


def _groups(panel: Axes, title: str, drawn, points, stages: list[str], looks: dict) -> None:
    """One group of stages per column."""
    columns = list(drawn.values())
    share = all(column.percent for column in columns)
    (about, *others) = dict.fromkeys(column.about.partition(",")[0] for column in columns)
    about = "" if others else about
    frame(panel, title, "", f"{about} ({'%, ' * share}95 % interval)")
    for group, name in enumerate(drawn):
        for point in points[name]:
            place = (stages.index(point.stage) + 0.5) / len(stages)
            scaled = Point(*point[:2], *((100 if share else 1) * x for x in point[2:]))
            _point(panel, group + 0.7 * (place - 0.5), scaled.mean, "y", scaled, looks)
    wanted = lambda column: f"\n({column.better} is better)" if column.better else ""
    panel.set_xticks(range(len(columns)), [column.plain + wanted(column) for column in columns])
    panel.set_xlim(-0.5, len(columns) - 0.5)
    if share:
        panel.set_ylim(-4, 104)
    panel.grid(visible=False, axis="x")


def _over(
    panel: Axes, title: str, column: Column, points, other: Column, beside, looks: dict
) -> None:
    """One column (y) over another (x), with the interval of x."""
    across = f"{other.about.partition(';')[0]} (95 % interval)"
    up = column.about.partition(";")[0]
    frame(panel, f"{title} over {column.over.replace('_', ' ')}", across, up)
    found = {point.label: point for point in beside}
    for point in points:
        if point.label in found:
            across = found[point.label]
            _point(panel, across.mean, point.mean, "x", across, looks)
    panel.margins(0.12, 0.15)
    means = sorted(abs(point.mean) for point in beside)
    if means[-1] > 10 * means[len(means) // 2] > 0:  # an outlier would squeeze the other points
        panel.set_xscale("asinh", linear_width=means[len(means) // 2])


def _lines(panel: Axes, metric: str, curves: Mapping[str, Sequence], looks: dict) -> None:
    """One line per stage, with gaps where a value is absent or not finite."""
    frame(panel, f"Training: {metric}", "step", CURVE_LABELS.get(metric, metric))
    for stage, rows in curves.items():
        values = [row.get(metric) for row in rows]
        values = [math.nan if value is None else value for value in values]
        color, marker = looks[stage]
        panel.plot(
            [row["step"] for row in rows],
            values,
            color=color,
            marker=marker,
            markevery=max(1, len(rows) // 10),
            markersize=6,
            linewidth=1.4,
        )


def frame(panel: Axes, title: str, across: str, up: str = "") -> None:
    """Title, axis labels, and light grid lines behind the data."""
    title = re.sub(r"\bkl\b", "KL", title)
    panel.set_title(title[:1].upper() + title[1:], loc="left", fontweight="bold", pad=12)
    panel.set(xlabel=textwrap.fill(across, WORDS), ylabel=textwrap.fill(up, WORDS))
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(color=SOFT)
    panel.grid(color="#e5e8eb")
    panel.set_axisbelow(True)


def _point(panel: Axes, x: float, y: float, along: str, point: Point, looks: dict) -> None:
    """A marker with its interval along one axis."""
    color, marker = looks[point.stage]
    reach = [[max(0.0, point.mean - point.low)], [max(0.0, point.high - point.mean)]]
    panel.errorbar(
        x,
        y,
        **{f"{along}err": reach},
        color=color,
        marker=marker,
        markersize=8,
        elinewidth=2,
        capsize=3,
    )
