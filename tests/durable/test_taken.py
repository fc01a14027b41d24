"""from.json: a directory that stands for another, and what is said where it no longer can."""

import shutil

import pytest

from rlhf_jax.durable import taken
from rlhf_jax.errors import UserError

HOLDS = ["model", "config.json"]


@pytest.fixture
def other(tmp_path):
    """A stage's directory of another run."""
    stage = tmp_path / "runs" / "there" / "sft"
    (stage / "model" / "params").mkdir(parents=True)
    (stage / "model" / "params" / "0").write_bytes(b"weights")
    (stage / "model" / "model.json").write_text("{}")
    (stage / "config.json").write_text("{}")
    return stage


@pytest.fixture
def own(other, tmp_path):
    directory = tmp_path / "runs" / "here" / "sft"
    taken.take(directory, other, HOLDS)
    return directory


def test_it_is_followed_where_it_is_taken_and_else_stands_for_itself(own, other):
    assert str(taken.followed(own)) == str(other)
    assert str(taken.followed(other)) == str(other)
    assert taken.is_taken(own) and not taken.is_taken(other)
    assert [file.name for file in own.iterdir()] == [taken.NAME]


def test_two_runs_that_are_moved_together_still_find_each_other(own, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "moved")
    found = taken.followed(tmp_path / "moved" / "here" / "sft")
    assert str(found) == str(tmp_path / "moved" / "there" / "sft")


def test_one_that_is_moved_alone_still_finds_the_other(own, other, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    moved = shutil.move(own.parent, tmp_path / "deep" / "er" / "here")
    assert str(taken.followed(f"{moved}/sft")) == str(other)


def test_what_is_not_read_may_change(own, other):
    (other / "metrics.jsonl").write_text("")
    (other / "model.partial").mkdir()
    assert str(taken.followed(own)) == str(other)


CHANGES = {
    "another size": lambda stage: (stage / "model" / "params" / "0").write_bytes(b"longer ones"),
    "the same size": lambda stage: (stage / "model" / "params" / "0").write_bytes(b"WEIGHTS"),
    "another config": lambda stage: (stage / "config.json").write_text("[]"),
    "one file more": lambda stage: (stage / "model" / "more").write_bytes(b""),
    "no model": lambda stage: shutil.rmtree(stage / "model"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_refused_with_both_places(own, other, change):
    CHANGES[change](other)
    with pytest.raises(UserError) as told:
        taken.followed(own)
    assert str(told.value) == (
        f"{own} is taken from {other}, which has changed since; bring it back, or remove "
        f"{own / 'from.json'}: the same command then makes it here"
    )


def test_large_files_count_by_their_size_alone(own, other, monkeypatch):
    large = other / "model" / "params" / "0"
    monkeypatch.setattr(taken, "SMALL", 4)
    before = taken.digest(taken.followed(other), HOLDS)
    large.write_bytes(b"WEIGHTS")
    assert taken.digest(taken.followed(other), HOLDS) == before
    large.write_bytes(b"WEIGHTS!")
    assert taken.digest(taken.followed(other), HOLDS) != before


def test_what_is_gone_is_refused(own, other):
    shutil.rmtree(other.parent)
    with pytest.raises(UserError, match=r"taken from .*there/sft, which is not there; bring it"):
        taken.followed(own)


@pytest.mark.parametrize("content", ["", "[1]", '{"directory": "x"}'])
def test_a_damaged_file_is_named(own, content):
    (own / taken.NAME).write_text(content)
    with pytest.raises(UserError, match=r"here/sft/from\.json: is damaged; remove it"):
        taken.followed(own)
