"""Two real processes on loopback: they train as one does, stop together, and outlive a death."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from rlhf_jax.data.builder import read_dataset
from rlhf_jax.parallel.processes import LOST
from tests import bucket
from tests.compiling import xla_flags

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = str(ROOT / "tests" / "small_run.py")
# A batch of the pretraining has fewer rows than there are devices.
ROWS = ["--pretrain.batch-size", "2", "--pretrain.epochs", "0.008", "--reward.batch-size", "8"]
FIRST, SECOND = 0, 1


def start(
    directory,
    cache,
    command,
    *options,
    devices,
    together=(),
    environment=None,
    module="rlhf_jax.cli",
) -> subprocess.Popen:
    environment = (
        os.environ
        | (environment or {})
        | {
            "XLA_FLAGS": xla_flags(devices),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        }
    )
    line = [sys.executable, "-m", module, command, EXPERIMENT, "--out", str(directory)]
    return subprocess.Popen(
        [*line, *ROWS, *options, *together], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_two(directory, cache, command, *options, **more) -> list[subprocess.Popen]:
    port = free_port()
    place = ["--parallel.coordinator", f"localhost:{port}", "--parallel.processes", "2",
             "--parallel.heartbeat", "10", "--parallel.process"]  # fmt: skip
    return [
        start(
            directory, cache, command, *options, devices=2, together=[*place, str(process)], **more
        )
        for process in (FIRST, SECOND)
    ]


def finish(processes, code=0) -> list[str]:
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [p.returncode for p in processes] == [code] * len(processes), "\n".join(printed)
    return printed


def metrics(directory, stage) -> list[dict]:
    path = directory / stage / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_step(directory, stage, step, processes) -> None:
    limit = time.monotonic() + 240
    while len(metrics(directory, stage)) < step:
        ended = [p.communicate()[0] for p in processes if p.poll() is not None]
        assert time.monotonic() < limit and not ended, "\n".join(ended)
        time.sleep(0.05)


def assert_same(directory, other, stage) -> None:
    """Within what sums in another order make of float32 in a few steps."""
    found, expected = metrics(directory, stage), metrics(other, stage)
    assert len(found) == len(expected) > 2
    for line, wanted in zip(found, expected, strict=True):
        assert line.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(line[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with one device."""
    folder = tmp_path_factory.mktemp("processes")
    finish([start(folder / "one", folder / "cache", "pretrain", devices=1)])
    return folder


def test_two_processes_train_stop_and_go_on_as_one(alone, tmp_path):
    cache = alone / "cache two"
    stopped = finish(start_two(tmp_path, cache, "pretrain", "--stop-after-steps", "3"))
    assert "pretrain: stopped at step 3 of" in stopped[FIRST]
    assert "pretrain" not in stopped[SECOND]  # one of them speaks
    assert "pretrain: done" in finish(start_two(tmp_path, cache, "pretrain"))[FIRST]
    assert_same(tmp_path, alone / "one", "pretrain")


@pytest.mark.slow
def test_two_processes_in_a_bucket_go_on_as_one_on_a_disk(alone):
    cache, out = alone / "cache two", epath.Path("gs://tests/two")
    with bucket.serve() as served:
        pair = lambda *options: start_two(out, cache, "pretrain", *options, module="tests.bucket")
        assert "pretrain: stopped at step 3 of" in finish(pair("--stop-after-steps", "3"))[FIRST]
        assert "pretrain: done" in finish(pair())[FIRST]
        assert_same(out, alone / "one", "pretrain")
        assert served.unknown == []


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["jit", "pmap"])
def test_a_death_ends_the_others_and_what_is_left_goes_on(alone, tmp_path, runner):
    """PPO-ptx, killed in two processes and finished by one, is the same run."""
    whole, options = alone / "whole", ["--parallel.runner", runner]
    if not whole.exists():
        finish([start(whole, alone / "cache", "ppo_ptx", devices=1)])
    shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("ppo_ptx"))
    tmp_path, more = tmp_path / "run", ["--loop.checkpoint-every", "1"]
    pair = start_two(tmp_path, alone / runner, "ppo_ptx", *options, *more)
    wait_for_step(tmp_path, "ppo_ptx", 1, pair)
    pair[SECOND].send_signal(signal.SIGKILL)
    died = time.monotonic()
    told = pair[FIRST].communicate(timeout=60)[0]
    assert time.monotonic() - died < 60 and pair[FIRST].returncode not in (0, None)
    # A sum over all devices fails first, or else jax itself misses the heartbeat and aborts.
    ends = {LOST: "another process of this run has ended", -signal.SIGABRT: "heartbeat"}
    assert pair[FIRST].returncode in ends and ends[pair[FIRST].returncode] in told, told
    finish([start(tmp_path, alone / "cache", "ppo_ptx", *more, devices=4)])
    assert_same(tmp_path, whole, "ppo_ptx")


@pytest.mark.slow
def test_two_processes_collect_the_rankings_of_one(alone, tmp_path):
    """Stopped among the outputs; the first of them asks the host and writes what it says."""
    cache = alone / "cache two"
    finish([start(tmp_path / "one", alone / "cache", "feedback", devices=1)])
    left_out = shutil.ignore_patterns("feedback")
    shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=left_out)
    stopped = finish(start_two(tmp_path / "two", cache, "feedback", "--stop-after-steps", "3"))
    assert "feedback: stopped at step 3 of 6" in stopped[FIRST]
    assert "feedback" not in stopped[SECOND]
    finish(start_two(tmp_path / "two", cache, "feedback"))
    assert_same(tmp_path / "two", tmp_path / "one", "feedback")
    read = lambda run, split: list(read_dataset(run / "feedback/records", "rankings", split))
    for split, count in (("train", 18), ("valid", 2)):
        one, two = (read(tmp_path / name, split) for name in ("one", "two"))
        assert one == two and len(one) == count


@pytest.mark.slow
def test_sigterm_to_one_saves_and_stops_all(alone, tmp_path):
    cache = alone / "cache two"
    options = ["--sft.epochs", "40"]
    pair = start_two(tmp_path, cache, "sft", *options)
    wait_for_step(tmp_path, "sft", 2, pair)
    pair[SECOND].send_signal(signal.SIGTERM)
    told = finish(pair)[FIRST]
    assert "SIGTERM: saved at step" in told and "the same command goes on from there" in told


ROWS_OF_THE_HOST = """
import json, os, sys
from pathlib import Path
from rlhf_jax.parallel import processes
from rlhf_jax.parallel.config import ParallelConfig
from tests.fed import inputs_of
from tests.small_run import config

place, process, port = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
processes.start(ParallelConfig(coordinator=f"localhost:{port}", processes=2, process=process))
inputs = inputs_of(config.stages, "feedback", directory=place)

def asked(numbers, texts):
    with (place / f"calls {process}").open("a") as file:
        file.write(json.dumps([numbers, texts]) + "\\n")
    return [None if text == "none" else number / 3 for number, text in zip(numbers, texts)]

rows = [1, 2, 3, 4, 5], ["a", "b" * 70_000, "none", "d", "\u00e9"]
found = [inputs.rows_on_host("scores", 0, asked, *rows) for _ in range(2)]
found.append(inputs.rows_on_host("scores", 1, asked, [9], ["one row"]))
(place / f"found {process}").write_text(json.dumps(found))
"""


def test_two_processes_ask_the_host_of_their_own_rows_and_have_those_of_both(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", ROWS_OF_THE_HOST, str(tmp_path), str(process), str(port)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for port in [free_port()]
        for process in (FIRST, SECOND)
    ]  # fmt: skip
    finish(pair)
    expected = [1 / 3, 2 / 3, None, 4 / 3, 5 / 3]
    read = lambda name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    for process in (FIRST, SECOND):
        assert read(f"found {process}") == [[expected, expected, [3.0]]]
    # Each of its rows, once: of a single row the second process has it.
    assert read("calls 0") == [[[1, 2], ["a", "b" * 70_000]], [[], []]]
    assert read("calls 1") == [[[3, 4, 5], ["none", "d", "\u00e9"]], [[9], ["one row"]]]
    written = json.loads((tmp_path / "feedback/host/scores/0.json").read_text())
    assert written["found"] == expected


def test_a_process_that_cannot_go_on_says_so_and_all_end(alone, tmp_path):
    pair = start_two(tmp_path, alone / "cache two", "sft", "--sft.batch-size", "6")
    for process, told in enumerate(finish(pair, code=2)):
        assert f"process {process} of 2: sft.batch_size = 6: must be a multiple or" in told
