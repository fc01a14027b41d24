"""report.html: a page in one file, without scripts or files from the network."""

import base64
from collections.abc import Mapping
from html import escape

from rlhf_jax.data.about import sentences
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.summary import (
    SECTIONS,
    SPENT,
    Results,
    Values,
    bounds,
    columns_of,
    compared,
    duration,
    entries,
    estimate,
    shown,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0;
  --back: #ffffff; --card: #f6f8fa; --good: #0a5c8f; --bad: #a34100; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #3a424c; --back: #14171b; --card: #1d2228;
    --good: #79c0ff; --bad: #ffa657; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); font-size: .88rem; }
ul { padding-left: 1.2rem; } li { margin: .35rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .45rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { font-weight: 600; } thead th { color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; }
small { display: block; color: var(--soft); } td small { white-space: nowrap; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 8px;
  border: 1px solid var(--line); }
.sample { margin: 1.25rem 0; padding: 1rem 1rem .4rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
.sample pre { margin: 0 0 .6rem; font: inherit; font-weight: 600; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.sample tr:last-child > * { border-bottom: 0; }
.sample th { width: 7rem; } .sample .marks { width: 12rem; }
.sample .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
"""

DASH = (
    ' "-": not measured for this model, or not defined, such as a comparison of a model with '
    "itself."
)


def page(report: dict, results: Results, image: bytes) -> str:
    """The page as text; text from models and data is escaped."""
    picture = base64.b64encode(image).decode("ascii")
    findings = "".join(map(_finding, report["findings"]))
    tables = "".join(_section(report, results, judges) for judges in SECTIONS)
    saved = "".join(
        f'<p class="soft">{escape(stage)} is {escape(text)}.</p>\n'
        for stage, text in report["saved"].items()
    )
    more = "".join(evaluator.section(found, results) for evaluator, found in results)
    asked = report["prompts"]  # None if no evaluator asks
    prompts = f", {asked['asked']} of {asked['all']} test prompts" if asked else ""
    body = f"""<h1>rlhf_jax report</h1>
<p class="soft">Seed {report["seed"]}{prompts}.
{_times(report["seconds"])}</p>
{_origin(report)}<h2>Findings</h2>
<ul>{findings}</ul>
{tables}
{saved}<h2>Figures</h2>
<img alt="The columns of the tables with their intervals, and curves of training"
src="data:image/png;base64,{picture}">
{more}
"""
    return document(f"rlhf_jax report, seed {report['seed']}", body)


def document(title: str, body: str) -> str:
    """A whole page of this style. body: HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}</body>
</html>
"""


def _finding(sentence: str) -> str:
    verdict, colon, rest = sentence.partition(":")
    return f"<li><strong>{escape(verdict + colon)}</strong>{escape(rest)}</li>"


def _origin(report: dict) -> str:
    lines = (f'<p class="soft">{escape(line)}</p>\n' for line in sentences(report["records"]))
    return "".join(lines)


def _times(seconds: dict[str, float]) -> str:
    spent = ", ".join(f"{escape(stage)} {duration(s)}" for stage, s in seconds.items())
    return f"{SPENT.capitalize()}: {spent}." if spent else ""


def _section(report: dict, results: Results, judges: str) -> str:
    """The table of all policies, or of all scorers, and an explanation of its columns."""
    title, rows = SECTIONS[judges], entries(report[SECTIONS[judges]])
    if not rows:
        return ""
    columns = columns_of(results, judges)
    names = shown(columns)
    head = "".join(f"<th>{escape(column.plain)}</th>" for column in names.values())
    body = "".join(
        f"<tr><th>{escape(row)}</th>"
        + "".join(f"<td>{_cell(name, columns, values)}</td>" for name in names)
        + "</tr>"
        for row, values in rows.items()
    )
    about = "; ".join(
        f"{escape(column.plain)}: {escape(column.about)}" + _better(column)
        for column in names.values()
        if column.about
    )
    return (
        f'<h2>{title.capitalize()}</h2>\n<div class="wide"><table><thead><tr><th></th>{head}</tr>'
        f'</thead><tbody>{body}</tbody></table></div>\n<p class="soft">Small figures: 95 % '
        f"intervals, over prompts or documents. {about}.{DASH * ('<td>-' in body)}</p>\n"
    )


def _better(column: Column) -> str:
    return f" ({column.better} is better)" if column.better else ""


def _cell(name: str, columns: Mapping[str, Column], values: Values) -> str:
    """The estimate, its interval, and the column below it, if any."""
    column, value = columns[name], values.get(name)
    small = [bounds(value, column, " to ")]
    if column.below is not None:
        small.append(compared(values.get(column.below), columns[column.below]))
    return estimate(value, column) + "".join(f"<small>{each}</small>" for each in small if each)
