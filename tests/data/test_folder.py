"""A folder of one's own records: what is counted, left out and refused, and its identity."""

import dataclasses
import json
import shutil

import pytest

from rlhf_jax.data import held_out
from rlhf_jax.data.counting import settle
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text, write_jsonl
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.sources import corpora
from rlhf_jax.sources.folder import FolderData
from tests.data.conftest import CORPUS
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
    out = capsys.readouterr().out
    assert (
        "left out of training, as they are held out as well: text 1, rankings 1, prompts 1" in out
    )
    assert "kept in training, though their prompt is held out as well: demonstrations 1" in out
    assert [r.ranks for r in corpus.read("rankings", "train")] == [
        (0, 1), (0, 0), (0, 0), (0, 1, 0),
    ]  # fmt: skip
    assert list(corpus.read("prompts", "ppo")) == RECORDS["prompts.ppo"][:2]


FEW = {
    "demonstrations.train": [Demonstration(f"q{i % 40}", f"a{i}") for i in range(80)],
    "rankings.train": [Ranking(f"q{i}", ("x", "y"), (0, 1)) for i in range(20, 60)],
}


def read(place, records, seed=0, **fields):
    """The splits and counts of a folder of these files alone."""
    shutil.rmtree(place, ignore_errors=True)
    for name, given in records.items():
        write_jsonl(place / f"{name}.jsonl", given)
    return FolderData(path=str(place), **fields).records(seed)


def prompts_of(splits, side):
    return {r.prompt for kind, (train, held) in held_out.SIDES.items()
            for r in splits.get(kind, {}).get((train, held)[side], ())
            if kind != "text"}  # fmt: skip


def test_what_the_folder_has_no_file_of_is_drawn_by_prompt(tmp_path, capsys):
    """A tenth of the prompts of each kind, the same for both where they share prompts."""
    splits, counts = read(tmp_path / "a", FEW, held_out=0.1)
    out = capsys.readouterr().out
    assert not prompts_of(splits, 0) & prompts_of(splits, 1)
    assert prompts_of(splits, 0) | prompts_of(splits, 1) == {f"q{i}" for i in range(60)}
    sizes = {f"{kind}.{split}": len(r) for kind, parts in splits.items()
             for split, r in parts.items()}  # fmt: skip
    assert sizes["demonstrations.valid"] >= 8 and sizes["rankings.valid"] >= 4  # a tenth of 40 each
    assert sizes["prompts.test"] == len(prompts_of(splits, 1)) in range(4, 9)
    assert sizes["prompts.ppo"] == 60 - sizes["prompts.test"]
    for kind in ("demonstrations", "rankings"):
        train, valid = (splits[kind][split] for split in ("train", "valid"))
        assert sorted(map(repr, [*train, *valid])) == sorted(map(repr, FEW[f"{kind}.train"]))
        made = counts["made"][f"{kind}.valid"]
        assert made == {"records": len(valid), "of": len(FEW[f"{kind}.train"])}
        told = (
            f"no {kind}.valid.jsonl: {len(valid)} of {made['of']} records are held out, by prompt"
        )
        assert f"data: {told} (data.held_out = 0.1)\n" in out
    assert counts["made"]["prompts.ppo"] == {"records": sizes["prompts.ppo"]}
    assert read(tmp_path / "a", FEW, held_out=0.1)[0] == splits
    assert read(tmp_path / "a", FEW, held_out=0.1, seed=1)[0] != splits
    assert len(prompts_of(read(tmp_path / "a", FEW, held_out=0.5)[0], 1)) >= 20


def test_a_file_that_is_there_stays_as_it_is_but_for_prompts_drawn_beside_it(tmp_path):
    given = FEW | {"rankings.valid": [Ranking("q0", ("x", "y"), (0, 1))]}
    splits, counts = read(tmp_path / "a", given)
    assert splits["rankings"]["valid"] == given["rankings.valid"]
    assert "q0" in {
        r.prompt for r in splits["demonstrations"]["valid"]
    }  # as its prompt is held out
    assert not prompts_of(splits, 0) & prompts_of(splits, 1)
    drawn = {r.prompt for r in splits["demonstrations"]["valid"]} - {"q0"}
    gone = [r for r in FEW["rankings.train"] if r.prompt in drawn]
    assert len(splits["rankings"]["train"]) == 40 - len(gone)
    told = {"rankings.train": {"records": len(gone), "of": 40}} if gone else {}
    assert {n: c for n, c in counts["made"].items() if n == "rankings.train"} == told
    test = [Prompt("q1", {"answer": 3}), Prompt("r")]
    splits, _ = read(tmp_path / "a", FEW | {"prompts.test": test})
    assert splits["prompts"]["test"] == test and Prompt("q1") not in splits["prompts"]["ppo"]
    assert not prompts_of(splits, 0) & prompts_of(splits, 1)
    held = {"demonstrations.valid": [Demonstration("z", "")], "rankings.valid": [
        Ranking("z", ("x", "y"), (0, 1))], "prompts.test": test}  # fmt: skip
    splits, counts = read(tmp_path / "a", FEW | held)  # nothing is drawn, so all of FEW stays
    assert splits["demonstrations"]["train"] == FEW["demonstrations.train"]
    assert Prompt("q1") not in splits["prompts"]["ppo"] and len(splits["prompts"]["ppo"]) == 59
    assert counts["held_out_too"] == {"prompts": 1}
    assert counts["prompt_held_out_too"] == {"demonstrations": 2}


def test_test_prompts_are_drawn_of_those_of_ppo_with_their_fields(tmp_path):
    given = [Prompt(f"q{i}", {"answer": i}) for i in range(20)]
    splits, _ = read(tmp_path / "a", {"prompts.ppo": given})
    (test,) = splits["prompts"]["test"]
    assert test in given and splits["prompts"]["ppo"] == [p for p in given if p != test]


def test_text_is_held_out_by_document_and_nothing_of_one_prompt(tmp_path):
    splits, counts = read(tmp_path / "a", {
        "text.train": [Text("a"), Text("b"), Text("a")],
        "demonstrations.train": [Demonstration("p", "q"), Demonstration("p", "r")],
    })  # fmt: skip
    texts = {split: {r.text for r in records} for split, records in splits["text"].items()}
    assert sorted(texts["train"] | texts["valid"]) == ["a", "b"]
    assert not texts["train"] & texts["valid"] and counts["made"]["text.valid"]["of"] == 3
    assert splits["demonstrations"].keys() == {"train"}
    assert splits["prompts"] == {"ppo": [Prompt("p")]}


def test_comparisons_are_rankings_of_two(tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    lines = [{"prompt": f"q{i}", "chosen": "x", "rejected": "y"} for i in range(3)]
    (place / "rankings.train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    splits, _ = FolderData(path=str(place)).records(0)
    assert (
        Ranking(splits["rankings"]["valid"][0].prompt, ("x", "y"), (0, 1))
        in (splits["rankings"]["valid"])
    )


def test_without_a_tokenizer_one_is_trained_on_the_training_records(tmp_path, capsys):
    folder, data = tmp_path / "a", FolderData(path=str(tmp_path / "a"))
    said = [Demonstration(f"{i}. {text}", text) for i, text in enumerate(CORPUS)]
    write_jsonl(folder / "demonstrations.train.jsonl", said)
    with pytest.raises(UserError, match=r"^model\.vocab_size = 99: .*smaller than required"):
        corpora.prepare(data, tmp_path / "run", 99, 0)
    few = corpora.prepare(data, tmp_path / "few", 9999, 0).tokenizer.vocab_size
    assert 400 < few < 9999
    told = f"the tokenizer has {few} tokens, as the training records allow no more (model.vocab"
    assert told in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data\.pad_token = '<p>': must be None: .* no tokenizer"):
        corpora.prepare(dataclasses.replace(data, pad_token="<p>"), tmp_path / "other", 400, 0)
    made = corpora.prepare(data, tmp_path / "run", 400, 0)
    assert made.tokenizer.vocab_size == 400
    printed = capsys.readouterr().out
    assert "has no tokenizer.json or tokenizer.model: one of at most 400 tokens" in printed
    assert "allow no more" not in printed
    write_jsonl(folder / "prompts.ppo.jsonl", [Prompt("new")])
    with pytest.raises(UserError, match=r"data: prompts\.ppo\.jsonl changed: sha256 of no file"):
        corpora.prepare(data, tmp_path / "run", 400, 0)


def test_a_tokenizer_is_trained_on_other_records_where_there_is_no_text():
    demonstrations, rankings = (FEW[f"{kind}.train"] for kind in ("demonstrations", "rankings"))
    splits = {"rankings": {"train": rankings, "valid": []}, "prompts": {"ppo": [Prompt("z")]}}
    assert corpora.training_texts(splits)[:3] == ["q20", "x", "y"]
    assert corpora.training_texts(splits)[-1] == "z"
    splits |= {"demonstrations": {"train": demonstrations}, "text": {"train": [Text("t")]}}
    assert corpora.training_texts(splits)[:2] == ["t", "q0a0"]
    assert len(corpora.training_texts(splits)) == 81


MISTAKES = {
    "another name": ("demos.jsonl", b"{}", r"demos\.jsonl: no file of this name is read; the "),
    "no split": ("rankings.jsonl", b"{}", r"rankings\.jsonl: no file .*did you mean rankings\.tr"),
    "json": ("text.train.json", b"[]", r"text\.train\.json: no file .*mean text\.train\.jsonl\?"),
    "packed": ("prompts.ppo.jsonl.gz", b"", r"did you mean prompts\.ppo\.jsonl\?"),
    "empty": ("rankings.valid.jsonl", b"", r"rankings\.valid\.jsonl: expected records, got none"),
    "no training file": ("text.valid.jsonl", b"", r"has text\.valid\.jsonl, but no text\.train\.j"),
    "encoding": ("rankings.valid.jsonl", '{"prompt": "\u00e9"}'.encode("latin-1"),
                 r"rankings\.valid\.jsonl:1: expected UTF-8, got byte 0xe9"),
    "a list": ("rankings.valid.jsonl", b'[\n{"prompt": "p"}]\n', r":1: expected a whole JSON obj"),
    "other fields": ("demonstrations.train.jsonl", b'{"instruction": "a", "output": "b"}',
                     r"train\.jsonl:1: field 'prompt': .*; this line has: instruction, output$"),
    "wrong type": ("demonstrations.train.jsonl", b'{"prompt": "a", "response": ["b"]}',
                   r"train\.jsonl:1: field 'response': expected a string, got \['b'\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_folder_is_one_clear_line(name, tmp_path):
    file, content, told = MISTAKES[name]
    for known, records in FEW.items():
        write_jsonl(tmp_path / f"{known}.jsonl", records)
    (tmp_path / "tokenizer_config.json").write_text("{}")  # as tokenizers are published
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        FolderData(path=str(tmp_path)).records(0)
    assert "\n" not in str(caught.value)


def test_a_folder_without_records_says_which_files_it_wants(tmp_path):
    (tmp_path / "demos.json").write_text("[]")
    with pytest.raises(UserError, match=r"has no records: expected text\.t.*; got demos\.json$"):
        FolderData(path=str(tmp_path)).records(0)
    with pytest.raises(UserError, match=r"^held_out = 0: must be in \(0, 1\)"):
        FolderData(held_out=0)


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
    with pytest.raises(UserError, match=r"model.vocab_size = 364: must be that of .*, 365"):
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
    told = capsys.readouterr().out
    assert "data: the tokenizer changes some texts: 'A" in told
    assert told.rstrip().endswith("; such records are counted above")


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
