"""SIGTERM and SIGINT end a run with a checkpoint, exit code 0 and a sentence; two runs exclude
each other; a full disk leaves the last good checkpoint."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_jax.durable import checkpoint
from rlhf_jax.durable.lock import holder, lock
from rlhf_jax.durable.signals import Preempted, Signals
from rlhf_jax.errors import UserError
from tests.compiling import xla_flags

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"XLA_FLAGS": xla_flags()}


class Ignoring:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        sum(range(9))  # what the handler raises here, Python prints and ignores


def test_a_signal_that_python_ignores_is_sent_again_without_a_traceback(capfd):
    signals = Signals()
    with pytest.raises(Preempted, match="SIGINT"), signals.handled():
        Ignoring()
        time.sleep(10)
    assert "Exception ignored" not in capfd.readouterr().err
    assert signals.received == "SIGINT"


class Training:
    """`python -m tests.training.signalled DIRECTORY ...` and the lines that it prints."""

    def __init__(self, *arguments, launcher=()):
        command = [*launcher, sys.executable, "-m", "tests.training.signalled", *arguments]
        self.process = subprocess.Popen(
            [str(a) for a in command], cwd=ROOT, env=ENVIRONMENT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def wait_for(self, word: str) -> None:
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(self.process.stderr.read()[-2000:])

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    training = Training(tmp_path)
    training.wait_for("step 3")
    training.process.send_signal(number)
    code, out, err = training.end()
    assert code == 0, err
    step = int(re.search(rf"{signal.Signals(number).name}: saved at step (\d+) of", out)[1])
    assert 3 <= step <= 5 and checkpoint.steps(tmp_path) == [step]
    assert f"step {step + 1}\n" not in out  # the step that ran was its last
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == step


def test_a_second_interrupt_ends_at_once_even_inside_a_step_that_does_not_return(tmp_path):
    training = Training(tmp_path, "hang")
    training.wait_for("hanging")
    for _ in range(2):
        training.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    started = time.monotonic()
    code, _, err = training.end()
    assert code == 130 and time.monotonic() - started < 5
    assert "again: exit at once" in err and "Traceback" not in err


def test_a_second_run_in_the_directory_is_refused_with_the_pid_of_the_first(tmp_path):
    training = Training(tmp_path, "hang")
    training.wait_for("hanging")
    with (
        pytest.raises(UserError, match=f"in use by process {training.process.pid} on "),
        lock(tmp_path),
    ):
        pass
    assert f"process {training.process.pid}" in holder(tmp_path)
    training.process.kill()
    training.end()
    assert holder(tmp_path) is None
    with lock(tmp_path), lock(tmp_path):  # held once more by the same process: no conflict
        pass


def _small_disk() -> list[str] | None:
    """A launcher that mounts 6 MB at $DISK for its command alone; None where that is forbidden."""
    if shutil.which("unshare") is None:
        return None
    mount = 'mount -t tmpfs -o size=6m tmpfs "$0"'
    trial = ["unshare", "-rm", "sh", "-c", f"{mount} && true", "/tmp"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        return None
    return ["unshare", "-rm", "sh", "-c"]


def test_a_full_disk_ends_in_one_line_with_the_last_good_checkpoint(tmp_path):
    launcher = _small_disk()
    if launcher is None:
        pytest.skip("this system lets nobody mount a small disk")
    keep = tmp_path / "kept"
    script = f'mount -t tmpfs -o size=6m tmpfs "$0" && "$@"; code=$?; cp -r "$0" {keep}; exit $code'
    disk = tmp_path / "disk"
    disk.mkdir()
    training = Training(disk, "fill", launcher=(*launcher, script, disk))
    code, out, err = training.end()
    assert code == 2, out + err
    told = [line for line in err.splitlines() if line.startswith("rlhf-jax: ")]
    assert len(told) == 1 and "no space left on" in told[0] and "Traceback" not in err, err
    good = int(re.search(r"last good (?:one|checkpoint) is of step (\d+)", told[0])[1])
    assert checkpoint.steps(keep)[-1] == good
    folder = keep / "checkpoints" / str(good)
    assert not checkpoint.manifest.problems(folder)
    code, out, err = Training(keep).end()  # where there is room again
    assert code == 0 and f"step {good + 1}\n" in out and f"step {good}\n" not in out, err
    lines = (keep / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))
