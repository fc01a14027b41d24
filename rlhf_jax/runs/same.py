"""`rlhf-jax doctor RUN RUN`: whether two runs have the same results, bit for bit."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from rlhf_jax.durable import taken
from rlhf_jax.durable.model_files import has_model, load_model, read_about
from rlhf_jax.runs.doctor import stages_in
from rlhf_jax.sources.records import WHOLE, StageRecords
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.metrics import METRICS

SAME = "the same"


def show_same(one: epath.PathLike, other: epath.PathLike) -> int:
    """Prints a line for each stage of two runs; returns 1 if something differs, else 0.

    Raises UserError where one of them is no run, or has a damaged file.
    """
    runs = epath.Path(one), epath.Path(other)
    places = [{place.name: place for place in stages_in(run)} for run in runs]
    differ = 0
    for stage in dict.fromkeys(name for of in places for name in of):
        missing = [str(run) for run, of in zip(runs, places, strict=True) if stage not in of]
        found = [f"not in {missing[0]}"] if missing else _compared(*(of[stage] for of in places))
        differ += any(not text.endswith(SAME) for text in found)
        print(f"{stage}: {'; '.join(found)}")
    words = f"{differ} stage{'s' * (differ > 1)} differ{'s' * (differ == 1)}"
    print(words if differ else "the results are the same, bit for bit")
    return 1 if differ else 0


def _compared(one: epath.Path, other: epath.Path) -> list[str]:
    """What is compared of a stage: metrics, model, records. A text ends with SAME if it is."""
    places = taken.followed(one), taken.followed(other)
    if places[0] == places[1]:
        return [f"both read {places[0]}, which is {SAME}"]
    found = [_metrics(*places)] if any((p / METRICS).is_file() for p in places) else []
    if any(map(has_model, (p / "model" for p in places))):
        found.append(_models(*places))
    if any(map(StageRecords.there, places)):
        found.append(_records(*places))
    return found or [f"no result yet, {SAME}"]


def _metrics(one: epath.Path, other: epath.Path) -> str:
    """The lines of metrics.jsonl, byte by byte."""
    files = one / METRICS, other / METRICS
    lines = [file.read_bytes().splitlines() if file.is_file() else [] for file in files]
    for number, pair in enumerate(zip(*lines, strict=False), 1):
        if pair[0] != pair[1]:
            return f"{METRICS} differs from line {number}"
    if len(lines[0]) != len(lines[1]):
        return f"{METRICS} has {len(lines[0])} and {len(lines[1])} lines"
    return f"{len(lines[0])} lines of {METRICS} {SAME}"


def _models(one: epath.Path, other: epath.Path) -> str:
    """The arrays of a model, bit by bit."""
    if not (has_model(one / "model") and has_model(other / "model")):
        return "only one has a finished model"
    a, b = _arrays(one / "model"), _arrays(other / "model")
    if shapes(a) != shapes(b):
        return "the models have other shapes"
    others = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    if not others:
        return f"{len(a)} arrays of the model {SAME}"
    most = max(float(np.abs(a[name].astype(float) - b[name]).max()) for name in others)
    return f"{len(others)} of {len(a)} arrays differ, as {others[0]}, by at most {most:.2g}"


def _arrays(model: epath.Path) -> dict[str, np.ndarray]:
    about = read_about(model)
    _, params = load_model(model, about["kind"], about["tokenizer"])
    leaves = jax.tree_util.tree_leaves_with_path(params)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): np.asarray(leaf) for path, leaf in leaves}


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _records(one: epath.Path, other: epath.Path) -> str:
    """The rankings that a feedback stage ends with."""
    if not (StageRecords.there(one) and StageRecords.there(other)):
        return "only one has its records"
    counts = [read_json(place / WHOLE) for place in (one, other)]
    if counts[0] != counts[1]:
        return "other numbers of records"
    total = 0
    for kind, splits in counts[0].items():
        for split in splits:
            a, b = (list(_read(place, kind, split)) for place in (one, other))
            total += len(a)
            for number, pair in enumerate(zip(a, b, strict=True), 1):
                if pair[0] != pair[1]:
                    return f"{kind}.{split} differ from record {number}"
    return f"{total} records {SAME}"


def _read(stage: epath.Path, kind: str, split: str):
    return StageRecords(stage.name, stage, tokenizer=None).read(kind, split)
