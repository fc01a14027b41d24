"""What training reads of the answers, and what the owner reads of the labelers."""

import itertools
import json

import numpy as np
import pytest

from rlhf_jax.data.folder import read_folder
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Scored, read_jsonl
from rlhf_jax.errors import UserError
from rlhf_jax.labelling import export, merging, owner
from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.item import Item, Output
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.store import Store

PAIR = (Output("good", origins=("ppo",)), Output("bad", False, origins=("sft",)))
LABELERS = ("anna", "ben", "cleo")


def labeled(folder, items, said) -> Database:
    """A database in which said[labeler][n] is the answer to item n: ranks, or a text, or None for
    an item that is skipped. Scores are 7 less the rank."""
    database = Database(folder)
    People(database).register(LABELERS)
    store = Store(database)
    store.add(items, each=3)
    for labeler, answers in said.items():
        left = dict(enumerate(answers, 1))
        while (found := store.next(labeler)) is not None:
            value, state = left[found.number], "answered"
            if value is None:
                content, state = {"reason": "unclear", "detail": ""}, "skipped"
            elif isinstance(value, str):
                content = {"text": value}
            else:
                flags = [["opinion"] if rank else [] for rank in value]
                content = {"ranks": value, "scores": [7 - r for r in value], "flags": flags}
            store.answer(labeler, found.id, state, content, 2)
    return database


@pytest.fixture
def database(tmp_path):
    items = [
        Item("rank", "p", PAIR),
        Item("rank", "nul", (Output("c\0"), *PAIR)),
        Item("rank", "left with one", (Output("a"), Output("b\0"))),
        Item("demonstrate", "q"),
        Item("write", ""),
    ]
    said = {
        "anna": [[0, 1], [0, 2, 1], [0, 1], "my answer", "my prompt"],
        "ben": [[0, 0], [2, 0, 1], [0, 1], None, "another prompt"],
    }
    return labeled(tmp_path / "labels", items, said)


def test_training_reads_the_export_as_it_is(database, tmp_path):
    made = export.write(database, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(export.FILES)
    assert made.left_out == {
        "outputs with a NUL character": 4,
        "rankings of fewer than two other outputs": 2,
    }
    splits, _ = read_folder(str(tmp_path / "out"), share=1e-9)
    texts, ended = ("good", "bad"), (True, False)
    known = {
        Ranking("p", texts, (0, 1), ended, "anna"),
        Ranking("p", texts, (0, 0), ended, "ben"),
        Ranking("nul", texts, (1, 0), ended, "anna"),
        Ranking("nul", texts, (0, 1), ended, "ben"),
    }
    rankings = splits["rankings"]
    # One prompt is held out, so that all of its records are.
    assert set(rankings["train"]) | set(rankings["valid"]) == known
    scores = {*splits["scored"]["train"], *splits["scored"]["valid"]}
    assert Scored("p", "good", 7.0, "anna") in scores and Scored("p", "bad", 7.0, "ben") in scores
    lines = (tmp_path / "out" / "demonstrations.train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"prompt": "q", "response": "my answer", "labeler": "anna"}
    ]
    assert Prompt("my prompt", {"labeler": "anna"}) in splits["prompts"]["ppo"]
    assert all(isinstance(r, Demonstration) for r in splits["demonstrations"]["train"])


def test_every_answer_is_in_one_file_with_all_that_is_known(database):
    found = json.loads(export.files(database).content["answers.json"])
    assert len(found) == 10
    by = {(entry["labeler"], entry["item"]): entry for entry in found}
    one = by["anna", 1]
    assert (one["task"], one["prompt"], one["ranks"], one["scores"]) == (
        "rank",
        "p",
        [0, 1],
        [7, 6],
    )
    assert one["flags"] == [[], ["opinion"]]
    assert one["outputs"][1] == {"text": "bad", "ended": False, "origins": ["sft"]}
    assert by["ben", 4]["state"] == "skipped" and by["ben", 4]["reason"] == "unclear"
    assert by["ben", 5]["text"] == "another prompt"
    assert 0 <= one["seconds"] <= 2


def test_an_export_leaves_no_file_of_an_earlier_one(database, tmp_path):
    export.write(database, tmp_path / "out")
    People(database).delete("anna")
    made = export.write(database, tmp_path / "out")
    assert "demonstrations.train.jsonl" not in made.records
    assert not (tmp_path / "out" / "demonstrations.train.jsonl").exists()
    assert "anna" not in (tmp_path / "out" / "answers.json").read_text()


def test_gold_items_are_not_trained_on(tmp_path):
    items = [Item("rank", "known", PAIR, (1, 0)), *(Item("rank", f"p{i}", PAIR) for i in range(6))]
    database = labeled(tmp_path, items, {"anna": [[1, 0]] * 7, "ben": [[0, 1]] * 7})
    made = export.files(database)
    assert b"known" not in made.content["rankings.train.jsonl"]
    assert b"known" not in made.content["scored.train.jsonl"]
    assert b"known" in made.content["answers.json"]
    found = owner.overview(database)
    assert [(row["total"], row["answers"]) for row in found["items"]] == [(6, 12)]
    rows = {row["name"]: row for row in found["labelers"]}
    assert [(rows[name]["gold"], rows[name]["gold_pairs"]) for name in LABELERS] == [
        (1.0, 1), (0.0, 1), (None, 0)
    ]  # fmt: skip


@pytest.mark.parametrize("merge", ["majority", "bradley_terry"])
def test_one_ranking_of_an_item_is_that_of_most_labelers(tmp_path, merge):
    three = tuple(map(Output, "abc"))
    said = {"anna": [[0, 1, 2]], "ben": [[0, 2, 1]], "cleo": [[1, 0, 2]]}
    database = labeled(tmp_path, [Item("rank", "p", three)], said)
    lines = export.files(database, merge).content["rankings.train.jsonl"].decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [0, 1, 2]}
    ]


def test_majorities_and_strengths_can_differ():
    # Two of three labelers prefer a to each other output; yet b wins 7 comparisons, and a 6.
    rankings = [[0, 1, 2, 3], [0, 1, 2, 3], [3, 0, 1, 2]]
    assert merging.majority(rankings) == (0, 1, 2, 3)
    assert merging.bradley_terry(rankings) == (1, 0, 2, 3)
    # A cycle of three majorities is a tie of all.
    assert merging.majority([[0, 1, 2], [2, 0, 1], [1, 2, 0]]) == (0, 0, 0)
    assert merging.majority([[0, 0, 1], [0, 0, 1]]) == (0, 0, 1)


def test_strengths_are_those_of_maximum_likelihood():
    rng = np.random.default_rng(0)
    for _ in range(10):
        count = int(rng.integers(2, 6))
        rankings = [rng.integers(0, 3, count).tolist() for _ in range(int(rng.integers(1, 5)))]
        wins = np.zeros((count, count))
        for ranks, i, j in itertools.product(rankings, range(count), range(count)):
            wins[i, j] += (i != j) * (0.5 if ranks[i] == ranks[j] else ranks[i] < ranks[j])
        strength = np.ones(count)
        for _ in range(1000):  # Hunter (2004), MM; a little of each other's wins keeps it finite
            total = wins.sum(axis=1) + 1e-3
            pairs = (wins + wins.T + 2e-3 / count) / (strength[:, None] + strength)
            strength = total / pairs.sum(axis=1)
            strength /= strength.mean()
        values = np.round(np.log(strength), 5)
        expected = [sorted(set(-values)).index(value) for value in -values]
        assert list(merging.bradley_terry(rankings)) == expected


def test_the_owner_reads_agreement_by_labeler(tmp_path):
    items = [Item("rank", f"p{i}", tuple(map(Output, "abc"))) for i in range(4)]
    same, other = [0, 1, 2], [2, 1, 0]
    said = {"anna": [same] * 4, "ben": [same, same, same, [0, 1, 1]], "cleo": [other] * 4}
    found = owner.overview(labeled(tmp_path, items, said))
    # Of 12 pairs anna and ben agree on 11; cleo agrees with nobody.
    rows = {row["name"]: row for row in found["labelers"]}
    assert rows["anna"]["raw"] == pytest.approx(11 / 24)
    assert rows["ben"]["raw"] == pytest.approx(11 / 24)
    assert rows["cleo"]["raw"] == 0.0
    assert found["agreement"]["raw"] == pytest.approx(11 / 36)
    assert found["agreement"]["pairs"] == 12 and found["agreement"]["items"] == 4
    assert found["agreement"]["raw_low"] <= 11 / 36 <= found["agreement"]["raw_high"]
    assert found["agreement"]["alpha_ranks"] < 0.1 and found["agreement"]["alpha_scores"] < 0.5
    assert rows["anna"]["answered"] == 4 and rows["anna"]["online"] and rows["anna"]["last"]
    assert found["items"] == [
        {"task": "rank", "total": 4, "complete": 4, "wanted": 12, "answers": 12, "skips": 0}
    ]
    counts = {row["code"]: row["count"] for row in found["flags"]}
    assert counts["opinion"] == 24 and counts["violent"] == 0 and found["flags"][0]["outputs"] == 36


def test_an_item_is_complete_when_all_have_answered(tmp_path):
    database = labeled(tmp_path, [Item("rank", "p", PAIR)], {"anna": [[0, 1]], "ben": [None]})
    found = lambda: owner.overview(database)["items"]
    Store(database).next("cleo")
    assert [(row["complete"], row["answers"], row["skips"]) for row in found()] == [(0, 1, 1)]


def test_models_are_compared_over_pairs_of_their_outputs(tmp_path):
    outputs = (Output("x", origins=("ppo",)), Output("y", origins=("sft",)),
               Output("z", origins=("ppo", "sft")))  # fmt: skip
    said = {"anna": [[0, 2, 1]], "ben": [[0, 1, 1]]}
    found = owner.overview(labeled(tmp_path, [Item("rank", "p", outputs)], said))["origins"]
    # For each labeler ppo's x and z meet sft's y and z: x > y, x > z, z ? y, z = z.
    assert [(row["name"], row["outputs"], row["pairs"]) for row in found] == [
        ("ppo", 4, 8), ("sft", 4, 8)
    ]  # fmt: skip
    assert found[0]["wins"] == (1 + 1 + 1 + 0.5 + 1 + 1 + 0.5 + 0.5) / 8
    assert found[1]["wins"] == 1 - found[0]["wins"]
    assert found[0]["mean_score"] == (7 + 6 + 7 + 6) / 4


def test_each_fold_holds_other_labelers_and_their_prompts_out(tmp_path):
    items = [Item("rank", f"p{i}", PAIR) for i in range(7)]
    # All rank p0; each labeler ranks two more.
    said = {name: [[0, 1]] * 7 for name in LABELERS}
    database = Database(tmp_path / "labels")
    People(database).register(LABELERS)
    store = Store(database)
    store.add(items[:1], each=3)
    store.add(items[1:], each=1)
    for number in range(3):
        for name in LABELERS:
            found = store.next(name)
            content = {"ranks": said[name][number], "scores": [7, 1], "flags": [[], []]}
            store.answer(name, found.id, "answered", content, 1)
    written = export.write_folds(database, tmp_path / "out", 3)
    held = set()
    for folder, made in written:
        train, valid = (read_jsonl(folder / f"rankings.{split}.jsonl", Ranking)
                        for split in ("train", "valid"))  # fmt: skip
        (labeler,) = {r.labeler for r in valid}
        held.add(labeler)
        assert len(valid) == 3 and len(train) == 4
        assert labeler not in {r.labeler for r in train}
        assert not {r.prompt for r in train} & {r.prompt for r in valid}
        assert made.left_out == {"rankings of prompts that are held out": 2}
        splits, counts = read_folder(str(folder))
        assert len(splits["rankings"]["train"]) == 4 and counts["held_out_too"] == {}
    assert held == set(LABELERS)
    with pytest.raises(UserError, match="3 labelers: 4 folds need as many"):
        export.write_folds(database, tmp_path / "out", 4)


def test_folds_without_a_ranking_to_train_on_are_refused(tmp_path):
    database = labeled(tmp_path / "labels", [Item("rank", "p", PAIR)], {
        "anna": [[0, 1]], "ben": [[0, 1]], "cleo": [[0, 1]]})  # fmt: skip
    with pytest.raises(UserError, match="folds = 3: no ranking is left to train on: the held-out"):
        export.write_folds(database, tmp_path / "out", 3)


def test_a_folder_without_answers_has_an_overview(tmp_path):
    found = owner.overview(labeled(tmp_path, [Item("rank", "p", PAIR)], {}))
    assert found["agreement"]["raw"] is None and found["labelers"][0]["raw"] is None
    assert found["origins"] == [] and export.files(Database(tmp_path)).content == {}
