"""Cross-validation over labelers: no prompt and no labeler leaks into what is held out."""

import json
import random

import pytest

from rlhf_jax.data.folder import FILES
from rlhf_jax.data.messages import Message
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Prompt,
    Ranking,
    Scored,
    read_jsonl,
    write_jsonl,
)
from rlhf_jax.errors import UserError
from rlhf_jax.feedback.cross_validation import cross_validated, split, write_folds

RANKINGS = [
    Ranking(f"p{i % 60}", ("a", f"b{i}"), (0, 1), labeler=random.Random(i).choice("abcdefgh"))
    for i in range(400)
]


def test_neither_a_held_out_prompt_nor_a_left_out_labeler_is_trained_on():
    found = split(RANKINGS, 4, held_out=0.2)
    left_out = []
    for fold in found:
        trained = {r.prompt for r in fold.train}
        held = {r.prompt for r in fold.known} | {r.prompt for r in fold.others}
        assert len(held) == 12 and not trained & held and len(trained) == 48
        known, others = ({r.labeler for r in part} for part in (fold.train, fold.others))
        assert not known & others and {r.labeler for r in fold.known} <= known
        assert len(known | others) == 8
        left_out += sorted(others)
    assert sorted(left_out) == list("abcdefgh")  # each labeler is left out once
    sizes = [len(fold.train) for fold in found]
    assert max(sizes) - min(sizes) < 40
    assert {r.prompt for r in found[0].known} <= {r.prompt for f in found for r in f.others}
    assert split(RANKINGS, 4, held_out=0.2, seed=1) != found


def test_folds_are_folders_of_records(tmp_path):
    source = tmp_path / "source"
    write_jsonl(source / "rankings.train.jsonl", RANKINGS)
    write_jsonl(source / "rankings.valid.jsonl", RANKINGS[:1])  # takes no part
    (source / "tokenizer.json").write_text("{}")
    folders = write_folds(source, tmp_path / "folds", 4, held_out=0.2)
    assert [folder.name for folder in folders] == ["fold_0", "fold_1", "fold_2", "fold_3"]
    for folder, fold in zip(folders, split(RANKINGS, 4, held_out=0.2), strict=True):
        assert (folder / "records" / "tokenizer.json").read_text() == "{}"
        names = ("records/rankings.train.jsonl", "records/rankings.valid.jsonl", "others.jsonl")
        assert [read_jsonl(folder / name, Ranking) for name in names] == list(fold)


def test_no_training_file_of_a_fold_has_a_held_out_prompt(tmp_path, capsys):
    """Prompts p40 ... p59 are of the labeler b alone, so that the fold without b has prompts that
    only its part `others` holds. The response or answer n belongs to the prompt p(n)."""
    source, asked = tmp_path / "source", [f"p{n}" for n in range(60)]
    rankings = [Ranking(prompt, ("a", "b"), (0, 1), labeler=name)
                for n, prompt in enumerate(asked) for name in "ab"[n >= 40 :]]  # fmt: skip
    spoken = Conversation((Message("user", "p0"), Message("assistant", "0")))
    others = [Demonstration("own", "60"), Demonstration("p1 and more", "61"), spoken]
    written = {
        "rankings.train": rankings,
        "demonstrations.train": [Demonstration(f"p{n}", str(n)) for n in range(60)] + others,
        "demonstrations.valid": [Demonstration("another", "x")],
        "prompts.ppo": [Prompt(prompt, {"answer": prompt[1:]}) for prompt in asked],
        "scored.train": [Scored(f"p{n}", str(n), 1.0, labeler="c") for n in range(0, 60, 2)],
    }
    for name, records in written.items():
        write_jsonl(source / f"{name}.jsonl", records)
    folders = write_folds(source, tmp_path / "folds", 2, held_out=0.3)
    told = capsys.readouterr().out
    unknown = 0
    for folder in folders:
        known, of_others = (
            {ranking.prompt for ranking in read_jsonl(folder / name, Ranking)}
            for name in ("records/rankings.valid.jsonl", "others.jsonl")
        )
        unknown += len(of_others - known)
        assert len(known | of_others) == 18
        for name, records in written.items():
            kind = FILES[name.split(".")[0]][0]
            kept = [record for record in records if record.prompt not in known | of_others]
            if name != "rankings.train":
                assert read_jsonl(folder / "records" / f"{name}.jsonl", kind) == kept
            if name in ("demonstrations.train", "prompts.ppo"):
                assert len(records) - len(kept) == 18
                assert f"{name}.jsonl: 18 of {len(records)} records left out, because" in told
    assert unknown and told.count("records left out") == 3
    write_jsonl(source / "scored.train.jsonl", [Scored(next(iter(known)), "x", 1.0)])
    with pytest.raises(UserError, match=r"scored.train.jsonl: expected records of prompts that"):
        write_folds(source, tmp_path / "again", 2, held_out=0.3)
    assert not (tmp_path / "again").exists()


def test_folds_of_other_options_are_kept(tmp_path):
    source, to = tmp_path / "source", tmp_path / "folds"
    write_jsonl(source / "rankings.train.jsonl", RANKINGS)
    write_folds(source, to, 4, held_out=0.2)
    content = lambda: {file: file.read_bytes() for file in to.rglob("*") if file.is_file()}
    before = content()
    assert len(before) == 4 * 3
    for other in ({"held_out": 0.3}, {"seed": 1}, {"count": 3}):
        with pytest.raises(UserError, match=r"fold_0/.*jsonl: is of other records or options"):
            write_folds(source, to, **({"count": 4, "held_out": 0.2} | other))
        assert content() == before
    lost = to / "fold_1" / "others.jsonl"
    lost.unlink()  # a write that was cut short is done again
    write_folds(source, to, 4, held_out=0.2)
    assert content() == before


def test_what_cannot_be_split(tmp_path):
    path = tmp_path / "rankings.train.jsonl"
    with pytest.raises(UserError, match=r"rankings.train.jsonl: no such file"):
        write_folds(tmp_path, tmp_path / "to")
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    told = r"rankings.train.jsonl: ranking 1: field 'labeler': expected a name, got none"
    with pytest.raises(UserError, match=told):
        write_folds(tmp_path, tmp_path / "to")
    with pytest.raises(UserError, match="8 labelers: 9 folds need as many"):
        split(RANKINGS, 9)
    few = [Ranking(f"p{i}", ("a", "b"), (0, 1), labeler="ab"[i % 2]) for i in range(4)]
    with pytest.raises(UserError, match="no ranking is in the part"):
        split(few, 2)


def test_the_accuracy_of_folds_is_a_mean_with_its_error():
    found = cross_validated([0.68, 0.70, 0.71, 0.69, 0.70])
    assert found.mean == pytest.approx(0.696)
    assert found.error == pytest.approx(0.0114018 / 5**0.5, rel=1e-4)
    assert found.text() == "69.6 +- 0.5 %"
    assert cross_validated([-0.1, 0.3]).error == pytest.approx(0.2)
    with pytest.raises(UserError, match="two folds or more"):
        cross_validated([0.7])
