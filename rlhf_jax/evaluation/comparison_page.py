"""A comparison of runs as one page that needs nothing else, neither network nor script."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from rlhf_jax.evaluation.comparison import APART, PAIRED_ITEMS, PAIRED_SEEDS, Comparison, Difference
from rlhf_jax.evaluation.comparison_findings import findings
from rlhf_jax.evaluation.comparison_table import COUNT, NO_INTERVAL, intervals, told, values_of
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.page import document
from rlhf_jax.evaluation.summary import SECTIONS, bounds, estimate

WAYS = {
    PAIRED_ITEMS: "of one seed, both models were measured on the same items, and the interval is "
    "over the items' differences",
    PAIRED_SEEDS: "in each seed both were measured on the same items, and the interval is over the "
    "seeds' differences (Student's)",
    APART: "they were measured on different items or seeds, and their errors are added as "
    "independent (Welch's)",
}


def comparison_page(title: str, comparison: Comparison, image: bytes) -> str:
    """The page as text: the table, the picture, and a matrix of differences for each column."""
    picture = base64.b64encode(image).decode("ascii")
    settings = len(comparison.settings)
    runs = f"{len(comparison.cells)} runs, {settings} setting{'s' * (settings > 1)}."
    tables = "".join(_table(comparison, section) for section in SECTIONS.values())
    matrices = "".join(
        _matrix(comparison, section, name, column)
        for section in SECTIONS.values()
        for name, column in comparison.columns(section).items()
    )
    body = f"""<h1>{escape(title)}</h1>
<p class="soft">{runs} {escape(intervals(comparison))}
A row without a setting is a model that is the same in all settings.</p>
{_failed(comparison.failed)}{_findings(comparison)}{tables}<h2>Figures</h2>
<p class="soft">Lines are models, bars 95 % intervals, small marks seeds; a dotted level is a model
that is the same in all settings.</p>
<img alt="The columns of the tables against what is varied" src="data:image/png;base64,{picture}">
<h2>Differences</h2>
<p class="soft">Row minus column, with 95 % intervals; coloured where the interval does not contain
0. {NO_INTERVAL} {_ways(comparison)}</p>
{matrices}"""
    return document(title, body)


def _findings(comparison: Comparison) -> str:
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(comparison))
    return f"<h2>Findings</h2>\n<ul>{lines}</ul>\n" if lines else ""


def _failed(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    lines = "".join(
        f"<li><strong>{escape(cell)}</strong>: {escape(reason)}</li>"
        for cell, reason in failed.items()
    )
    return f"<h2>Failed</h2>\n<ul>{lines}</ul>\n"


def _table(comparison: Comparison, section: str) -> str:
    rows = [row for row in comparison.rows if row.section == section]
    if not rows:
        return ""
    columns = {COUNT: Column("seeds", digits=0), **comparison.columns(section)}
    head = "".join(f"<th>{escape(column.plain)}</th>" for column in columns.values())
    body = ""
    for row in rows:
        values = values_of(row, columns)
        cells = "".join(f"<td>{_cell(values[name], c)}</td>" for name, c in columns.items())
        named = f'<th>{escape(row.model)}</th><td class="text">{escape(row.setting)}</td>'
        body += f"<tr>{named}{cells}</tr>"
    about = "; ".join(
        f"{escape(column.plain)}: {escape(column.about.partition(';')[0])}"
        for column in columns.values()
        if column.about
    )
    return (
        f'<h2>{section.capitalize()}</h2>\n<div class="wide"><table><thead><tr><th></th>'
        f'<th class="text">setting</th>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'
        f'<p class="soft">{about}.</p>\n'
    )


def _cell(value: dict | float | None, column: Column) -> str:
    small = bounds(value, column, " to ")
    return estimate(value, column) + (f"<small>{small}</small>" if small else "")


def _ways(comparison: Comparison) -> str:
    """How the differences on the page were computed."""
    found = {
        difference.how
        for section in SECTIONS.values()
        for column in comparison.columns(section)
        for difference in comparison.differences(section, column).values()
    }
    return " ".join(f"{how.capitalize()}: {text}." for how, text in WAYS.items() if how in found)


def _matrix(comparison: Comparison, section: str, name: str, column: Column) -> str:
    found = comparison.differences(section, name)
    names = [row.name for row in comparison.rows if any(row.name in pair for pair in found)]
    if not found:
        return ""
    title = column.plain if column.plain == name else f"{column.plain} ({name})"
    head = "".join(f"<th>{escape(other)}</th>" for other in names)
    body = "".join(
        f"<tr><th>{escape(one)}</th>{_differences(one, names, found, column)}</tr>" for one in names
    )
    return (
        f"<h3>{escape(title)}</h3>\n"
        f'<div class="wide"><table>'
        f"<thead><tr><th></th>{head}</tr>"
        f"</thead><tbody>{body}</tbody></table></div>\n"
    )


def _differences(
    one: str, names: Sequence[str], found: Mapping[tuple[str, str], Difference], column: Column
) -> str:
    cells = ""
    for other in names:
        known, sign = found.get((one, other)), 1
        if known is None:
            known, sign = found.get((other, one)), -1
        cells += f"<td>{_difference(known, sign, column)}</td>"
    return cells


def _difference(found: Difference | None, sign: int, column: Column) -> str:
    if found is None:
        return ""
    value = found.value if sign > 0 else found.value.negated()
    better = {"higher": 1, "lower": -1}.get(column.better, 0)
    look = {1: "good", -1: "bad"}.get(better * value.side(), "")
    scale, digits = (100, 1) if column.percent else (1, max(column.digits, 2))
    mean, low, high = (scale * number for number in value)
    told_bounds = "no interval"
    if math.isfinite(high - low):
        told_bounds = f"{low:+z.{digits}f} to {high:+z.{digits}f}"
    return (
        f'<span class="{look}" title="{escape(told(found))}">{mean:+z.{digits}f}'
        f"{' %' * column.percent}</span><small>{told_bounds}</small>"
    )
