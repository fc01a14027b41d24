"""The report on the terminal."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

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

HEADS = {"policy": "policy", "score": "scorer"}


def print_report(report: dict, results: Results) -> None:
    """Prints the tables, what was saved, the findings and the time of each stage."""
    console = Console(highlight=False)
    for judges, section in SECTIONS.items():
        columns, rows = columns_of(results, judges), entries(report[section])
        for table in tables(HEADS[judges], columns, rows, console.width):
            console.print(table)
    for stage, text in report["saved"].items():
        console.print(Text(f"{stage} is {text}"))
    for sentence in report["findings"]:
        console.print(Text(f"- {sentence}"))
    for sentence in sentences(report["records"]):
        console.print(Text(sentence))
    spent = (f"{stage} {duration(seconds)}" for stage, seconds in report["seconds"].items())
    console.print(Text(f"seed {report['seed']}; {SPENT}: " + ", ".join(spent)))


def tables(
    head: str, columns: Mapping[str, Column], rows: Mapping[str, Values], width: int
) -> list[Table]:
    """The columns side by side, in as many tables as the width requires."""
    cells = {
        name: [_cell(name, columns, values) for values in rows.values()] for name in shown(columns)
    }
    parts: list[list[str]] = []
    room, least = 0, _width([head, *rows])
    for name in cells if rows else ():
        needed = 2 + _width([columns[name].title, *cells[name]])
        if needed > room:
            parts.append([])
            room = width - 2 - least
        parts[-1].append(name)
        room -= needed
    return [_table(head, columns, list(rows), {name: cells[name] for name in part})
            for part in parts]  # fmt: skip


def _table(head: str, columns: Mapping[str, Column], rows: list[str], cells: Mapping) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(head, no_wrap=True)
    for name in cells:
        table.add_column(columns[name].title, justify="right", no_wrap=True)
    for row, *values in zip(rows, *cells.values(), strict=True):
        table.add_row(Text(row), *map(Text, values))
    return table


def _cell(name: str, columns: Mapping[str, Column], values: Values) -> str:
    """The estimate, and on a second line the column below it, if any, else its interval."""
    column, value = columns[name], values.get(name)
    below = values.get(column.below) if column.below else None
    small = bounds(value, column)
    if column.below is not None:
        small = (
            f"{below['mean']:+z.3f}"
            if isinstance(below, dict) and columns[column.below].middle is not None
            else compared(below, columns[column.below])
        )
    return estimate(value, column) + (f"\n{small}" if small else "")


def _width(cells: list[str]) -> int:
    return max(len(line) for cell in cells for line in cell.split("\n"))
