"""Human feedback of the real files: what is kept, held out, cut and counted."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from rlhf_jax.cli import main
from rlhf_jax.data.formats.item import ASSISTANT, HUMAN
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.sources import corpora
from rlhf_jax.sources.human import HumanData, best_reply, find_human_data, no_best, recent_turns

VOCABULARY = 1024
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "hh.py"


@pytest.fixture(scope="module")
def human(human_data, tmp_path_factory):
    """The real files, prepared once."""
    data = HumanData(path=str(human_data), allow_test=True)
    return corpora.prepare(data, tmp_path_factory.mktemp("human"), VOCABULARY, 3)


def read(corpus, name, split):
    return list(corpus.read(name, split))


def test_counts_are_those_of_the_files(human):
    counts = human.counts
    assert counts["hh"]["rows"] == 2312
    assert (counts["hh"]["rankings"], counts["hh"]["prompts differ"]) == (2307, 5)
    assert counts["openassistant"]["rankings"] == 211
    assert counts["pandalm"] == {
        "rows": 999, "rankings": 999, "responses that are true or false, read as that word": 6,
        "older_turns_cut": 0, "equal": 0, "tied": 105, "no_demonstration_tied_best": 105,
        "no_demonstration_empty_best": 1,
    }  # fmt: skip
    assert counts["hh"]["older_turns_cut"] > 500
    for source in ("hh", "openassistant", "pandalm"):
        split = [human.sources("rankings", side)[source] for side in ("train", "valid")]
        replies = [human.sources("demonstrations", side)[source] for side in ("train", "valid")]
        reasons = [counts[source].get(f"no_demonstration_{r}_best", 0) for r in ("tied", "empty")]
        assert sum(split) - sum(replies) == sum(reasons)
        assert counts["heldout"][source] == split[1]
    records = counts["hh"]["rankings"] + 211 + 999 - counts["train_prompts_held_out"]
    assert sum(counts["rankings"].values()) == records
    for name in ("text", "demonstrations", "rankings", "prompts"):
        for split, count in counts[name].items():
            assert len(human.read(name, split)) == count > 0
    assert counts["text"]["valid"] == 12


def test_rankings_keep_their_ranks(human):
    rankings = read(human, "rankings", "train") + read(human, "rankings", "valid")
    sizes = [len(ranking.ranks) for ranking in rankings]
    assert set(sizes) == {2, 3, 4, 5, 6, 8, 9}
    assert sum(size > 2 for size in sizes) == 153
    ties = sum(ranking.ranks == (0, 0) for ranking in rankings)
    assert ties == human.counts["pandalm"]["tied"]


def test_no_prompt_on_both_sides(human):
    prompts = lambda name, split: {record.prompt for record in read(human, name, split)}
    held = prompts("rankings", "valid")
    assert prompts("prompts", "test") == held
    assert prompts("demonstrations", "valid") <= held
    for name, split in (("rankings", "train"), ("demonstrations", "train"), ("prompts", "ppo")):
        assert not prompts(name, split) & held
    assert prompts("prompts", "ppo") <= prompts("rankings", "train")


def test_a_tenth_of_each_source_is_held_out_and_lies_together(human):
    counts = human.counts
    assert list(counts["heldout"]) == ["hh", "openassistant", "pandalm"]
    assert sum(counts["heldout"].values()) == counts["rankings"]["valid"]
    for source in counts["heldout"]:
        assert counts["heldout"][source] == pytest.approx(0.1 * counts[source]["rankings"], rel=0.1)
    held = read(human, "rankings", "valid")
    start = counts["heldout"]["hh"]
    trees = held[start : start + counts["heldout"]["openassistant"]]
    assert any(len(ranking.ranks) > 2 for ranking in trees)
    assert all(len(ranking.ranks) == 2 for ranking in held[:start])


def test_a_prompt_that_a_held_out_dialogue_ends_on_too_is_not_trained_on(human_data, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("oasst-en100", "pandalm", "wikitext-2", "tinyshakespeare"):
        (folder / name).symlink_to(human_data / name)
    prompts = [f"{HUMAN} {i} {'a' * 100}{HUMAN} Go on.{ASSISTANT}" for i in range(40)]
    lines = [json.dumps({"chosen": p + " Yes.", "rejected": p + " No."}) for p in prompts]
    (folder / "hh-rlhf/harmless-base").mkdir(parents=True)
    with gzip.open(folder / "hh-rlhf/harmless-base/test.jsonl.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    data = HumanData(path=str(folder), prompt_characters=100, allow_test=True)
    splits, counts = data.records(0)
    alike = f"{HUMAN} Go on.{ASSISTANT}"  # what is left of every dialogue
    assert counts["train_prompts_held_out"] == 40 - counts["heldout"]["hh"] > 0
    assert all(ranking.prompt != alike for ranking in splits["rankings"]["train"])
    assert any(ranking.prompt == alike for ranking in splits["rankings"]["valid"])


def test_the_tokenizer_is_trained_on_what_is_trained_on(human):
    tokenizer = human.tokenizer
    assert tokenizer.vocab_size == VOCABULARY
    record = human.read("demonstrations", "train")[0]
    assert tokenizer.decode(tokenizer.encode(record.prompt)) == record.prompt
    assert len(tokenizer.encode(record.prompt)) < len(record.prompt) / 2


def test_a_second_call_changes_nothing(human, human_data, monkeypatch):
    monkeypatch.setattr(HumanData, "records", None)  # not asked again
    files = lambda: {p: p.stat().st_mtime_ns for p in human.directory.rglob("*") if p.is_file()}
    before = files()
    data = HumanData(path=str(human_data), allow_test=True)
    again = corpora.prepare(data, human.directory, VOCABULARY, 3)
    assert again == human
    assert files() == before


def test_the_seed_chooses_what_is_held_out(human_data):
    data = HumanData(path=str(human_data), allow_test=True)
    held = [data.records(seed)[0]["prompts"]["test"] for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def turns(*texts):
    """A dialogue of the human's texts, each but the last answered by "ok"."""
    return f"{ASSISTANT} ok".join(f"{HUMAN} {text}" for text in texts) + ASSISTANT


@pytest.mark.parametrize(
    ("texts", "room", "left"),
    [
        (("a", "b", "c"), 0, ("a", "b", "c")),  # fits exactly
        (("a", "b", "c"), -1, ("b", "c")),
        (("a", "b", "c" * 500), -1, ("b", "c" * 500)),
        (("a", "b", "c" * 500), -400, ("c" * 500,)),  # too long, and whole
        (("c" * 500,), -400, ("c" * 500,)),
    ],
)
def test_older_turns_are_cut_as_wholes(texts, room, left):
    ranking = Ranking(turns(*texts), (" x", " y", " z"), (0, 1, 1))
    cut = recent_turns(ranking, len(ranking.prompt) + room)
    assert cut == Ranking(turns(*left), ranking.responses, ranking.ranks)


def test_demonstrations_are_replies_alone_at_the_top():
    assert best_reply(Ranking("p", ("a", "b"), (1, 0))).response == "b"
    for ranks in ((1, 0, 1), (1, 2, 2), (0, 1, 2)):
        assert no_best(Ranking("p", ("a", "b", "c"), ranks)) is None
    assert no_best(Ranking("p", ("a", "a", "b"), (0, 0, 1))) is None  # twice the same reply
    assert no_best(Ranking("p", ("a", "b", "c"), (0, 0, 1))) == "tied"
    assert no_best(Ranking("p", (" ", "b"), (0, 1))) == "empty"


def test_without_data_the_command_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("RLHF_JAX_DATA", raising=False)
    options = ["--out", str(tmp_path), "--reward.batch-size", "8"]  # rows for 8 devices
    monkeypatch.setattr("sys.argv", ["rlhf-jax", "reward", str(EXPERIMENT), *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "RLHF_JAX_DATA" in error and "download_human_data('human_data')" in error


def test_public_test_sets_are_trained_on_only_if_that_is_allowed_and_it_is_told(human, human_data):
    names = ["hh-rlhf/harmless-base/test.jsonl.gz", "pandalm/testset-v1.json"]
    with pytest.raises(ConfigError) as refused:
        HumanData(path=str(human_data)).records(0)
    assert str(refused.value).startswith(
        f"data.allow_test = False: must be True to train on {', '.join(names)}, which is public as"
    )
    assert human.counts["origin"] == {
        "licences": {names[0]: "MIT", "oasst-en100/en_100_tree.jsonl": "Apache-2.0",
                     names[1]: "Apache-2.0", "wikitext-2/valid.txt": "CC BY-SA",
                     "tinyshakespeare/input.txt": "public domain"},
        "test_sets": names,
    }  # fmt: skip


def test_where_the_data_is(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_JAX_DATA", str(tmp_path))
    assert find_human_data() == tmp_path
    (tmp_path / "other").mkdir()
    assert find_human_data(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(UserError, match="absent is no folder; set RLHF_JAX_DATA"):
        find_human_data(tmp_path / "absent")
    monkeypatch.delenv("RLHF_JAX_DATA")
    with pytest.raises(UserError, match="no folder named; set RLHF_JAX_DATA"):
        find_human_data()


def test_a_folder_that_lacks_a_file(tmp_path, human_data):
    (tmp_path / "hh-rlhf/harmless-base").mkdir(parents=True)
    shutil.copy(
        human_data / "hh-rlhf/harmless-base/test.jsonl.gz", tmp_path / "hh-rlhf/harmless-base"
    )
    with pytest.raises(UserError, match=r"en_100_tree\.jsonl: cannot be read"):
        HumanData(path=str(tmp_path)).records(0)
    with pytest.raises(UserError, match="is no folder"):
        HumanData(path=str(tmp_path / "no")).records(0)
