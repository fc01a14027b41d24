"""The code of docs/extending.md and docs/policy_gradients.md: their blocks are experiments that run
as they stand; the table of presets holds what the presets are."""

import ast
import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.objectives import estimator
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import presets
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.compiling import xla_flags

ROOT = Path(__file__).resolve().parents[1]
EXTENDING, GRADIENTS = (
    (ROOT / "docs" / name).read_text(encoding="utf-8")
    for name in ("extending.md", "policy_gradients.md")
)


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(folder: Path, page: str, name: str) -> dict:
    """The policies of the report of the page's experiment, in the directory of `sums`."""
    (folder / name).write_text("\n\n".join(blocks(page, "python")))
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(),  # one device
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "rlhf_jax.cli", "run", name]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "runs" / "sums" / "report.json").read_text())["policies"]


def test_the_blocks_are_experiments_that_run(tmp_path):
    found = run(tmp_path, EXTENDING, "sums.py")
    assert found.keys() == {"base", "focal"}
    for columns in found.values():
        assert columns.keys() == {"gold_score", "digits"}
    assert found["focal"]["digits"]["mean"] > found["base"]["digits"]["mean"]
    more = run(tmp_path, GRADIENTS, "policies.py")
    assert more.keys() == {"base", "focal", "rloo", "mine"}
    assert {name: more[name] for name in found} == found
    metrics = {
        name: [
            json.loads(line)
            for line in (tmp_path / "runs" / "sums" / name / "metrics.jsonl").open()
        ]
        for name in ("rloo", "mine")
    }
    for rows in metrics.values():
        assert len(rows) == 2 and all(row["reward_0"] >= 0 >= row["reward_1"] for row in rows)
    assert metrics["rloo"][0]["token_entropy"] > 0
    assert [row["stale_kl"] > 1e-12 for row in metrics["mine"]] == [False, True]


def test_the_example_of_objectives_runs_and_has_the_loss_of_a_loop():
    """On fresh responses PPO's loss is minus the mean advantage, 0 where these are whitened."""
    (block,) = blocks((ROOT / "docs" / "objectives.md").read_text(encoding="utf-8"), "python")
    found: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(block, found)  # the page's own code
    assert printed.getvalue().startswith("loss ") and abs(found["value"]) < 1e-5
    mask, values, returns = (np.array(found[n], float) for n in ("mask", "values", "returns"))
    left = 1 - np.var((returns - values)[mask > 0]) / np.var(returns[mask > 0])
    assert f"explained variance {left:.3f}" in printed.getvalue()
    outside = np.asarray(found["gradient"])[mask == 0]
    assert not outside.any() and np.abs(found["gradient"]).max() > 1e-3


def test_an_excerpt_is_what_stands_in_its_file():
    (excerpt,) = blocks(EXTENDING, "python excerpt of tests/outside.py")
    lines = (ROOT / "tests" / "outside.py").read_text(encoding="utf-8")
    assert textwrap.indent(excerpt, " " * 8) in lines


@pytest.mark.parametrize("page", [EXTENDING, GRADIENTS], ids=["extending", "policy_gradients"])
def test_no_block_is_left_out(page):
    told = len(blocks(page, "python")) + len(blocks(page, r"python excerpt .*?"))
    assert page.count("```") == 2 * told


RATE = OptimizerConfig(learning_rate=1e-3)
SHARED = {
    "policy_optimizer": RATE,
    "iterations": 2,
    "start": "sft",
    "rewards": (LearnedReward("reward"),),
}
SETTINGS = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (`\w+=.+`) \|$", GRADIENTS, re.MULTILINE))


def of_table(name: str) -> dict:
    """The fields that the table says a preset sets."""
    known = vars(estimator) | {"FixedController": FixedController}
    written = ", ".join(re.findall(r"`([^`]+)`", SETTINGS[name]))
    return eval(f"dict({written})", dict(known))  # the page's own words


@pytest.mark.parametrize("name", SETTINGS)
def test_the_table_has_all_that_a_preset_sets(name):
    critic = {} if "value_optimizer" in of_table(name) else {"value_optimizer": RATE}
    made = vars(presets)[name](**SHARED, **critic)
    assert made == PolicyGradient(**SHARED, **{**critic, **of_table(name)})


def test_the_table_has_every_preset():
    tree = ast.parse(Path(presets.__file__).read_text(encoding="utf-8"))
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert list(SETTINGS) == [name for name in functions if not name.startswith("_")]


def test_each_advantage_and_surrogate_has_its_row():
    rows = set(re.findall(r"^\| `(\w+)\(", GRADIENTS, re.MULTILINE))
    bases = estimator.Advantage | estimator.Surrogate
    objects = vars(estimator).items()
    kinds = {n for n, of in objects if dataclasses.is_dataclass(of) and issubclass(of, bases)}
    assert kinds - {"Advantage", "Surrogate", "Clipped"} <= rows
