"""A stage, a data source and an evaluator of one's own (tests/outside.py), in an experiment file of
one's own: everything that the package does with its own, it does with these."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax.durable.model_files import load_model, read_about

ROOT = Path(__file__).resolve().parents[1]
STEPS, GROUPED = 6, 32  # of GRPO: iterations, and responses in each
# In the fifth step: the last checkpoint is of the third, the fourth's scores are written down.
KILL = 4 * GROUPED + 5

EXPERIMENT = '''
"""An experiment whose source, stage and evaluator are not of the package. Its grader writes a line
a call into $CALLS, and call $KILL never returns."""

import os
import signal
from pathlib import Path

from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from tests import outside


class Counted(outside.Spelling):
    def grader(self, seed):
        calls = Path(os.environ["CALLS"])

        def counted(prompt, response):
            with calls.open("a") as file:
                file.write(prompt + "\\n")
            if len(calls.read_text().splitlines()) == int(os.environ.get("KILL", 0)):
                os.kill(os.getpid(), signal.SIGKILL)
            return outside.grade(prompt, response)

        return counted


RATE = OptimizerConfig(learning_rate=1e-2)
config = Experiment(
    name="outside",
    data=Counted(),
    model=TransformerConfig(
        vocab_size=280, layers=1, width=32, heads=2, context=24, compute_dtype="float32"
    ),
    stages={
        "base": Pretrain(RATE, batch_size=8, length=16),
        "sft": SFT(RATE, epochs=3, batch_size=8, length=16, start="base"),
        "grpo": outside.GRPO(RATE, iterations=6, start="sft"),
    },
    ending=EndingConfig(missing_eos_score=None),
    evaluation=EvaluationConfig(prompt_length=8, response_length=8, batch_size=8),
    loop=LoopConfig(checkpoint_every=3),
)
'''

# Each argument is a run in a process of its own, forked before jax starts its devices.
DRIVER = """
import dataclasses, json, os, sys
from rlhf_jax.parallel import processes
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.run import Run

for environment, out, parallel in json.loads(sys.argv[2]):
    if os.fork() == 0:
        os.environ |= environment
        parallel = ParallelConfig(**parallel)
        processes.start(parallel)
        config = dataclasses.replace(load_experiment(sys.argv[1]), out=out, parallel=parallel)
        with processes.ending_together():
            Run(config).finish("grpo")
        sys.stdout.flush()
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def start(folder: Path, *runs, devices: int = 1) -> subprocess.Popen:
    """The runs, one after the other."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    line = [sys.executable, "-c", DRIVER, str(folder / "experiment.py"), json.dumps(runs)]
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ends(process: subprocess.Popen) -> list[int]:
    """How each run of the process ended."""
    printed = process.communicate(timeout=300)[0]
    found = [int(line.split()[1]) for line in printed.splitlines() if line.startswith("ended")]
    assert process.returncode == 0 and set(found) <= {0, -signal.SIGKILL}, printed
    return found


def a_run(folder: Path, name: str, calls: str | None = None, kill: int = 0, **parallel) -> tuple:
    environment = {"CALLS": str(folder / (calls or f"{name} calls")), "KILL": str(kill)}
    return environment, str(folder / name), parallel


def metrics(directory: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (directory / stage / "metrics.jsonl").open()]


def assert_same(directory: Path, other: Path) -> None:
    """Within what sums in another order make of float32 in a few steps."""
    for stage in ("base", "sft", "grpo"):
        found, expected = metrics(directory, stage), metrics(other, stage)
        assert len(found) == len(expected) > 2
        for line, wanted in zip(found, expected, strict=True):
            assert line.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_allclose(line[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One whole run on one device, "one"; and one that was killed and went on, "killed"."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "experiment.py").write_text(EXPERIMENT)
    killed = a_run(folder, "killed", kill=KILL)
    again = a_run(folder, "killed")
    process = start(folder, a_run(folder, "one"), killed, again)
    assert ends(process) == [0, -signal.SIGKILL, 0]
    return folder


def test_the_stage_learns_what_the_function_likes(folder):
    scores = [line["score"] for line in metrics(folder / "one", "grpo")]
    assert len(scores) == STEPS and scores[-1] > scores[0] + 0.1
    about = json.loads((folder / "one" / "grpo" / "about.json").read_text())
    assert about == pytest.approx({"first_score": scores[0], "last_score": scores[-1]})


def test_after_a_kill_it_goes_on_to_the_same_bits(folder):
    for file in ("metrics.jsonl", "host/scores/3.json", "host/scores/5.json", "about.json"):
        path = Path("grpo") / file
        assert (folder / "killed" / path).read_bytes() == (folder / "one" / path).read_bytes()
    one, killed = (model_bytes(folder / name / "grpo" / "model") for name in ("one", "killed"))
    assert one == killed and len(one) > 0


def model_bytes(directory: Path) -> dict[str, bytes]:
    params = load_model(directory, "policy", read_about(directory)["tokenizer"])[1]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {str(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def test_no_response_of_a_step_that_was_written_down_is_graded_again(folder):
    calls = lambda name: (folder / f"{name} calls").read_text().splitlines()
    whole, killed = calls("one"), calls("killed")
    assert len(whole) == STEPS * GROUPED
    # Step 4 was cut short after five of its responses; step 3, done again, read its scores.
    assert killed == whole[: 4 * GROUPED] + whole[4 * GROUPED :][:5] + whole[4 * GROUPED :]


def test_two_processes_give_the_same_numbers(folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"coordinator": f"localhost:{free.getsockname()[1]}", "processes": 2}
    pair = [
        start(folder, a_run(folder, "two", calls=f"two calls {n}", process=n, **place))
        for n in (0, 1)
    ]
    assert [ends(process) for process in pair] == [[0], [0]]
    assert_same(folder / "two", folder / "one")
    graded = (folder / "two calls 0").read_text().splitlines()
    assert len(graded) == STEPS * GROUPED and not (folder / "two calls 1").exists()


def test_pmap_on_eight_devices_gives_the_same_numbers(folder):
    assert ends(start(folder, a_run(folder, "pmap", runner="pmap"), devices=8)) == [0]
    assert_same(folder / "pmap", folder / "one")
