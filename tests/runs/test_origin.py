"""A run's directory in place of its experiment file."""

import dataclasses
from pathlib import Path

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.origin import Origin, experiment_of, is_run

SMALL = str(Path(__file__).parents[1] / "small_run.py")
STARTED = {
    "ppo": ("--ppo.iterations", "7", "--seed", "5", "--dpo.epochs", "3", "--out", "elsewhere"),
    "pretrain": ("--stages", "pretrain", "--pretrain.batch-size", "9"),
    "sft": ("--sft.batch-size", "2", "--seed", "4", "--pretrain.batch-size", "8"),
}


@pytest.fixture
def place(tmp_path):
    for stage, options in STARTED.items():
        (tmp_path / stage).mkdir()
        Origin(SMALL, options).write(tmp_path / stage)
    (tmp_path / "data").mkdir()
    (tmp_path / "lock").touch()
    return tmp_path


def test_a_run_has_its_last_stage_s_options_and_each_stage_its_own(place):
    assert is_run(str(place)) and not is_run(SMALL) and not is_run(str(place / "ppo"))
    config, small = experiment_of(str(place)), load_experiment(SMALL)
    changes = {"pretrain": {"batch_size": 9}, "sft": {"batch_size": 2}, "ppo": {"iterations": 7},
               "dpo": {"epochs": 3.0}}  # fmt: skip
    stages = {name: dataclasses.replace(small.stages[name], **fields)
              for name, fields in changes.items()}  # fmt: skip
    expected = dataclasses.replace(small.with_stages(**stages), seed=5, out=str(place))
    assert config == expected and list(config.stages) == list(small.stages)
    assert experiment_of(SMALL) == small


@pytest.mark.parametrize(
    ("stage", "origin", "told"),
    [
        (None, None, "{place}/sub: expected an experiment file, or the directory of a run"),
        ("new", Origin(SMALL, ()), "{place}: {small} has no stage 'new' any more"),
        ("sft", Origin("/x.py", ()), "{place}: its experiment file, /x.py, is not there"),
    ],
    ids=["no run", "no stage", "no file"],
)
def test_a_directory_that_tells_no_experiment_is_refused(place, stage, origin, told):
    source = place / "sub"
    if stage is not None:
        source = place
        (place / stage).mkdir(exist_ok=True)
        origin.write(place / stage)
    with pytest.raises(UserError) as caught:
        experiment_of(str(source))
    assert str(caught.value).startswith(told.format(place=place, small=SMALL))
