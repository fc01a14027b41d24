"""items.json, which the report writes for `compare`: the config of the results, how their columns
are shown, and the contribution of each item (prompt or document) to them."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_jax.data import source_files
from rlhf_jax.data.rendering import ChatConfig
from rlhf_jax.durable.fingerprint import class_path, fingerprint_of
from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.evaluation.summary import SECTIONS, Results, columns_of
from rlhf_jax.runs.experiment import Experiment

if TYPE_CHECKING:
    from rlhf_jax.runs.run import Run

ITEMS = "items.json"


def items_of(run: "Run", results: Results, stages: Sequence[str]) -> dict:
    """The content of items.json.

    config   `figures_config`
    data     a digest of the data source's config, the seed and the files
    models   by stage: a digest of the config on which its model depends
    columns  by section and name: the fields of evaluation.evaluator.Column
    items    by section, stage and column: "totals" and "weights", the evaluator's `parts`, and
             "of", a digest of the items; it is equal if two models were measured on the same items
             in the same order
    """
    config = run.config
    records = {
        "data": fingerprint_of(config.data),
        "seed": config.seed,
        "files": source_files.known(run.directory / "data"),
    }
    items: dict = {section: {} for section in SECTIONS.values()}
    for evaluator, found in results:
        collected = [need.stage for need in evaluator.needs().values() if need.ends == "rankings"]
        measured = records | {stage: config.fingerprint(stage) for stage in collected}
        section = items[SECTIONS[evaluator.judges]]
        for stage, of in found.items():
            known = digest([measured, np.asarray(of.rows["id"]).tolist()])
            for column, (totals, weights) in evaluator.parts(of.rows).items():
                if np.isfinite(totals).all():  # else the model diverged, or nothing is known
                    parts = {"totals": _floats(totals), "weights": _floats(weights)}
                    section.setdefault(stage, {})[column] = {"of": known} | parts
    columns = {
        section: {name: column._asdict() for name, column in columns_of(results, judges).items()}
        for judges, section in SECTIONS.items()
    }
    models = {stage: digest(config.fingerprint(stage)) for stage in stages}
    return {
        "config": figures_config(config),
        "data": digest(records),
        "models": models,
        "columns": columns,
        "items": items,
    }


def figures_config(config: Experiment) -> dict:
    """The part of a config that determines the results of a report, as JSON values."""
    fields = {
        "seed": config.seed,
        "data": config.data,
        "model": config.model,
        "stages": dict(config.stages),
        "ending": config.ending,
        **({} if config.chat == ChatConfig() else {"chat": config.chat}),
        "evaluation": config.evaluation,
    }
    evaluators = {each.name: _told(each) for each in config.evaluators}
    return fingerprint_of(fields) | {"evaluators": evaluators}


def _told(evaluator: Evaluator) -> Any:
    """The evaluator as JSON values; only its class if a field cannot be JSON."""
    try:
        return fingerprint_of(evaluator)
    except TypeError:
        return class_path(type(evaluator))


def _floats(column: np.ndarray) -> list[float]:
    return np.asarray(column, np.float64).tolist()


def digest(content: Any) -> str:
    """16 hexadecimal digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
