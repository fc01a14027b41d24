"""A folder of one's own records: what is counted, left out and refused, and its identity."""

import dataclasses
import json
import shutil

import pytest

from rlhf_jax.data.counting import settle
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text, write_jsonl
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.sources import corpora
from rlhf_jax.sources.folder import FolderData
from tests.data.test_tokenizer import byte_level

RECORDS = {
    "text.train": [Text("one"), Text("two"), Text("two"), Text("held")],
    "text.valid": [Text("held"), Text("out")],
    "demonstrations.train": [Demonstration("a", "b"), Demonstration("c", ""),
                             Demonstration("p", "q")],
    "demonstrations.valid": [Demonstration("d", "caf\u00e9")],
    "rankings.train": [
        Ranking("e", ("x", "y"), (1, 2)),
        Ranking("e", ("x", "x"), (0, 1)),  # ranked apart from itself
        Ranking("e", ("x", "y"), (0, 0)),
        Ranking("f", ("x", "y", "x"), (0, 1, 1)),
        Ranking("g", ("y", "x"), (1, 0)),  # the one that is held out, in another order
    ],
    "rankings.valid": [Ranking("g", ("x", "y"), (0, 1))],
    "prompts.ppo": [Prompt("h"), Prompt("i", {"answer": "j"}), Prompt("p", {"answer": "q"})],
    "prompts.test": [Prompt("p")],
}  # fmt: skip
NAMES = {"pad_token": "<filler>", "bos_token": "<|end|>", "eos_token": "<|end|>"}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "records"
    for name, records in RECORDS.items():
        write_jsonl(place / f"{name}.jsonl", records)
    byte_level(["<filler>", "<|end|>"]).save(str(place / "tokenizer.json"))
    return place


def prepare(folder, out="run", size=None, **fields):
    size = size or len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    data = FolderData(path=folder and str(folder), **NAMES | fields)
    return corpora.prepare(data, folder.parent / out, size, 0)


def test_what_records_say_twice_or_not_at_all_is_counted(folder, capsys):
    corpus = prepare(folder)
    expected = {
        "heldout": {"folder": 1},
        "rankings.train.jsonl": {"equal": 2, "tied": 2},
        "rankings.valid.jsonl": {"equal": 0, "tied": 0},
        "demonstrations.train.jsonl": {"empty": 1},
        "demonstrations.valid.jsonl": {"empty": 0},
        "held_out_too": {"text": 1, "rankings": 1, "prompts": 1},
        "prompt_held_out_too": {"demonstrations": 1},
        "repeated": {"text.train": 1},
        "text": {"train": 3, "valid": 2},
        "demonstrations": {"train": 3, "valid": 1},
        "rankings": {"train": 4, "valid": 1},
        "prompts": {"ppo": 2, "test": 1},
    }
    assert corpus.counts == expected
    assert "data: held_out_too: text 1, rankings 1, prompts 1\n" in capsys.readouterr().out
    assert [r.ranks for r in corpus.read("rankings", "train")] == [
        (0, 1), (0, 0), (0, 0), (0, 1, 0),
    ]  # fmt: skip
    assert list(corpus.read("prompts", "ppo")) == RECORDS["prompts.ppo"][:2]


def test_a_training_file_that_is_all_held_out_is_refused(folder):
    write_jsonl(folder / "prompts.ppo.jsonl", RECORDS["prompts.test"])
    with pytest.raises(UserError, match=r"prompts\.ppo\.jsonl: expected records that are not held"):
        prepare(folder)


def test_the_number_said_is_of_the_records_that_are_left(folder):
    with pytest.raises(UserError, match=r"expected 5 records \(data.rankings\) that are not held "
                       r"out too \(1 are\), got 4"):  # fmt: skip
        prepare(folder, rankings=5)
    assert prepare(folder, rankings=4).counts["rankings"]["train"] == 4


def test_named_special_tokens_are_those_of_every_later_load(folder):
    tokenizer = prepare(folder).tokenizer
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 1)
    assert prepare(folder).tokenizer.fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match=r"expected a pad token, .* name one with pad_token"):
        prepare(folder, "other", pad_token=None)
    with pytest.raises(UserError, match="belongs to a run with another config"):
        prepare(folder, eos_token="<filler>")


def test_what_a_normalising_tokenizer_changes_is_counted(folder, capsys):
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["normalizer"] = {"type": "NFD"}
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    write_jsonl(folder / "text.train.jsonl", [Text("caf\u00e9"), Text("cafe"), Text("\u00e9")])
    changed = prepare(folder).counts["changed_by_tokenizer"]
    assert {name: count for name, count in changed.items() if count} == {
        "text.train": 2, "demonstrations.valid": 1,
    }  # fmt: skip
    assert "data: the tokenizer changes text: 'A" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rankings.train.jsonl", "tokenizer.json"])
def test_records_that_changed_are_refused_by_name(folder, name):
    prepare(folder)
    content = (folder / name).read_text()
    (folder / name).write_text(content + ("\n" if name == "tokenizer.json" else content))
    with pytest.raises(UserError, match=rf"data: {name} changed: sha256 .* there, .* now\. .*run"):
        prepare(folder)
    (folder / name).write_text(content)  # as before: another time of writing is no other file
    prepare(folder)


def test_another_folder_is_refused_and_a_moved_one_is_not(folder, monkeypatch, capsys):
    corpus = prepare(folder)
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved)
    shutil.rmtree(folder)
    counts, fingerprint = corpus.counts, corpus.tokenizer.fingerprint
    again = prepare(moved)
    assert (again.directory, again.counts) == (corpus.directory, counts)
    assert again.tokenizer.fingerprint == fingerprint
    assert f"the same records, from {moved} (before: {folder})" in capsys.readouterr().out
    prepare(moved)
    assert capsys.readouterr().out == ""
    (moved / "prompts.test.jsonl").write_text('{"prompt": "other"}\n')
    monkeypatch.setenv("RLHF_JAX_DATA", str(moved))
    data, size = FolderData(**NAMES), corpus.tokenizer.vocab_size
    with pytest.raises(UserError, match=r"data: prompts\.test\.jsonl changed"):
        corpora.prepare(data, corpus.directory, size, 0)
    monkeypatch.delenv("RLHF_JAX_DATA")
    assert corpora.prepare(data, corpus.directory, size, 0).counts == counts
    assert "no folder is named" in capsys.readouterr().out
    with pytest.raises(UserError, match="is no folder"):
        corpora.prepare(dataclasses.replace(data, path="gone"), corpus.directory, size, 0)


def test_a_malformed_file_may_be_mended_and_read_again(folder):
    good = (folder / "prompts.ppo.jsonl").read_text()
    (folder / "prompts.ppo.jsonl").write_text(good + '{"prompt": 3}\n')
    with pytest.raises(RecordError, match=r"prompts\.ppo\.jsonl:4: field 'prompt': expected a str"):
        prepare(folder)
    (folder / "prompts.ppo.jsonl").write_text(good)
    assert prepare(folder).counts["prompts"]["ppo"] == 2


def test_a_cut_response_is_another_than_the_whole_one():
    cut = Ranking("p", ("x", "x"), (0, 1), (True, False))
    whole = Ranking("p", ("x", "x"), (0, 1))
    assert settle([cut, whole]) == (
        [cut, Ranking("p", ("x", "x"), (0, 0))],
        {"equal": 1, "tied": 1},
    )
