"""The commands of docs/resume.md, in their order, on a small experiment."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax import cli
from tests.compiling import xla_flags

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
EXPERIMENT = """
import dataclasses
from tests.small_run import config
loop = dataclasses.replace(config.loop, checkpoint_every=1000)
config = dataclasses.replace(config, loop=loop, out={!r})
config = config.with_stages(pretrain=dataclasses.replace(config.stages["pretrain"], epochs=0.3))
"""


@pytest.fixture
def commands(tmp_path):
    """They pretrain alone, for some hundred steps."""
    (tmp_path / "experiment.py").write_text(EXPERIMENT.format(str(tmp_path / "run")))
    words = {"run": "pretrain", "experiments/quickstart.py": f"{tmp_path}/experiment.py",
             "runs/quickstart": f"{tmp_path}/run", "--sft.epochs": "--pretrain.epochs"}  # fmt: skip
    lines = re.findall(r"^    rlhf-jax (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE)
    return [[words.get(word, word) for word in line.split()] for line in lines]


def start(arguments) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": xla_flags(),
    }
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("rlhf-jax")), *arguments],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def call(monkeypatch, capsys, arguments):
    monkeypatch.setattr("sys.argv", ["rlhf-jax", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, *capsys.readouterr()


def test_they_do_what_is_said(commands, tmp_path, monkeypatch, capsys):
    run, doctor, again, other, insist, replay = commands
    running = start(run)
    next(line for line in running.stdout if re.match(r"pretrain  \d+/", line))
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    saved = (
        r"pretrain: SIGTERM: saved at step (\d+) of (\d+); the same command goes on from there\n"
    )
    step, total = map(int, re.search(saved, out).groups())
    assert step < total

    code, out, _ = call(monkeypatch, capsys, doctor)
    assert code == 0 and "nothing is damaged" in out
    assert f"step {step} of {total}" in out and f"go on from step {step}" in out

    running = start(again)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0 and "pretrain: done" in out, err
    first = re.search(r"pretrain  (\d+)/", out)
    assert int(first[1]) == step  # where it stands before its first step

    code, _, err = call(monkeypatch, capsys, other)
    assert code == 2 and "--insist" in err
    assert "\n  stages.pretrain.epochs: 0.3 there, 9.0 now" in err
    code, out, _ = call(monkeypatch, capsys, insist)
    assert code == 0 and "goes on under another config:\n  stages.pretrain.epochs: 0.3 there" in out
    code, _, err = call(monkeypatch, capsys, replay)  # nothing was sick: tests/test_replay.py
    assert code == 2 and "step_300.npz: cannot be read" in err
