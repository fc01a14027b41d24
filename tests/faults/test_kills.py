"""Killed again and again at random moments, every stage ends in the bits of an unbroken run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.faults.kills import STAGES

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("RLHF_JAX_KILLS", 25))
pytestmark = pytest.mark.slow


def drive(directory, cache, stage, kills=0, seed=0) -> str:
    command = [sys.executable, "-m", "tests.faults.kills", directory, stage, kills, seed]
    environment = os.environ | {
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    drive(folder / "whole", folder / "cache", "whole")
    return folder


def final(directory) -> tuple[str, dict]:
    """The last step of a stage and the arrays of its checkpoint."""
    folder = max((directory / "checkpoints").iterdir(), key=lambda p: int(p.name))
    return folder.name, ocp.PyTreeCheckpointHandler().restore(folder / "state")


@pytest.mark.parametrize("stage", STAGES)
def test_the_bits_are_those_of_an_unbroken_run(whole, tmp_path, stage):
    names = list(STAGES)
    left_out = set(names[names.index(stage) :])
    shutil.copytree(
        whole / "whole", tmp_path / "run", ignore=lambda _, found: left_out & set(found)
    )
    printed = drive(tmp_path / "run", whole / "cache", stage, KILLS, seed=KILLS)
    moments = re.findall(r"^killed \d+ (\w+) [\d.]", printed, re.MULTILINE)
    assert len(moments) == KILLS, printed[-2000:]
    if KILLS >= 25:
        assert set(moments) == set(STAGES[stage][1])
    ours, theirs = tmp_path / "run" / stage, whole / "whole" / stage
    step, state = final(ours)
    last, unbroken = final(theirs)
    assert step == last and state.keys() == unbroken.keys() and len(state) > 20
    for name, array in state.items():
        assert np.asarray(array).tobytes() == np.asarray(unbroken[name]).tobytes(), name
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    position = [p / "checkpoints" / step / "data" / "metadata" for p in (ours, theirs)]
    assert json.loads(position[0].read_text()) == json.loads(position[1].read_text())
