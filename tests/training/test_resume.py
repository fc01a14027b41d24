"""SIGKILL at any moment, then the same call: the same bits as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.durable import checkpoint
from rlhf_jax.training.metrics import SPEED, read_metrics
from tests.compiling import xla_flags

KILLS = [
    "step:3",  # before the first checkpoint
    "save_begun:4",  # nothing of it is on disk yet
    "step:7",  # its metrics are ahead of the checkpoint
    "while_writing:8",
    "before_save:12",
    "save_begun:12",
]


def _train(directory, *kills):
    command = [sys.executable, "-m", "tests.training.small_training", str(directory), *kills]
    environment = os.environ | {"XLA_FLAGS": xla_flags()}  # one device as in real use
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    ends = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ended")]
    assert ends == [[kill, "-9"] for kill in kills] + [["None", "0"]], done.stderr[-2000:]
    return json.loads((directory / "result.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    whole = _train(folder / "whole")
    killed = _train(folder / "killed", *KILLS)
    return folder, whole, killed


def test_state_and_data_position_are_the_same_bits(runs):
    _, whole, killed = runs
    assert killed == whole


def test_metrics_are_the_same_bytes_and_speed_has_each_step_once(runs):
    folder, _, _ = runs
    whole = (folder / "whole" / "metrics.jsonl").read_bytes()
    assert (folder / "killed" / "metrics.jsonl").read_bytes() == whole
    assert [line["step"] for line in read_metrics(folder / "whole")] == list(range(1, 13))
    speed = read_metrics(folder / "killed", SPEED)
    assert [line["step"] for line in speed] == list(range(1, 13))
    seconds = [line["seconds"] for line in speed]
    assert seconds == sorted(seconds) and speed[-1]["tokens"] == 12 * 8


def test_only_the_last_checkpoint_is_left(runs):
    folder, _, _ = runs
    for name in ("whole", "killed"):
        assert checkpoint.steps(folder / name) == [12]
        assert os.listdir(folder / name / "checkpoints") == ["12"]
