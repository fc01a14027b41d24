"""rlhf-jax compare RUN...: the reports of several runs side by side, read from their files."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils.epath import Path, PathLike

from rlhf_jax.durable.files import writable_directory, write_atomically
from rlhf_jax.durable.fingerprint import flatten
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.comparison import Cell, Comparison, as_json, difference
from rlhf_jax.evaluation.comparison_figure import draw_comparison
from rlhf_jax.evaluation.comparison_findings import findings
from rlhf_jax.evaluation.comparison_page import comparison_page
from rlhf_jax.evaluation.comparison_table import print_between, print_comparison
from rlhf_jax.runs.items import ITEMS
from rlhf_jax.strict_json import read_json

REPORT = "report.json"
MOST_FIELDS = 4  # if more fields differ, settings are named by run directories, not by fields


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Options of the compare command.

    out      the folder for comparison.html, comparison.png and comparison.json
    between  two models of the table, each the name of a stage, or STAGE@SETTING if settings differ:
             prints, for every column, the first minus the second
    """

    out: str = "runs/comparison"
    between: tuple[str, ...] = ()

    def __post_init__(self):
        told = "two models of the table, MODEL or MODEL@SETTING"
        require(len(self.between) in (0, 2), "between", self.between, told)


@dataclasses.dataclass(frozen=True)
class Reported:
    """A run's directory, with its report.json and items.json."""

    run: Path
    report: Mapping
    items: Mapping


def read(run: PathLike) -> Reported:
    """The report of a run. Raises UserError where it has none that can be compared."""
    run = Path(run)
    advice = f"rlhf-jax report EXPERIMENT.py --out {run} writes it"
    if not run.is_dir():
        raise UserError(f"{run}: no such directory")
    if not (run / REPORT).is_file():
        raise UserError(f"{run}: has no report; {advice}")
    if not (run / ITEMS).is_file():
        raise UserError(f"{run}: its report is of an earlier version, without {ITEMS}; {advice}")
    report, items = read_json(run / REPORT), read_json(run / ITEMS)
    for file, content, keys in (
        (REPORT, report, {"policies", "scorers", "seed"}),
        (ITEMS, items, {"config", "data", "models", "columns", "items"}),
    ):
        if not isinstance(content, dict) or not keys <= content.keys():
            raise UserError(f"{run / file}: expected {', '.join(sorted(keys))}; {advice} anew")
    return Reported(run, report, items)


def cells_of(runs: Sequence[Reported]) -> list[Cell]:
    """The runs as cells; settings are named by the fields in which the configs differ."""
    configs = [flatten(run.items["config"]) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config if name != "seed")
    differ = [name for name in names if len({config.get(name) for config in configs}) > 1]
    values = [{_field(n): _text(c.get(n)) for n in differ} for c in configs]
    if len(differ) > MOST_FIELDS:
        values = _by_directory(runs, values)
    seeds = [run.items["config"]["seed"] for run in runs]
    known = [(tuple(v.items()), seed) for v, seed in zip(values, seeds, strict=True)]
    if len(set(known)) < len(known):  # runs of equal config and seed: name them by directory
        values = [v | {"run": run.run.name} for v, run in zip(values, runs, strict=True)]
    return [
        Cell(v, seed, run.report, run.items)
        for v, seed, run in zip(values, seeds, runs, strict=True)
    ]


def _by_directory(runs: Sequence[Reported], values: Sequence[Mapping[str, str]]) -> list[dict]:
    """Names each setting by the directory of the first run that has it."""
    first: dict[tuple, str] = {}
    for run, of in zip(runs, values, strict=True):
        first.setdefault(tuple(of.items()), run.run.name)
    return [{"run": first[tuple(of.items())]} for of in values]


def _field(name: str) -> str:
    return name.removeprefix("stages.")


def _text(value: str | None) -> str:
    """The value of a JSON text, as text."""
    found: Any = "absent" if value is None else json.loads(value)
    return found if isinstance(found, str) else str(found)


def write(comparison: Comparison, out: Path, name: str, title: str) -> None:
    """Writes name.html, name.png and name.json into a folder, and prints the table."""
    image = draw_comparison(comparison)
    content = as_json(comparison) | {"findings": findings(comparison)}
    files = {
        f"{name}.png": image,
        f"{name}.json": (json.dumps(content, indent=1, allow_nan=False)).encode(),
        f"{name}.html": comparison_page(title, comparison, image).encode(),
    }
    for file, content in files.items():
        write_atomically(out / file, content)
    print_comparison(comparison)
    for sentence in findings(comparison):
        print(f"- {sentence}")
    print(out / f"{name}.html", flush=True)


def between(comparison: Comparison, a: str, b: str) -> None:
    """Prints the difference of two rows in every column.

    Raises UserError where a row does not exist.
    """
    one, other = comparison.row(a), comparison.row(b)
    columns = comparison.columns(one.section) if one.section == other.section else {}
    found = {name: (column, difference(one, other, name)) for name, column in columns.items()}
    print_between(one, other, {name: of for name, of in found.items() if of[1] is not None})


def compare(runs: Sequence[PathLike], options: CompareOptions) -> None:
    comparison = Comparison(tuple(cells_of([read(run) for run in runs])))
    for name in options.between:
        comparison.row(name)
    writable_directory(options.out, "out")
    write(comparison, Path(options.out), "comparison", f"{len(runs)} runs compared")
    if options.between:
        between(comparison, *options.between)
    else:
        print("The page has the differences of any two models; --between A B prints one.")
