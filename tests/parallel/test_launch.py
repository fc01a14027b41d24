"""The launch scripts, against stand-ins that write down how they are called; and SLURM's names."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.options import parse
from tests.parallel.test_processes import FIRST, SECOND, finish, start

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["ppo_ptx", "experiments/instructgpt_1b3.py", "--out", "/mnt/shared/My_run.1",
           "--parallel.fsdp", "16", "--ending.stop-token", "a b"]  # fmt: skip
SCRIPTS = {
    "tpu_vm.sh": (["my-slice", "us-east5-a"], "gcloud"),
    "gke.sh": (["my-cluster", "v5p-128", "image:1"], "xpk"),
    "slurm.sh": ([], "srun"),
}


def launch(tmp_path, script, arguments) -> tuple[int, str, list[list[str]]]:
    """Exit code, what was said, and every call of a stand-in."""
    for name in ("gcloud", "xpk", "srun"):
        stand_in = tmp_path / name
        stand_in.write_text(
            f"#!/usr/bin/env bash\nprintf '%s\\0' {name} \"$@\" >> {tmp_path}/calls\n"
            f"printf '\\n' >> {tmp_path}/calls\n"
        )
        stand_in.chmod(0o755)
    done = subprocess.run(
        [ROOT / "launch" / script, *arguments], capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    return done.returncode, done.stderr, [c.split("\0") for c in calls.split("\0\n")[:-1]]


def started(call: list[str]) -> list[str]:
    """The words of the rlhf-jax command inside a call."""
    option = [word.removeprefix("--command=") for word in call if word.startswith("--command=")]
    words = shlex.split(option[0]) if option else call
    place = next(i for i, word in enumerate(words) if word.endswith("rlhf-jax"))
    return words[place + 1 :]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_host_runs_the_same_command(tmp_path, script):
    first, program = SCRIPTS[script]
    code, said, calls = launch(tmp_path, script, [*first, *COMMAND])
    assert code == 0, said
    assert {call[0] for call in calls} == {program}
    assert started(calls[-1]) == [*COMMAND, "--parallel.coordinator", "auto"]
    flat = " ".join(calls[-1])
    assert all(word in flat for word in first)
    if script == "tpu_vm.sh":
        assert all("--worker=all" in call and "--zone=us-east5-a" in call for call in calls)
    if script == "gke.sh":
        assert "--workload=my-run-1" in calls[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_arguments_it_says_what_it_wants(tmp_path, script):
    code, said, calls = launch(tmp_path, script, [])
    assert code == 2 and not calls and f"launch/{script}" in said and "--out FOLDER" in said


def test_the_command_that_is_launched_is_one():
    """Its options are fields, the stage and the experiment are there."""
    stage, file, *options = COMMAND
    config = load_experiment(str(ROOT / file))
    assert stage in config.stages and config.parallel.coordinator is None
    (changed,) = parse([config], options, "rlhf-jax")
    assert (changed.parallel.fsdp, changed.ending.stop_token) == (16, "a b")


@pytest.mark.slow
def test_slurm_s_names_are_enough_to_find_each_other(tmp_path):
    environments = [
        {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost",
         "SLURM_NTASKS": "2", "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n),
         "SLURM_STEP_NUM_NODES": "1"}
        for n in (FIRST, SECOND)
    ]  # fmt: skip
    pair = [
        start(tmp_path / "run", tmp_path / "cache", "pretrain", devices=2, environment=names,
              together=["--parallel.coordinator", "auto"])
        for names in environments
    ]  # fmt: skip
    assert "pretrain: done" in finish(pair)[FIRST]
