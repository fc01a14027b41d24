"""A comparison of runs on the terminal."""

from rich.console import Console
from rich.text import Text

from rlhf_jax.evaluation.comparison import NOTHING, SEEDS, Comparison, Difference, Estimate, Row
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.summary import SECTIONS
from rlhf_jax.evaluation.table import HEADS, tables

COUNT = "seeds"
INTERVALS = {
    True: "Small figures: 95 % intervals, over seeds (Student's) where a row has several, else "
    "over prompts or documents.",
    False: "Small figures: 95 % intervals over prompts or documents; with one seed, they do not "
    "say how much seeds differ.",
}
TWO = (
    " With two seeds, Student's interval extends 12.7 standard errors to each side, with three "
    "seeds 4.3: run three or more."
)


NO_INTERVAL = (
    '"No interval": all values are equal, or there is a single value, so that their spread is not '
    "known."
)


def print_comparison(comparison: Comparison) -> None:
    """Prints a row for each model in each setting, then the runs that failed."""
    console = Console(highlight=False)
    for judges, section in SECTIONS.items():
        columns = {COUNT: Column("seeds", digits=0), **comparison.columns(section)}
        rows = [row for row in comparison.rows if row.section == section]
        width = max((len(row.model) for row in rows), default=0)
        label = lambda row, width=width: f"{row.model:{width}}  {row.setting}".rstrip()
        values = {label(row): values_of(row, columns) for row in rows}
        for table in tables(HEADS[judges], columns, values, console.width):
            console.print(table)
    console.print(Text(intervals(comparison)))
    for cell, reason in comparison.failed.items():
        console.print(Text(f"{cell}: failed: {reason}"))


def intervals(comparison: Comparison) -> str:
    """What the intervals are over, how wide they are with two seeds, and where there is none."""
    seeds = {len(row.seeds) for row in comparison.rows}
    found = [
        shown_value(row.estimate(name))
        for row in comparison.rows
        for name in comparison.columns(row.section)
    ]
    none = any(isinstance(value, dict) and value["low"] is None for value in found)
    return INTERVALS[max(seeds, default=0) > 1] + TWO * (2 in seeds) + f" {NO_INTERVAL}" * none


def values_of(row: Row, columns: dict[str, Column]) -> dict:
    """The values of a row, in the form of a model's values in report.json."""
    found = {name: shown_value(row.estimate(name)) for name in columns if name != COUNT}
    return {COUNT: len(row.seeds)} | found


def shown_value(estimate: Estimate) -> dict | float | None:
    if estimate.value is None:
        return None
    return estimate.value.mean if estimate.over == NOTHING else estimate.value.as_json()


def print_between(a: Row, b: Row, found: dict[str, tuple[Column, Difference]]) -> None:
    """Prints the differences a - b, one line per column."""
    print(f"{a.name} minus {b.name}, with 95 % intervals")
    width = max((len(name) for name in found), default=0)
    for name, (_, difference) in found.items():
        print(f"  {name:{width}}  {difference.value.text('+')}  ({told(difference)})")
    if not found:
        print("  they have no column in common")


def told(difference: Difference) -> str:
    """How a difference was computed, such as "paired by seed, 3 seeds"."""
    return difference.how + (f", {difference.seeds} {SEEDS}" if difference.seeds > 1 else "")
