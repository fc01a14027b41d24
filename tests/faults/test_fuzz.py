"""Whatever a file or an option holds: it is read, or refused with an error of ours.

RLHF_JAX_FUZZ multiplies the cases; `make test-faults` runs more than 10,000.
"""

import collections
import dataclasses
import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax import cli
from rlhf_jax.data.convert import Reading, read_file
from rlhf_jax.data.formats.to_records import TEMPLATES
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text, read_jsonl
from rlhf_jax.durable import files, manifest
from rlhf_jax.durable.batch_file import read_batch, write_batch
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.model_files import read_about
from rlhf_jax.errors import UserError
from rlhf_jax.runs import options, run
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.origin import ORIGIN, Origin
from rlhf_jax.training.metrics import trim
from tests.data.test_formats import CASES
from tests.small_run import config

SCALE = int(os.environ.get("RLHF_JAX_FUZZ", 1))
COUNTS: collections.Counter = collections.Counter()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def cases(count):
    return settings(
        max_examples=count * SCALE, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def refused_or(function, *arguments):
    """Runs it; an error of ours, in words, is as good as a result. Anything else is a failure."""
    try:
        return function(*arguments)
    except UserError as error:
        assert str(error).strip()
        return None


@st.composite
def damaged(draw, whole: bytes):
    """Bytes that differ from a file's in a few places, or by a piece left out or put in."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=6))
        else:
            del content[at : at + draw(st.integers(1, 20))]
    return bytes(content)


@st.composite
def changed(draw, value):
    """A JSON value with one of its parts replaced, removed or added to."""
    value = json.loads(json.dumps(value))
    place, key, parent = value, None, None
    while isinstance(place, dict | list) and place and draw(st.integers(0, 3)):
        parent = place
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        place = parent[key]
    other = draw(JSON)
    if parent is None:
        return other
    if isinstance(parent, dict) and draw(st.booleans()):
        parent[draw(st.text(max_size=6) | st.sampled_from(list(parent)))] = other
    elif draw(st.booleans()):
        del parent[key]
    else:
        parent[key] = other
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


RECORDS = {
    Text: {"text": "a"},
    Prompt: {"prompt": "a", "answer": [1, {"b": "c"}]},
    Demonstration: {"prompt": "a", "response": "b\u00e9"},
    Ranking: {
        "prompt": "a",
        "responses": ["b", "c", ""],
        "ranks": [0, 1, 1],
        "ended": [True, False, True],
    },
}
COMPARISON = {"prompt": "a", "chosen": "b", "rejected": "c", "tie": False}


@cases(120)
@given(data=st.data(), kind=st.sampled_from(list(RECORDS)), packed=st.booleans())
def test_records(folder, data, kind, packed):
    COUNTS["records"] += 1
    record = COMPARISON if kind is Ranking and data.draw(st.booleans()) else RECORDS[kind]
    line = json.dumps(data.draw(changed(record)) if data.draw(st.booleans()) else record)
    content = (json.dumps(record) + "\n" + line + "\n").encode()
    if data.draw(st.booleans()):
        content = data.draw(damaged(content) | st.binary(max_size=40))
    path = folder / ("records.jsonl.gz" if packed else "records.jsonl")
    content = gzip.compress(content) if packed else content
    path.write_bytes(
        data.draw(damaged(content)) if packed and data.draw(st.booleans()) else content
    )
    found = refused_or(read_jsonl, path, kind)
    assert found is None or all(type(record) is kind for record in found)


FORMATS = {case[0]: case[1] for case in CASES}
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".jsonl.zst", ".parquet")


@cases(120)
@given(data=st.data(), name=st.sampled_from(list(FORMATS)), template=st.sampled_from(TEMPLATES))
def test_formats(folder, data, name, template):
    """Changed rows of every format, also behind one that says which format it is."""
    COUNTS["formats"] += 1
    rows = [data.draw(changed(row)) if data.draw(st.booleans()) else row for row in FORMATS[name]]
    content = "".join(json.dumps(row) + "\n" for row in FORMATS[name][:1] + rows).encode()
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    path = folder / f"formats{data.draw(st.sampled_from(SUFFIXES))}"
    path.write_bytes(content)
    named = data.draw(st.sampled_from([name, None]))
    refused_or(read_file, str(path), Reading(format=named, template=template))


@cases(60)
@given(data=st.data())
def test_origins(folder, data):
    """What a run's JSON says of the file and the options that it was started with."""
    COUNTS["origins"] += 1
    place = folder / "origin"
    place.mkdir(exist_ok=True)
    file = str(Path(__file__).parents[1] / "small_run.py")
    whole = {"file": file, "options": ["--seed", "3", "--ppo.clip", "0.1"]}
    content = json.dumps(data.draw(changed(whole))).encode()
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    (place / ORIGIN).write_bytes(content)
    found = refused_or(Origin.read, place)
    assert found is None or isinstance(found.file, str)
    if found is not None and found.file == file:
        refused_by_a_line(lambda: isinstance(found.config(), Experiment))


def refused_by_a_line(function, *arguments):
    """As `refused_or`; an option that tyro refuses is as good: it names it and what it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        patch.setattr("sys.stderr", io.StringIO())
        try:
            refused_or(function, *arguments)
        except SystemExit as ended:
            assert ended.code in (0, 2)


OPTIONS = sorted(path.replace("_", "-") for path, _ in options.paths([config]))
VALUES = st.integers().map(str) | st.floats().map(str) | st.text(max_size=5) | st.sampled_from(
    ["0", "-1", "1e400", "None", "True", "nan", "1.5", "", "--", "{}", "0x10", "9" * 30]
)  # fmt: skip


class Nothing:
    def __init__(self, *arguments):
        pass

    def check(self, stages, report):
        pass

    def finish(self, stage):
        pass


@cases(10)
@given(given_options=st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), min_size=1, max_size=2))
def test_overrides(given_options):
    COUNTS["overrides"] += 1
    file = str(Path(__file__).parents[1] / "small_run.py")
    arguments = [part for name, value in given_options for part in (f"--{name}", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Run", Nothing)
        patch.setattr(files, "writable_directory", lambda path, field: None)
        refused_by_a_line(cli.command, ["sft", file, *arguments])


@pytest.fixture(scope="module")
def checkpoint(folder):
    place = folder / "checkpoint"
    (place / "state").mkdir(parents=True)
    (place / "state" / "array").write_bytes(bytes(range(200)))
    manifest.write(place, {"step": 1, "config": None})
    return place


@cases(60)
@given(data=st.data(), signed=st.booleans())
def test_manifests(checkpoint, data, signed):
    """Damaged bytes; or other JSON whose own checksum is right."""
    COUNTS["manifests"] += 1
    path = checkpoint / manifest.NAME
    whole = path.read_bytes()
    value = json.loads(whole)
    if signed:
        other = data.draw(changed(value))
        if isinstance(other, dict):
            other.pop("sha256", None)
            other["sha256"] = manifest._digest(other)
        content = json.dumps(other).encode()
    else:
        content = data.draw(damaged(whole))
    path.write_bytes(content)
    try:
        wrong = manifest.problems(checkpoint)
    finally:
        path.write_bytes(whole)
    assert all(isinstance(line, str) and line for line in wrong)
    if not signed and not wrong:
        assert json.loads(content) == value


MODEL = {"kind": "policy", "tokenizer": "0", "model": dataclasses.asdict(config.model)}


@cases(60)
@given(data=st.data())
def test_descriptions_of_models_configs_and_metrics(folder, data):
    COUNTS["descriptions"] += 1
    place = folder / "stage"
    place.mkdir(exist_ok=True)
    content = json.dumps(data.draw(changed(MODEL))).encode()
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    for name in ("model.json", "config.json"):
        (place / name).write_bytes(content)
    refused_or(read_about, place)
    refused_or(check_fingerprint, place, MODEL)
    lines = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'
    (place / "metrics.jsonl").write_bytes(data.draw(damaged(lines)))
    refused_or(trim, place / "metrics.jsonl", 1)


@cases(40)
@given(data=st.data())
def test_batches_for_replay(folder, data):
    COUNTS["batches"] += 1
    path = folder / "batch.npz"
    if not path.exists():
        write_batch(path, {"tokens": np.arange(12).reshape(3, 4)}, {"stage": "sft", "step": 3})
    other = folder / "other.npz"
    other.write_bytes(data.draw(damaged(path.read_bytes())))
    refused_or(read_batch, other)


def test_there_were_enough_of_them():
    """Last in the file: the number that `make test-faults` promises."""
    print(dict(COUNTS), sum(COUNTS.values()))
    if SCALE >= 30:
        assert sum(COUNTS.values()) >= 10_000
