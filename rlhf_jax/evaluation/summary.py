"""The evaluators' results as the content of report.json, and how values are printed."""

from collections.abc import Mapping, Sequence

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.evaluator import Column, Evaluator, Found, Measured, Rows, Summary, as_json
from rlhf_jax.evaluation.statistics import Interval

Values = Mapping[str, dict | float | None]  # by column, as in report.json
Results = Sequence[tuple[Evaluator, Found]]
SECTIONS = {"policy": "policies", "score": "scorers"}  # sections of the report, by kind of model
SPENT = "time (of a stage, of its steps)"  # what the seconds of a report are
INTERVAL = (
    "low and high are the bounds of a 95 % interval over prompts or documents; a number without "
    "them has no interval"
)


def measured(evaluator: Evaluator, rows: Rows, seed: int) -> Measured:
    """The rows, their summary, and each group's summary if there are several groups. Intervals are
    cut to the ranges of their columns."""
    columns = evaluator.columns()

    def summary(rows: Rows) -> Summary:
        found = evaluator.summary(rows, seed)
        possible = {name: columns.get(name, Column(name)).possible for name in found}
        cut = lambda v, ends: v.within(*ends) if isinstance(v, Interval) else v
        return {name: cut(value, possible[name]) for name, value in found.items()}

    groups = list(dict.fromkeys(rows["group"])) if "group" in rows else []
    found = {}
    for group in groups if len(groups) > 1 else []:
        here = rows["group"] == group
        found[group] = summary({name: x[here] for name, x in rows.items()})
    return Measured(rows, summary(rows), found)


def summarise(results: Results, seed: int, stages: Sequence[str] = ()) -> dict:
    """{"policies": {stage: {column: value}}, "scorers": the same, "findings": [sentence, ...]}.

    A value is a number, {"mean", "low", "high"} with the bounds of a 95 % interval, or None if it
    is not known: a comparison of a model with itself, a share that no prompt tests, a diverged loss
    or KL. A bound is None where there are too few items. A stage whose rows have several groups
    also has "groups": {group: {column: value}}. "interval" says what the bounds are, and "columns"
    what each column is: {"policies": {column: {"title", "about", "better"}}, "scorers": the same}.

    stages: come first, in this order; an evaluator may measure only some of them.

    Raises UserError where two evaluators have a column of the same name.
    """
    report: dict = {section: {} for section in SECTIONS.values()}
    for stage in stages:
        for evaluator, found in results:
            if stage in found:
                report[SECTIONS[evaluator.judges]][stage] = {}
    for evaluator, found in results:
        section = report[SECTIONS[evaluator.judges]]
        for stage, of in found.items():
            entry = section.setdefault(stage, {})
            _add(entry, evaluator, of.summary)
            for group, summary in of.groups.items():
                _add(entry.setdefault("groups", {}).setdefault(group, {}), evaluator, summary)
    sentences = (
        s for evaluator, found in results if found for s in evaluator.findings(found, seed)
    )
    columns = {section: _described(results, judges) for judges, section in SECTIONS.items()}
    return report | {"findings": list(sentences), "interval": INTERVAL, "columns": columns}


def _described(results: Results, judges: str) -> dict[str, dict]:
    columns = columns_of(results, judges).items()
    return {name: {"title": c.plain, "about": c.about, "better": c.better} for name, c in columns}


def _add(entry: dict, evaluator: Evaluator, summary: Mapping) -> None:
    if taken := entry.keys() & summary.keys():
        told = ", ".join(sorted(taken))
        raise UserError(f"{evaluator.name}: another evaluator has a column of this name: {told}")
    entry |= {column: as_json(value) for column, value in summary.items()}


def columns_of(results: Results, judges: str) -> dict[str, Column]:
    """The columns of all evaluators of policies, or of scorers, in order."""
    columns: dict[str, Column] = {}
    for evaluator, found in results:
        if evaluator.judges == judges:
            columns |= columns_of_one(evaluator, found)
    return columns


def columns_of_one(evaluator: Evaluator, found: Found) -> dict[str, Column]:
    """The columns that the evaluator describes, and further values of its summary."""
    given = dict.fromkeys(name for of in found.values() for name in of.summary)
    return {name: Column(name) for name in given} | evaluator.columns()


def shown(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns that tables show, without those below another column."""
    below = {column.below for column in columns.values()}
    return {name: c for name, c in columns.items() if c.shown and name not in below}


def entries(section: Mapping[str, dict]) -> dict[str, Values]:
    """The rows of a table: each stage, then its groups."""
    rows: dict[str, Values] = {}
    for stage, values in section.items():
        rows[stage] = values
        rows |= {f"{stage}, {group}": of for group, of in values.get("groups", {}).items()}
    return rows


def estimate(value: dict | float | None, column: Column) -> str:
    """A value without its interval; "-" if it is not known."""
    mean = value["mean"] if isinstance(value, dict) else value
    if mean is None:
        return "-"
    return f"{100 * mean:z.0f} %" if column.percent else f"{mean:z.{column.digits}f}"


def bounds(value: dict | float | None, column: Column, between: str | None = None) -> str:
    """The interval of a value; "" if it has none. between: the text between the bounds; None: "-",
    or ".." if a bound is negative."""
    if not isinstance(value, dict):
        return ""
    ends = value["low"], value["high"]
    if None in ends:
        return "no interval"
    scale, digits = (100, 0) if column.percent else (1, 2)
    between = between or ("-" if min(ends) >= 0 else "..")
    return between.join(f"{scale * end:z.{digits}f}" for end in ends)


def compared(value: dict | float | None, column: Column) -> str:
    """A value that is shown below another: a difference's interval, with signs, or a number."""
    if isinstance(value, dict) and column.middle is not None:
        return Interval.of_json(value).text("+")
    return "" if value is None else estimate(value, column)


def duration(seconds: float) -> str:
    """Seconds as "41 s", "3 min 05 s" or "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
