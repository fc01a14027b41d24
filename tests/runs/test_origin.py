"""A run's directory in place of its experiment file."""

import dataclasses
from pathlib import Path

import pytest

from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.errors import UserError
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.origin import Origin, experiment_of, is_run
from rlhf_jax.sources.folder import FolderData

ROOT = Path(__file__).parents[2]
SMALL = str(ROOT / "tests" / "small_run.py")
FOLDER = str(ROOT / "experiments" / "folder.py")
FIRST = ("--pretrain.batch-size", "9", "--seed", "5")
# The options of the command that started each stage, and of the last command.
STARTED = {
    "pretrain": FIRST,
    "sft": (*FIRST, "--sft.batch-size", "2"),
    "dpo": (*FIRST, "--sft.batch-size", "2", "--dpo.epochs", "3", "--evaluation.most-prompts", "8"),
}
LAST = (*FIRST, "--sft.batch-size", "2", "--ppo.iterations", "7", "--evaluation.most-prompts", "3",
        "--parallel.fsdp", "4", "--out", "elsewhere", "--stages", "ppo")  # fmt: skip


@pytest.fixture
def place(tmp_path):
    for stage, options in (STARTED | {"ppo": LAST}).items():
        origin = Origin(SMALL, options)
        check_fingerprint(tmp_path / stage, origin.config().fingerprint(stage))
        origin.write(tmp_path / stage)
    Origin(SMALL, LAST).write(tmp_path)
    return tmp_path


def test_a_run_is_as_its_last_command_read_it_and_each_stage_as_it_was_started(place):
    assert is_run(str(place)) and not is_run(SMALL) and not is_run(str(place.parent))
    small = load_experiment(SMALL)
    changes = {"pretrain": {"batch_size": 9}, "sft": {"batch_size": 2}, "ppo": {"iterations": 7},
               "dpo": {"epochs": 3.0}}  # fmt: skip
    stages = {name: dataclasses.replace(small.stages[name], **fields)
              for name, fields in changes.items()}  # fmt: skip
    asked = dataclasses.replace(small.evaluation, most_prompts=3)
    expected = dataclasses.replace(
        small.with_stages(**stages), seed=5, out=str(place), evaluation=asked
    )
    assert experiment_of(str(place)) == expected
    assert experiment_of(SMALL) == small


def test_a_stage_that_a_later_command_was_to_change_is_as_that_read_it(place):
    """`--insist` stores the new config and keeps the origin."""
    last = Origin(SMALL, (*LAST, "--dpo.epochs", "4"))
    last.write(place)
    check_fingerprint(place / "dpo", last.config().fingerprint("dpo"), insist=True)
    assert experiment_of(str(place)).stages["dpo"].epochs == 4


def test_a_stage_of_another_experiment_file_is_that_file_s(place):
    other = Origin(FOLDER, ("--reward.epochs", "4"))
    for stage in ("reward", "more"):
        check_fingerprint(place / stage, other.config().fingerprint("reward"))
        other.write(place / stage)
    stages = experiment_of(str(place)).stages
    assert stages["reward"] == other.config().stages["reward"] and "more" not in stages


def test_records_that_have_moved_are_those_of_the_run(tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    Origin(FOLDER, ("--data.path", str(records), "--data.held-out", "0.2")).write(tmp_path)
    assert experiment_of(str(tmp_path)).data == FolderData(path=str(records), held_out=0.2)
    records.rename(tmp_path / "moved")
    assert experiment_of(str(tmp_path)).data == FolderData(path=None, held_out=0.2)


def test_a_directory_that_tells_no_experiment_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected an experiment file, or the directory of a run"):
        experiment_of(str(tmp_path))
    Origin("/x.py", ()).write(tmp_path)
    with pytest.raises(UserError, match=r"its experiment file, /x.py, is not there"):
        experiment_of(str(tmp_path))
