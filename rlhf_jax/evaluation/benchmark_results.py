"""The results of benchmarks as the content of eval.json."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark, Row, table
from rlhf_jax.evaluation.evaluator import Column, Measured, Rows, Summary, as_json
from rlhf_jax.evaluation.statistics import Interval, paired_difference
from rlhf_jax.evaluation.summary import INTERVAL, measured

EXAMPLES = 6  # items of each benchmark that the page shows
LONGEST = 1200  # characters of a text of an example


class OfModel(NamedTuple):
    """What a benchmark found of a model.

    rows   in the order of the items
    cut    how many prompts lost their first tokens, as they were too long; None: not known, as the
           rows were kept by an earlier command
    known  ids of the items that stand in the training records of the model's run; None: not known
    """

    rows: Sequence[Row]
    cut: int | None
    known: Collection[str] | None


def of_benchmark(
    benchmark: Benchmark, of: int, found: Mapping[str, OfModel], against: str | None, seed: int
) -> dict[str, Any]:
    """The results of one benchmark for its models.

    of: how many items its files hold. against: the model with which the others are compared: its
    name, if it is among them; else the first.
    """
    columns = {name: table(each.rows) for name, each in found.items()}
    results = {name: measured(benchmark, rows, seed) for name, rows in columns.items()}
    base = against if against in results else next(iter(results), None)
    first = next(iter(columns.values()), {})
    return {
        "title": benchmark.title,
        "about": about_of(benchmark),
        "licence": benchmark.licence,
        "source": benchmark.source,
        "items": len(first["id"]) if first else 0,
        "of": of,
        "columns": {n: _described(column) for n, column in benchmark.columns().items()},
        "chance": dict(benchmark.chance(first)) if first else {},
        "models": {
            name: _of_model(benchmark, results[name], each, seed) for name, each in found.items()
        },
        "against": base,
        "differences": {
            name: differences(benchmark, columns[name], columns[base])
            for name in results
            if name != base
        },
        "examples": examples(columns),
    }


def _described(column: Column) -> dict[str, Any]:
    """The fields of a column as JSON values."""
    return column._asdict() | {"range": column.range and list(column.range)}


def about_of(benchmark: Benchmark) -> str:
    """The first paragraph of its docstring, in one line."""
    return " ".join((type(benchmark).__doc__ or "").split("\n\n")[0].split())


def _of_model(benchmark: Benchmark, of: Measured, model: OfModel, seed: int) -> dict[str, Any]:
    known = None if model.known is None else [id for id in of.rows["id"] if id in model.known]
    found = {
        "n": len(of.rows["id"]),
        "values": _values(of.summary),
        "counts": _counts(benchmark, of.rows),
        "groups": {
            group: {"n": int((of.rows["group"] == group).sum()), "values": _values(summary)}
            for group, summary in of.groups.items()
        },
        "prompts_cut": model.cut,
        "in_training": known,
    }
    if known and len(known) < len(of.rows["id"]):
        kept = ~np.isin(of.rows["id"].astype(str), known)
        others = {name: column[kept] for name, column in of.rows.items()}
        found["without_training"] = _values(measured(benchmark, others, seed).summary)
    return found


def _counts(benchmark: Benchmark, rows: Rows) -> dict[str, int]:
    """The number of items of each column that is a mean over some of them."""
    means = {column: rows[name] for column, name in benchmark.means().items() if name in rows}
    return {column: int(np.isfinite(values).sum()) for column, values in means.items()}


def _values(summary: Summary) -> dict[str, Any]:
    return {column: as_json(value) for column, value in summary.items()}


def differences(benchmark: Benchmark, one: Rows, other: Rows) -> dict[str, Any]:
    """{column: the paired difference of two models over the items that both have}, one - other."""
    ids = [id for id in one["id"].tolist() if id in set(other["id"].tolist())]
    parts = [benchmark.parts(_at(rows, ids)) if ids else {} for rows in (one, other)]
    found = {}
    for column in [name for name in parts[0] if name in parts[1]]:
        value: Interval | None = None
        if all(part[column][1].any() for part in parts):
            value = paired_difference(parts[0][column], parts[1][column])
        found[column] = None if value is None else as_json(value)
    return found


def _at(rows: Rows, ids: Sequence[str]) -> Rows:
    """The rows of these ids, in this order."""
    places = {id: place for place, id in enumerate(rows["id"].tolist())}
    order = [places[id] for id in ids]
    return {name: column[order] for name, column in rows.items()}


def examples(columns: Mapping[str, Rows], count: int = EXAMPLES) -> list[dict[str, Any]]:
    """The items in whose "score" the models differ most: the largest less the smallest, then the
    order of the items. Items without a difference are left out."""
    scores: dict[str, dict[str, float]] = {}
    for name, rows in columns.items():
        if "score" in rows:
            for id, score in zip(rows["id"].tolist(), rows["score"].tolist(), strict=True):
                if isinstance(score, float) and math.isfinite(score):
                    scores.setdefault(id, {})[name] = score
    apart = {id: max(of.values()) - min(of.values()) for id, of in scores.items()}
    chosen = [id for id in sorted(apart, key=lambda id: -apart[id]) if apart[id] > 0][:count]
    places = {name: {id: i for i, id in enumerate(rows["id"].tolist())}
              for name, rows in columns.items()}  # fmt: skip
    found = []
    for id in chosen:
        told: dict[str, Any] = {"id": id, "models": {}}
        for name, rows in columns.items():
            if (place := places[name].get(id)) is None:
                continue
            for text in ("prompt", "expected"):
                if text in rows and rows[text].dtype == object:  # else it is None for all
                    told.setdefault(text, short(rows[text][place]))
            answer = short(rows["answer"][place]) if "answer" in rows else ""
            told["models"][name] = {"answer": answer, "score": scores[id].get(name)}
        found.append(told)
    return found


def short(text: Any) -> str:
    """A text, cut to LONGEST characters."""
    words = "" if text is None else str(text)
    return words if len(words) <= LONGEST else words[:LONGEST] + " ..."


def as_content(
    benchmarks: Mapping[str, dict], models: Mapping[str, dict], seed: int
) -> dict[str, Any]:
    """The content of eval.json."""
    return {"interval": INTERVAL, "seed": seed, "models": dict(models),
            "benchmarks": dict(benchmarks)}  # fmt: skip
