import os
import signal
import subprocess
import sys

import grain
import pytest

from rlhf_jax.data import builder
from rlhf_jax.data.builder import RecordsBuilder, read_dataset, write_dataset
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Scored, Text, to_json
from rlhf_jax.errors import RecordError, UserError

RECORDS = {
    Text: [Text("a\n b\u2581\u00e9"), Text(" "), Text("c" * 5000)],
    Prompt: [
        Prompt(f"p{i}", {"answer": i, "\u6f22": [None, 0.1]} if i % 2 else {}) for i in range(30)
    ],
    Demonstration: [Demonstration("p", ""), Demonstration("q\n", " r", ((0, 1),), "\u6f22")],
    Ranking: [
        Ranking("p", ("a", "", "\u6f22"), (0, 0, 2)),
        Ranking("p", ("a", "b"), (1, 0), (False, True), "anna"),
    ],
    Scored: [Scored("p", "\u6f22", 1 / 3), Scored("q", "", -2.0, "ben")],
}


@pytest.mark.parametrize("kind", RECORDS)
def test_each_kind_comes_back_in_order(kind, tmp_path):
    items = RECORDS[kind]
    write_dataset(tmp_path, "records", {"train": items, "valid": items[:1]})
    source = read_dataset(tmp_path, "records", "train")
    assert list(source) == items
    assert source[len(items) - 1] == items[-1]
    assert list(read_dataset(tmp_path, "records", "valid")) == items[:1]
    assert list(grain.MapDataset.source(source)) == items


def test_responses_of_a_data_set_without_the_fields_have_ended_and_no_labeler(
    tmp_path, monkeypatch
):
    """As versions wrote it that knew no cut responses and no labelers."""
    features = builder._features(Ranking)
    del features._feature_dict["ended"], features._feature_dict["labeler"]
    items = RECORDS[Ranking][:1]
    with monkeypatch.context() as patch:
        patch.setattr(builder, "_features", lambda kind: features)
        patch.setattr(RecordsBuilder, "_generate_examples",
                      lambda self, split: enumerate(map(to_json, self._splits[split])))  # fmt: skip
        write_dataset(tmp_path, "old", {"train": items})
    assert list(read_dataset(tmp_path, "old", "train")) == items
    assert (items[0].ended, items[0].labeler) == ((True, True, True), None)


def test_prompts_of_a_data_set_without_the_field_have_none(tmp_path, monkeypatch):
    """As versions wrote it whose prompts were texts alone; their records are known by the same
    digest."""
    features = builder._features(Prompt)
    del features._feature_dict["fields"]
    items = [Prompt("a"), Prompt("b")]
    with monkeypatch.context() as patch:
        patch.setattr(builder, "_features", lambda kind: features)
        patch.setattr(builder, "_example", to_json)
        write_dataset(tmp_path, "old", {"train": items})
    assert list(read_dataset(tmp_path, "old", "train")) == items
    write_dataset(tmp_path, "old", {"train": items})
    with pytest.raises(UserError, match="holds other records"):
        write_dataset(tmp_path, "old", {"train": [Prompt("a"), Prompt("b", {"answer": 1})]})


def test_tensorflow_stays_out(tmp_path):
    code = (
        "import sys; from rlhf_jax.data.builder import *; "
        f"write_dataset({str(tmp_path)!r}, 'a', {{'train': [Text('x')]}}); "
        f"print(read_dataset({str(tmp_path)!r}, 'a', 'train')[0].text, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "x False\n"


def test_writing_again_changes_nothing_and_other_records_are_refused(tmp_path):
    splits = {"train": RECORDS[Prompt]}
    folder = write_dataset(tmp_path, "prompts", splits)
    before = {file.name: os.stat(file).st_mtime_ns for file in folder.iterdir()}
    assert write_dataset(tmp_path, "prompts", splits) == folder
    assert {file.name: os.stat(file).st_mtime_ns for file in folder.iterdir()} == before
    with pytest.raises(UserError, match="holds other records"):
        write_dataset(tmp_path, "prompts", {"train": RECORDS[Prompt][:-1]})
    assert list(read_dataset(tmp_path, "prompts", "train")) == RECORDS[Prompt]


KILLED = """
import os, signal, sys
from rlhf_jax.data import builder
from rlhf_jax.data.records import Text
whole = builder.RecordsBuilder._generate_examples
def killed(self, split):
    for number, example in whole(self, split):
        if number == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number, example
builder.RecordsBuilder._generate_examples = killed
builder.write_dataset(sys.argv[1], "a", {"train": [Text(str(i)) for i in range(100)]})
"""


def test_a_killed_run_leaves_nothing_that_reads_as_complete(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert any("incomplete" in name for _, names, _ in os.walk(tmp_path) for name in names)
    with pytest.raises(UserError, match="no such data set"):
        read_dataset(tmp_path, "a", "train")
    items = [Text(str(i)) for i in range(100)]
    write_dataset(tmp_path, "a", {"train": items})
    assert list(read_dataset(tmp_path, "a", "train")) == items


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_damage_is_reported(harm, tmp_path):
    folder = write_dataset(tmp_path, "a", {"train": [Text(f"{i}" * 50) for i in range(500)]})
    (file,) = folder.glob("*array_record*")
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(RecordError, match=r"1\.0\.0\[train\]: damaged or incomplete") as caught:
        list(read_dataset(tmp_path, "a", "train"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "splits", "message"),
    [
        ("a", {}, "at least one split"),
        ("a", {"train": []}, "split 'train': expected at least one record"),
        ("a", {"train": [Text("a"), Prompt("a")]}, "one kind, got Prompt and Text"),
        ("a", {"train": ["a"]}, "one kind, got str"),
        ("a", {"Train 1": [Text("a")]}, "split = 'Train 1'"),
        ("A-b", {"train": [Text("a")]}, "name = 'A-b'"),
    ],
)
def test_what_cannot_be_written(name, splits, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_dataset(tmp_path, name, splits)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read(tmp_path):
    folder = write_dataset(tmp_path, "a", {"train": [Text("a")]})
    with pytest.raises(UserError, match="has no split 'test', only train"):
        read_dataset(tmp_path, "a", "test")
    (folder / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="is not a data set of this package"):
        read_dataset(tmp_path, "a", "train")


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self):
        raise RuntimeError('Failed to write split "train": No space left on device; writing x')

    with monkeypatch.context() as patch:
        patch.setattr(RecordsBuilder, "download_and_prepare", full)
        with pytest.raises(OSError, match="No space left") as told:
            write_dataset(tmp_path, "text", {"train": [Text("a")]})
    assert told.value.errno == 28 and told.value.filename == str(tmp_path / "text" / "1.0.0")
    write_dataset(tmp_path, "text", {"train": [Text("a")]})
