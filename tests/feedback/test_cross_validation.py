"""Cross-validation over labelers: no prompt and no labeler leaks into what is held out."""

import json
import random

import pytest

from rlhf_jax.data.records import Ranking, read_jsonl, write_jsonl
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
