"""Reports of several runs side by side: means over seeds, and differences of any two models.

A setting is a config but for its seed. A row is a model in a setting, or in all settings where it
is the same in each.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    unpaired_difference,
)
from rlhf_jax.evaluation.summary import SECTIONS, shown

# What an interval is over: items are prompts or documents.
SEEDS, ITEMS, NOTHING = "seeds", "items", "nothing"
PAIRED_ITEMS, PAIRED_SEEDS, APART = "paired by item", "paired by seed", "not paired"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: of a setting and a seed.

    values    by field, what tells its setting from others, in order
    report, items  report.json and items.json of the run
    """

    values: Mapping[str, str]
    seed: int
    report: Mapping
    items: Mapping

    @property
    def setting(self) -> str:
        return ",".join(f"{field}={value}" for field, value in self.values.items())


class Estimate(NamedTuple):
    """A column of a row: the mean over seeds. over: what its interval is over."""

    value: Interval | None  # None: not known of every seed
    over: str
    by_seed: Mapping[int, float | None]


class Difference(NamedTuple):
    """Of a column of two rows. how: PAIRED_ITEMS, PAIRED_SEEDS or APART; seeds: how many."""

    value: Interval
    how: str
    seeds: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A model in a setting, "" where it is the same in all. cells: one a seed, in their order."""

    section: str
    model: str
    setting: str
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """As --between takes it."""
        return f"{self.model}@{self.setting}" if self.setting else self.model

    @property
    def seeds(self) -> list[int]:
        return [cell.seed for cell in self.cells]

    def values(self, column: str) -> dict[int, Interval | float | None]:
        """What the report of each seed says."""
        return {cell.seed: self._value(cell, column) for cell in self.cells}

    def _value(self, cell: Cell, column: str) -> Interval | float | None:
        value = cell.report[self.section][self.model].get(column)
        return Interval.of_json(value) if isinstance(value, dict) else value

    def parts(self, column: str) -> dict[int, Mapping | None]:
        """What the items of each seed bring to a column; None: not known."""
        of = lambda cell: cell.items["items"][self.section].get(self.model, {}).get(column)
        return {cell.seed: of(cell) for cell in self.cells}

    def possible(self, column: str) -> tuple[float, float]:
        """The range of a column."""
        of = self.cells[0].items["columns"][self.section].get(column)
        return Column(**(of or {"title": column})).possible

    def estimate(self, column: str) -> Estimate:
        """Its interval is cut to the column's range."""
        found = self._estimate(column)
        cut = None if found.value is None else found.value.within(*self.possible(column))
        return found._replace(value=cut)

    def _estimate(self, column: str) -> Estimate:
        values = self.values(column)
        means = {s: v.mean if isinstance(v, Interval) else v for s, v in values.items()}
        if len(values) == 1:
            (value,), (parts,) = values.values(), self.parts(column).values()
            if isinstance(value, Interval) or value is None:
                return Estimate(value, ITEMS, means)
            if parts is not None:
                return Estimate(mean_interval(*_weighed(parts)), ITEMS, means)
            return Estimate(Interval(value, -math.inf, math.inf), NOTHING, means)
        if None in means.values():
            return Estimate(None, SEEDS, means)
        mean = mean_interval(list(means.values()))
        counts = not any(isinstance(value, Interval) for value in values.values())
        if counts and None in self.parts(column).values():
            return Estimate(Interval(mean.mean, -math.inf, math.inf), NOTHING, means)
        return Estimate(mean, SEEDS, means)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """cells: of all runs. failed: by cell's name, why it has no report."""

    cells: tuple[Cell, ...]
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def settings(self) -> dict[str, Mapping[str, str]]:
        """{setting: its values by field}"""
        return {cell.setting: cell.values for cell in self.cells}

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """By section and model, in the order of the first run that has it; then by setting."""
        models = dict.fromkeys(
            (section, model)
            for section in SECTIONS.values()
            for cell in self.cells
            for model in cell.report[section]
        )
        return tuple(itertools.chain.from_iterable(self._of_model(*model) for model in models))

    def _of_model(self, section: str, model: str) -> list[Row]:
        rows = []
        for setting in self.settings:
            cells = [c for c in self.cells if c.setting == setting and model in c.report[section]]
            cells.sort(key=lambda cell: cell.seed)
            if cells:
                rows.append(Row(section, model, setting, tuple(cells)))
        if len(self.settings) > 1 and len(rows) > 1 and _alike(rows):
            by_seed = {cell.seed: cell for row in reversed(rows) for cell in row.cells}
            return [Row(section, model, "", tuple(by_seed[seed] for seed in sorted(by_seed)))]
        return rows

    def columns(self, section: str) -> dict[str, Column]:
        """Those that the reports' tables show by themselves, and that some model has a value of.
        The title of one that has another below it there names only the first of the two."""
        found: dict[str, Column] = {}
        for cell in self.cells:
            found |= {n: Column(**c) for n, c in cell.items["columns"][section].items()}
        entries = [entry for cell in self.cells for entry in cell.report[section].values()]
        known = lambda name: any(entry.get(name) is not None for entry in entries)
        return {
            name: column._replace(title=column.title.partition(",")[0], below=None)
            for name, column in shown(found).items()
            if known(name)
        }

    def row(self, name: str) -> Row:
        """By its `name`, or by its model if no other row is of this model. Raises UserError where
        there is none, or several."""
        for row in self.rows:
            if row.name == name:
                return row
        found = [row for row in self.rows if row.model == name]
        if len(found) == 1:
            return found[0]
        names = ", ".join(row.name for row in found or self.rows)
        told = "several models have this name" if found else "no such model; there are"
        raise UserError(f"{name}: {told}{':' * bool(found)} {names}")

    @functools.cached_property
    def _found(self) -> dict[tuple[str, str], dict[tuple[str, str], Difference]]:
        """Of each column of a section, computed once for the page, its legend and the JSON."""
        return {
            (section, column): self._differences(section, column)
            for section in SECTIONS.values()
            for column in self.columns(section)
        }

    def differences(self, section: str, column: str) -> dict[tuple[str, str], Difference]:
        """Of each two rows, by their names, where both have the column of `columns`."""
        return self._found[section, column]

    def _differences(self, section: str, column: str) -> dict[tuple[str, str], Difference]:
        rows = [row for row in self.rows if row.section == section]
        pairs = itertools.combinations(rows, 2)
        found = {(a.name, b.name): difference(a, b, column) for a, b in pairs}
        return {names: of for names, of in found.items() if of is not None}


def _alike(rows: Sequence[Row]) -> bool:
    """Whether a model is the same, with the same figures, in every setting: by seeds that settings
    share."""
    first, *others = rows
    told: dict[int, tuple] = {}
    for row in rows:
        for cell in row.cells:
            now = cell.items["models"][row.model], cell.report[row.section][row.model]
            if told.setdefault(cell.seed, now) != now:
                return False
    return all(set(first.seeds) & set(row.seeds) for row in others)


def difference(a: Row, b: Row, column: str) -> Difference | None:
    """a - b; None where one of them does not have the column.

    Of several seeds that both have, the interval is over the seeds' differences. Of one it is over
    the items' differences, where the items are the same. Never paired are values of different
    seeds or items: there the two samples count as independent. The interval is cut to the possible
    differences of the two columns' ranges.
    """
    found = _difference(a, b, column)
    if found is None:
        return None
    (low, high), (least, greatest) = a.possible(column), b.possible(column)
    return found._replace(value=found.value.within(low - greatest, high - least))


def _difference(a: Row, b: Row, column: str) -> Difference | None:
    one, other = a.estimate(column), b.estimate(column)
    if one.value is None or other.value is None:
        return None
    parts_a, parts_b = a.parts(column), b.parts(column)
    common = [seed for seed in a.seeds if seed in b.seeds]
    if not common or not all(_same_items(a, b, column, seed) for seed in common):
        return Difference(_apart(one, other, parts_a, parts_b), APART, 0)
    if len(common) > 1:
        apart = [one.by_seed[seed] - other.by_seed[seed] for seed in common]
        return Difference(mean_interval(apart), PAIRED_SEEDS, len(common))
    (seed,) = common
    x, y = parts_a[seed], parts_b[seed]
    if x is None or y is None or max(len(a.seeds), len(b.seeds)) > 1:
        return Difference(_apart(one, other, parts_a, parts_b), APART, 0)
    sides = ((side["totals"], side["weights"]) for side in (x, y))
    return Difference(paired_difference(*sides), PAIRED_ITEMS, 1)


def _same_items(a: Row, b: Row, column: str, seed: int) -> bool:
    """Whether a column was measured on the same items; of one that tells none, whether the data are
    the same."""
    parts = [row.parts(column)[seed] for row in (a, b)]
    if None not in parts:
        return parts[0]["of"] == parts[1]["of"]
    one, other = (cell.items["data"] for row in (a, b) for cell in row.cells if cell.seed == seed)
    return one == other


def _apart(one: Estimate, other: Estimate, parts_a: Mapping, parts_b: Mapping) -> Interval:
    """Over seeds where both have several, over items where both have one; else no interval."""
    if one.over == other.over == SEEDS:
        return unpaired_difference(list(one.by_seed.values()), list(other.by_seed.values()))
    known = [*parts_a.values(), *parts_b.values()]
    if len(known) == 2 and None not in known:
        (a, v), (b, w) = map(_weighed, known)
        return unpaired_difference(a, b, (v, w))
    return Interval(one.value.mean - other.value.mean, -math.inf, math.inf)


def _weighed(parts: Mapping) -> tuple[list[float], list[float]]:
    """Totals and weights of the items that have weight."""
    kept = [(t, w) for t, w in zip(parts["totals"], parts["weights"], strict=True) if w > 0]
    return [t for t, _ in kept], [w for _, w in kept]


def as_json(comparison: Comparison) -> dict:
    """{"settings", "rows", "differences", "failed"}; intervals as in report.json."""
    rows, differences = [], {}
    for section in SECTIONS.values():
        columns = comparison.columns(section)
        for row in comparison.rows:
            if row.section == section:
                rows.append(_row_as_json(row, columns))
        for column in columns:
            differences[column] = [
                {"a": a, "b": b, "how": d.how, "seeds": d.seeds} | d.value.as_json()
                for (a, b), d in comparison.differences(section, column).items()
            ]
    return {
        "settings": {name: dict(values) for name, values in comparison.settings.items()},
        "rows": rows,
        "differences": {column: of for column, of in differences.items() if of},
        "failed": dict(comparison.failed),
    }


def _row_as_json(row: Row, columns: Mapping[str, Column]) -> dict:
    estimates = {column: row.estimate(column) for column in columns}
    return {
        "name": row.name,
        "model": row.model,
        "setting": row.setting,
        "seeds": row.seeds,
        "columns": {
            column: {
                "over": found.over,
                "by_seed": {str(seed): value for seed, value in found.by_seed.items()},
            }
            | (found.value.as_json() if found.value else dict.fromkeys(("mean", "low", "high")))
            for column, found in estimates.items()
        },
    }
