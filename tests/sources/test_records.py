"""The records that a stage ends with: whole only when their word is there, and read as written."""

import pytest

from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import UserError
from rlhf_jax.sources import records
from rlhf_jax.sources.records import StageRecords
from tests.data.conftest import Letters

TRAIN = [Ranking(a, ("x", "yy", "z"), (1, 0, 2), (True, False, True)) for a in "abc"]
VALID = [Ranking("d", ("x", "y"), (0, 0), (True, True))]
SPLITS = {"train": TRAIN, "valid": VALID}


@pytest.fixture
def collected(tmp_path):
    return StageRecords("feedback", tmp_path / "feedback", Letters())


def test_rankings_are_read_as_they_were_written(collected):
    collected.write("rankings", SPLITS)
    assert list(collected.read("rankings", "train")) == TRAIN
    assert list(collected.read("rankings", "valid")) == VALID
    assert collected.sources("rankings", "train") == {"feedback": 3}
    assert collected.sources("rankings", "valid") == {"feedback": 1}
    assert collected.where("rankings", "train") == "rankings.train of feedback"


def test_they_are_whole_only_when_all_of_them_are_there(collected, monkeypatch):
    assert not collected.is_whole and not StageRecords.there(collected.directory)

    def killed(path, content):
        assert (collected.directory / "records" / "rankings").is_dir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(records, "write_atomically", killed)
        collected.write("rankings", SPLITS)
    assert not collected.is_whole
    with pytest.raises(UserError, match="holds other records; remove it"):
        collected.write("rankings", {"train": VALID, "valid": TRAIN})
    assert not collected.is_whole
    collected.write("rankings", SPLITS)
    assert collected.is_whole and StageRecords.there(collected.directory)
    assert list(collected.read("rankings", "train")) == TRAIN
