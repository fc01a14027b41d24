"""eval.html: the results of benchmarks as a page in one file, with tables that sort."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlhf_jax.evaluation.benchmark_figure import forest
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.page import document
from rlhf_jax.evaluation.statistics import Interval
from rlhf_jax.evaluation.summary import bounds, estimate

# A click on a head sorts its table by that column, a second one the other way round. A cell that
# is not known stays last.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  table.querySelectorAll("thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.parentElement, body = table.tBodies[0];
      const column = head.cellIndex, up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const difference = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? difference : -difference;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
"""
_STYLE = """
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
th button:focus-visible { outline: 2px solid var(--good); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
figure { margin: 1rem 0; } figcaption { max-width: 40rem; margin-bottom: .4rem; }
p, li, summary, figcaption { overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg .soft { fill: var(--soft); } svg line { stroke: var(--line); }
svg .bar { stroke: var(--good); stroke-width: 2; } svg circle { fill: var(--good); }
svg .chance { stroke: var(--bad); stroke-dasharray: 4 3; }
summary { cursor: pointer; }
"""


def page(content: Mapping[str, Any]) -> str:
    """The page as text; text from models and data is escaped. content: of eval.json."""
    found, models = content["benchmarks"], content["models"]
    body = f"""<style>{_STYLE}</style>
<h1>Benchmarks</h1>
<p class="soft">{_models(models)} Small figures: 95 % intervals over items. n: items that were
measured. A head sorts its table. Chance: what a model that chooses at random scores.</p>
{_overview(found, models)}
{"".join(_section(name, of) for name, of in found.items())}
<script>{_SCRIPT}</script>
"""
    return document("rlhf_jax benchmarks", body)


def _models(models: Mapping[str, Any]) -> str:
    told = (f"{escape(name)}: {escape(of['place'])}." for name, of in models.items())
    return " ".join(told)


def _column(fields: Mapping[str, Any]) -> Column:
    return Column(**{**fields, "range": fields["range"] and tuple(fields["range"])})


def _overview(found: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """The first column of each benchmark, a row a model."""
    heads = {name: next(iter(of["columns"].items())) for name, of in found.items() if of["columns"]}
    head = "".join(
        f'<th><button type="button">{escape(_title(found[name]["title"], fields))}</button></th>'
        for name, (_, fields) in heads.items()
    )
    body = ""
    for model in models:
        cells = "".join(
            _cell(found[name]["models"].get(model, {}).get("values", {}).get(column), fields)
            for name, (column, fields) in heads.items()
        )
        body += f"<tr>{_named(model)}{cells}</tr>"
    return _table(head, body)


def _title(benchmark: str, fields: Mapping[str, Any]) -> str:
    """Of a column behind the benchmark's, unless it begins with that."""
    own = _column(fields).plain
    return own if own.startswith(benchmark) else f"{benchmark}, {own}"


def _table(head: str, body: str, first: str = "model") -> str:
    return (
        f'<div class="wide"><table class="sorts"><thead><tr><th><button type="button">{first}'
        f"</button></th>{head}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def _named(name: str, cells: str = "") -> str:
    return f'<th data-value="{escape(name)}">{escape(name)}</th>{cells}'


def _cell(value: Any, fields: Mapping[str, Any], n: int | None = None) -> str:
    """n: its number of items, where that is not the row's."""
    column = _column(fields)
    mean = value["mean"] if isinstance(value, dict) else value
    small = bounds(value, column, " to ")
    raw = "" if mean is None else repr(float(mean))
    below = f"<small>{small}</small>" if small else ""
    below += "" if n is None else f"<small>n = {n}</small>"
    return f'<td data-value="{raw}">{estimate(value, column)}{below}</td>'


def _section(name: str, of: Mapping[str, Any]) -> str:
    """One benchmark: what it is, its table, its figure, and examples."""
    items = f"{of['items']} of {of['of']} items" if of["items"] < of["of"] else f"{of['of']} items"
    shown = {n: fields for n, fields in of["columns"].items() if fields["shown"]}
    head = "".join(
        f'<th><button type="button">{escape(_column(fields).plain)}</button></th>'
        for fields in shown.values()
    )
    about = "; ".join(
        f"{escape(_column(fields).plain)}: {escape(fields['about'])}"
        + (f" ({fields['better']} is better)" if fields["better"] else "")
        for fields in shown.values()
        if fields["about"]
    )
    return f"""<h2 id="{escape(name)}">{escape(of["title"])}</h2>
<p>{escape(of["about"])}</p>
<p class="soft">{items}; {escape(of["source"])}; licence {escape(of["licence"])}. {about}.</p>
{_table(f'<th><button type="button">n</button></th>{head}', _rows(of, shown))}
{_notes(of)}{_figure(of)}{_groups(of, shown)}{_differences(of, shown)}{_examples(of)}"""


def _rows(of: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    body = ""
    for model, values in of["models"].items():
        body += _row(model, values["n"], values["values"], shown, values["counts"])
        if "without_training" in values:
            left = values["n"] - len(values["in_training"])
            name = f"{model}, without items in training"
            body += _row(name, left, values["without_training"], shown)
    if of["chance"]:
        body += _row("chance", None, of["chance"], shown)
    return body


def _row(
    name: str,
    n: int | None,
    values: Mapping[str, Any],
    shown: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
) -> str:
    """counts: of the items of a column, where they are fewer than n."""
    count = f'<td data-value="{"" if n is None else n}">{"" if n is None else n}</td>'
    own = {column: of for column, of in (counts or {}).items() if of != n}
    cells = "".join(_cell(values.get(column), fields, own.get(column))
                    for column, fields in shown.items())  # fmt: skip
    return f"<tr>{_named(name)}{count}{cells}</tr>"


def _notes(of: Mapping[str, Any]) -> str:
    lines = []
    for model, values in of["models"].items():
        known = values["in_training"]
        if known is None:
            lines.append(f"{model}: its training records are not known")
        elif known:
            told = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            lines.append(
                f"{model}: in its run's training records ({len(known)} of the items): {told}"
            )
        if values["prompts_cut"] is None:
            lines.append(
                f"{model}: rows were kept from an earlier command, which says how many "
                "prompts lost their first tokens"
            )
        elif values["prompts_cut"]:
            lines.append(f"{model}: {values['prompts_cut']} prompts were too long for its context "
                         "and lost their first tokens")  # fmt: skip
    told = "".join(f"<li>{escape(line)}.</li>" for line in lines)
    return f'<ul class="soft">{told}</ul>\n' if told else ""


def _figure(of: Mapping[str, Any]) -> str:
    """The first column of all models."""
    if not of["columns"]:
        return ""
    column, fields = next(iter(of["columns"].items()))
    values = {model: each["values"].get(column) for model, each in of["models"].items()}
    drawn = forest(values, _column(fields), of["chance"].get(column))
    return f"{drawn}\n" if drawn else ""


def _groups(of: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    body = "".join(
        _row(f"{model}, {group}", each["n"], each["values"], shown)
        for model, values in of["models"].items()
        for group, each in values["groups"].items()
    )
    if not body:
        return ""
    head = '<th><button type="button">n</button></th>' + "".join(
        f'<th><button type="button">{escape(_column(fields).plain)}</button></th>'
        for fields in shown.values()
    )
    return f"<details><summary>Groups</summary>{_table(head, body, 'model, group')}</details>\n"


def _differences(of: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    """Paired differences from the model `against`; in colour where the interval excludes 0."""
    names = [name for name in shown if any(name in each for each in of["differences"].values())]
    if not names:
        return ""
    head = "".join(
        f'<th><button type="button">{escape(_column(shown[name]).plain)}</button></th>'
        for name in names
    )
    body = "".join(
        f"<tr>{_named(model)}{''.join(_difference(each.get(name), shown[name]) for name in names)}"
        "</tr>"
        for model, each in of["differences"].items()
    )
    return (
        f"<p class='soft'>Paired differences from {escape(of['against'])}, item by item, with 95 % "
        f"intervals; in colour where the interval does not contain 0.</p>\n{_table(head, body)}"
    )


def _difference(value: Any, fields: Mapping[str, Any]) -> str:
    if value is None:
        return '<td data-value="">-</td>'
    found = Interval.of_json(value)
    scale, unit = (100, " %") if fields["percent"] else (1, "")
    digits = 1 if fields["percent"] else fields["digits"]
    side, better = found.side(), {"higher": 1, "lower": -1}.get(fields["better"], 0)
    look = "" if not side or not better else "good" if side == better else "bad"
    text = f"{scale * found.mean:+z.{digits}f}{unit}"
    ends = f"{scale * found.low:+z.{digits}f} to {scale * found.high:+z.{digits}f}"
    small = ends if math.isfinite(found.high - found.low) else "no interval"
    return (
        f'<td data-value="{found.mean!r}"><span class="{look}">{text}</span>'
        f"<small>{small}</small></td>"
    )


def _examples(of: Mapping[str, Any]) -> str:
    shown = "".join(map(_example, of["examples"]))
    if not shown:
        return ""
    return f"<details><summary>Examples where the models differ most</summary>\n{shown}</details>\n"


def _example(item: Mapping[str, Any]) -> str:
    rows: Sequence[tuple[str, str, str]] = [
        *([("expected", item["expected"], "")] if item.get("expected") else []),
        *(
            (name, each["answer"], "" if each["score"] is None else f"{each['score']:.3g}")
            for name, each in item["models"].items()
        ),
    ]
    body = "".join(
        f'<tr><th>{escape(name)}</th><td class="text">{escape(text)}</td>'
        f'<td class="marks">{escape(score)}</td></tr>'
        for name, text, score in rows
    )
    return (
        f'<section class="sample"><pre>{escape(item.get("prompt", item["id"]))}</pre>'
        f'<div class="wide"><table><tbody>{body}</tbody></table></div></section>\n'
    )
