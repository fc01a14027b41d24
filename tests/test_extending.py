"""A stage, a data source, an evaluator, an advantage, a surrogate (tests/outside.py) and a reward
function (tests/outside_reward.py) of one's own, in an experiment file of one's own: everything that
the package does with its own, it does with these."""

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
from tests import outside_reward
from tests.compiling import xla_flags

ROOT = Path(__file__).resolve().parents[1]
STEPS, GROUPED = 5, 32  # of GRPO: iterations, and responses in each
ROWS, GROUP = 16, 4  # of the policy gradient: responses in an iteration, and to a prompt
RUNS = "one", "killed"
REPORTED = 4 * 8  # responses that the report grades: of four policies to the test prompts
# In the fourth step: the last checkpoint is of the second, the third's scores are written down.
CUT = 5  # calls of that step
KILL, KILL_MINE = 3 * GROUPED + CUT, 3 * ROWS + CUT

EXPERIMENT = '''
"""An experiment whose source, stage and evaluator are not of the package. Its grader writes a line
a call into $CALLS, and call $KILL never returns."""

import os
import signal
from pathlib import Path

from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.checked import CheckedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.stages import presets
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
        "mine": presets.rloo(
            policy_optimizer=SMOOTH, iterations=5, start="sft",
            rewards=(CheckedReward("tests.outside_reward:spelt", workers=1),),
            advantage=outside.OverMedian(), surrogate=outside.Cooling(), aggregation="sequence",
            kl=FixedController(0.0), ema_decay=None, batch_size=16, group=4, prompt_length=8,
            response_length=8,
        ),
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
        "XLA_FLAGS": xla_flags(devices),
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
    environment = {
        "CALLS": calls or f"{name} calls",
        "ASKED": f"{name} asked",
        "KILL": str(kill),
    }
    return environment, [command, "experiment.py", "--out", name, *options], name, of


def metrics(directory: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (directory / stage / "metrics.jsonl").open()]


def assert_same(directory: Path, other: Path, stage: str = "grpo") -> None:
    """Within what sums in another order make of float32 in a few steps."""
    found, expected = metrics(directory, stage), metrics(other, stage)
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
    """One whole run on one device, "one"; one whose stages were killed and went on, "killed"; and
    one whose numbers were not finite, "sick"."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "experiment.py").write_text(EXPERIMENT)
    sick = "--loop.max-skipped", "2", "--grpo.optimizer.learning-rate", "1e30"
    sick_mine = *sick[:2], "--mine.policy-optimizer.learning-rate", "1e30"
    commands = (
        run("run", "one", of=""),
        run("grpo", "killed", kill=KILL),
        run("grpo", "killed"),
        run("grpo", "sick", *sick),
        ({"CALLS": "replay calls"}, ["replay", "sick/grpo/sick/step_2.npz"], "", ""),
        run("mine", "killed", kill=KILL_MINE),
        run("mine", "killed"),
        run("mine", "sick", *sick_mine),
        ({"ASKED": "replay asked"}, ["replay", "sick/mine/sick/step_3.npz"], "", ""),
    )
    printed = finish(start(folder, *commands), 0, *(-signal.SIGKILL, 0, 2, 0) * 2)
    (folder / "printed").write_text(printed)
    return folder


def test_the_stage_learns_what_the_function_likes(folder):
    scores = [line["score"] for line in metrics(folder / "one", "grpo")]
    assert len(scores) == STEPS and scores[-1] > scores[0] + 0.1
    about = json.loads((folder / "one" / "grpo" / "about.json").read_text())
    assert about == pytest.approx({"first_score": scores[0], "last_score": scores[-1]})


def test_the_report_has_the_evaluators_columns(folder):
    found = report(folder / "one")
    assert found.keys() == {"base", "sft", "grpo", "mine"}
    assert found["sft"]["spells"] < found["base"]["spells"] - 0.1
    assert found["grpo"]["liking"] > found["sft"]["liking"] + 0.1


def test_after_a_kill_it_goes_on_to_the_same_bits(folder):
    results = [f"host/scores/{n}.json" for n in (2, 4)], [f"host/reward_0/{n}.json" for n in (2, 4)]
    files = {"grpo": ["about.json", *results[0]], "mine": results[1]}
    for stage, more in files.items():
        for file in ("metrics.jsonl", *more):
            path = Path(stage) / file
            assert (folder / "killed" / path).read_bytes() == (folder / "one" / path).read_bytes()
        one, killed = (model_bytes(folder / name / stage / "model") for name in ("one", "killed"))
        assert one == killed and len(one) > 0


def model_bytes(directory: Path) -> dict[str, bytes]:
    params = load_model(directory, "policy", read_about(directory)["tokenizer"])[1]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {str(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


@pytest.mark.parametrize(
    ("calls", "rows", "reported"), [("calls", GROUPED, REPORTED), ("asked", ROWS, 0)]
)
def test_no_response_of_a_step_that_was_written_down_is_graded_again(folder, calls, rows, reported):
    whole, killed = ((folder / f"{name} {calls}").read_text().splitlines() for name in RUNS)
    assert len(whole) == STEPS * rows + reported
    # Step 3 was cut short in one of its responses; step 2, done again, read its scores.
    before = 3 * rows
    assert killed == whole[: before + CUT] + whole[before : STEPS * rows]


def test_the_policy_gradient_learns_by_the_function_the_advantage_and_the_surrogate(folder):
    """policy_loss = -c mean(A) where the ratio is 1: c, A and what A divides by in a loop."""
    asked = [json.loads(line) for line in (folder / "one asked").open()]
    spelt = lambda prompt: "".join(f" {letter}" for letter in prompt[:-1])
    assert all(record == {"prompt": p, "answer": spelt(p)} for p, _, record in asked)
    found = np.array([outside_reward.score(text, record["answer"]) for _, text, record in asked])
    lines, cooling, scale = metrics(folder / "one", "mine"), 1.0, 1.0
    for step, scores in enumerate(found.reshape(STEPS, ROWS)):
        written = json.loads((folder / f"one/mine/host/reward_0/{step}.json").read_text())
        assert written["found"] == scores.tolist()
        groups = scores.reshape(-1, GROUP)
        over = groups - np.median(groups, axis=1, keepdims=True)
        assert lines[step]["score"] == pytest.approx(scores.mean(), rel=1e-5)
        loss = -cooling * (over / scale).mean()
        assert lines[step]["policy_loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
        cooling, scale = cooling / 2, (scale + np.abs(over).mean()) / 2
    assert np.ptp(found) > 0 and abs(lines[-1]["policy_loss"]) > 1e-4


def test_a_batch_whose_numbers_were_not_finite_is_replayed(folder):
    printed = (folder / "printed").read_text()
    for step in (2, 3):
        assert f"2 steps in a row were not finite, the last of them step {step}" in printed
    assert printed.count("skipped_steps") == 2
    assert not any((folder / f"replay {kind}").exists() for kind in ("calls", "asked"))


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
    stages = "grpo", "mine"
    commands = [run(stage, "pmap", "--parallel.runner", "pmap") for stage in stages]
    finish(start(folder, *commands, devices=8), 0, 0)
    for stage in stages:
        assert_same(folder / "pmap", folder / "one", stage)


def test_plan_compiles_its_programs(folder):
    config = load_experiment(str(folder / "experiment.py"))
    eight = Topology("v5e:2x4", CHIPS["v5e"], 8)
    plan = make_plan(config, eight, jax.devices(), ("grpo", "mine"), platform="cpu")
    names = ["sample", "update", "rollout", "experience", "update"]
    assert [(p.name, p.runs) for p in plan.programs] == [(name, STEPS) for name in names]
    sample, update, *_, update_mine = plan.programs
    assert sample.parts.keys() == {"prefill", "decode"} and sum(update.sent.values()) > 0
    # Forward for policy and start, then twice forward and backward.
    responses = GROUPED * (8 + 8)
    assert update.useful_flops > (2 + 2 * 3) * 2 * responses * matrix_parameters(config.model)
    # Forward and backward once, of the policy alone.
    responses = ROWS * (8 + 8)
    flops = 3 * 2 * responses * matrix_parameters(config.model)
    assert flops < update_mine.useful_flops < 1.5 * flops
