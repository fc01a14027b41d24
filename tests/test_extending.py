"""A stage, a data source and an evaluator of one's own (tests/outside.py), in an experiment file of
one's own: everything that the package does with its own, it does with these."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax.durable.model_files import load_model, read_about
from rlhf_jax.plan.chips import CHIPS, Topology
from rlhf_jax.plan.flops import matrix_parameters
from rlhf_jax.plan.plan import make_plan
from rlhf_jax.runs.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[1]
STEPS, GROUPED = 5, 32  # of GRPO: iterations, and responses in each
REPORTED = 3 * 8  # responses that the report grades: of three policies to the test prompts
# In the fourth step: the last checkpoint is of the second, the third's scores are written down.
KILL = 3 * GROUPED + 5

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


FAST = OptimizerConfig(learning_rate=1e-2)
# Smooth where gradients are rounding, so that other orders of sums give the same numbers.
SMOOTH = OptimizerConfig(learning_rate=5e-3, epsilon=1e-3)
config = Experiment(
    name="outside",
    data=Counted(),
    model=TransformerConfig(
        vocab_size=280, layers=1, width=32, heads=2, context=24, compute_dtype="float32",
        scan_layers=False,
    ),
    stages={
        "base": Pretrain(FAST, batch_size=8, length=16),
        "sft": SFT(FAST, epochs=3, batch_size=8, length=16, start="base"),
        "grpo": outside.GRPO(SMOOTH, iterations=5, start="sft"),
    },
    ending=EndingConfig(missing_eos_score=None),
    evaluation=EvaluationConfig(prompt_length=8, response_length=8, batch_size=8),
    evaluators=(outside.Liking(), outside.Spells(length=16)),
    loop=LoopConfig(checkpoint_every=2),
)
'''

# Each command in a process of its own, forked before jax starts its devices. It may begin with what
# the stage builds on, of another run.
DRIVER = """
import json, os, shutil, sys
from rlhf_jax import cli
from rlhf_jax.runs import replay, report

for environment, arguments, into, other in json.loads(sys.argv[1]):
    if other and not os.path.exists(into):
        for part in ("data", "base", "sft"):
            shutil.copytree(f"{other}/{part}", f"{into}/{part}")
    if os.fork() == 0:
        os.environ |= environment
        sys.argv[1:] = arguments
        cli.main()
    print("ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def start(folder: Path, *commands: tuple, devices: int = 1) -> subprocess.Popen:
    """The commands, one after the other."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    line = [sys.executable, "-c", DRIVER, json.dumps(commands)]
    return subprocess.Popen(
        line,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen, *expected: int) -> str:
    """What the commands print; they end as expected."""
    printed = process.communicate(timeout=500)[0]
    found = [int(line.split()[1]) for line in printed.splitlines() if line.startswith("ended")]
    assert found == list(expected), printed
    return printed


def run(
    command: str, name: str, *options: str, calls: str | None = None, kill: int = 0, of: str = "one"
) -> tuple:
    """A stage, or "run": the whole experiment and its report, in the folder `name`. What the stage
    builds on is that of another run; "": its own."""
    environment = {"CALLS": calls or f"{name} calls", "KILL": str(kill)}
    return environment, [command, "experiment.py", "--out", name, *options], name, of


def metrics(directory: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (directory / stage / "metrics.jsonl").open()]


def assert_same(directory: Path, other: Path) -> None:
    """Within what sums in another order make of float32 in a few steps."""
    found, expected = metrics(directory, "grpo"), metrics(other, "grpo")
    assert len(found) == len(expected) == STEPS
    for line, wanted in zip(found, expected, strict=True):
        assert line.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(line[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def report(directory: Path) -> dict[str, dict[str, float]]:
    """{stage: {column: value}}."""
    policies = json.loads((directory / "report.json").read_text())["policies"]
    return {
        stage: {name: found[name]["mean"] for name in ("liking", "spells")}
        for stage, found in policies.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One whole run on one device, "one"; one that was killed and went on, "killed"; and one whose
    numbers were not finite, "sick"."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "experiment.py").write_text(EXPERIMENT)
    sick = "--grpo.optimizer.learning-rate", "1e30", "--loop.max-skipped", "2"
    commands = (
        run("run", "one", of=""),
        run("grpo", "killed", kill=KILL),
        run("grpo", "killed"),
        run("grpo", "sick", *sick),
        ({"CALLS": "replay calls"}, ["replay", "sick/grpo/sick/step_2.npz"], "", ""),
    )
    printed = finish(start(folder, *commands), 0, -signal.SIGKILL, 0, 2, 0)
    (folder / "printed").write_text(printed)
    return folder


def test_the_stage_learns_what_the_function_likes(folder):
    scores = [line["score"] for line in metrics(folder / "one", "grpo")]
    assert len(scores) == STEPS and scores[-1] > scores[0] + 0.1
    about = json.loads((folder / "one" / "grpo" / "about.json").read_text())
    assert about == pytest.approx({"first_score": scores[0], "last_score": scores[-1]})


def test_the_report_has_the_evaluators_columns(folder):
    found = report(folder / "one")
    assert found.keys() == {"base", "sft", "grpo"}
    assert found["sft"]["spells"] < found["base"]["spells"] - 0.1
    assert found["grpo"]["liking"] > found["sft"]["liking"] + 0.1


def test_after_a_kill_it_goes_on_to_the_same_bits(folder):
    for file in ("metrics.jsonl", "host/scores/2.json", "host/scores/4.json", "about.json"):
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
    assert len(whole) == STEPS * GROUPED + REPORTED
    # Step 3 was cut short after five of its responses; step 2, done again, read its scores.
    before = 3 * GROUPED
    assert killed == whole[: before + 5] + whole[before : STEPS * GROUPED]


def test_a_batch_whose_numbers_were_not_finite_is_replayed(folder):
    printed = (folder / "printed").read_text()
    assert "2 steps in a row were not finite, the last of them step 2" in printed
    assert "skipped_steps" in printed and not (folder / "replay calls").exists()


def test_two_processes_give_the_same_numbers(folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    shutil.copytree(folder / "one", folder / "two", ignore=shutil.ignore_patterns("grpo", "rep*"))
    together = ["--parallel.coordinator", place, "--parallel.processes", "2"]
    pair = [
        start(
            folder,
            run("run", "two", *together, "--parallel.process", str(n), calls=f"two calls {n}"),
        )
        for n in (0, 1)
    ]
    for process in pair:
        finish(process, 0)
    assert_same(folder / "two", folder / "one")
    found, expected = report(folder / "two"), report(folder / "one")
    assert found == {stage: pytest.approx(columns, rel=1e-3) for stage, columns in expected.items()}
    graded = [len((folder / f"two calls {n}").read_text().splitlines()) for n in (0, 1)]
    assert graded == [STEPS * GROUPED + REPORTED, REPORTED]


def test_pmap_on_eight_devices_gives_the_same_numbers(folder):
    pmap = run("grpo", "pmap", "--parallel.runner", "pmap")
    finish(start(folder, pmap, devices=8), 0)
    assert_same(folder / "pmap", folder / "one")


def test_plan_compiles_its_programs(folder):
    config = load_experiment(str(folder / "experiment.py"))
    eight = Topology("v5e:2x4", CHIPS["v5e"], 8)
    plan = make_plan(config, eight, jax.devices(), ("grpo",), platform="cpu")
    assert [(p.name, p.runs) for p in plan.programs] == [("sample", STEPS), ("update", STEPS)]
    sample, update = plan.programs
    assert sample.parts.keys() == {"prefill", "decode"} and sum(update.sent.values()) > 0
    # Forward for policy and start, then twice forward and backward.
    responses = GROUPED * (8 + 8)
    assert update.useful_flops > (2 + 2 * 3) * 2 * responses * matrix_parameters(config.model)
