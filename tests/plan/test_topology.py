"""Compiled by the TPU compiler for topologies that are not here: some minutes."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.plan.chips import parse_topology
from rlhf_jax.plan.compiling import topology_devices
from rlhf_jax.plan.flops import fsdp_bytes
from rlhf_jax.plan.plan import make_plan
from rlhf_jax.runs.experiment import load_experiment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("optimized"),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="the TPU compiler is not installed: pip install 'rlhf-jax[tpu]'",
    ),
]
LAYERS = ["--model.layers", "2", "--reward.model.layers", "2", "--tries", "2"]
PAGE = Path(__file__).parents[2] / "docs" / "plan.md"
COMMANDS = re.findall(r"^    rlhf-jax (plan .*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def plan_of(tmp_path, command: str) -> tuple[int, dict]:
    out = tmp_path / "plan.json"
    code = cli.command([*command.split(), *LAYERS, "--json", str(out)])
    return code, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_s_plans_fit_with_two_layers(tmp_path, capsys, command):
    code, plan = plan_of(tmp_path, command)
    printed = capsys.readouterr().out
    assert code == 0 and plan["fits"] and "fits: at most" in printed
    assert ("best: --parallel.fsdp" in printed) == ("--suggest" in command)
    for program in plan["programs"]:
        assert program["unknown_loops"] == 0 and program["compute_seconds"] > 0
        assert 0 < program["total"] < plan["capacity"]
        assert 0 < program["utilisation"] < 1
        assert program["name"] != "rollout" or program["parts"]["decode"]["cycles"] > 0


def test_an_update_sends_little_more_than_fsdp_has_to():
    """1.3 billion on 16 chips, one micro-batch; the layers' loop is cut to four."""
    config = load_experiment("experiments/instructgpt_1b3.py")
    model = dataclasses.replace(config.model, layers=4)
    topology = parse_topology("v5e:4x4")
    config = dataclasses.replace(config, model=model, parallel=ParallelConfig(fsdp=16))
    (update,) = make_plan(config, topology, topology_devices(topology), ("sft",)).programs
    assert 1 <= sum(update.sent.values()) / fsdp_bytes(model, 16) <= 1.2


def test_what_cannot_fit_is_named_with_what_it_needs(capsys):
    command = "plan experiments/instructgpt_175b.py --topology v5p:2x2x4 --stages sft"
    code = cli.command([*command.split(), "--parallel.fsdp", "2", "--parallel.tensor", "8"])
    told = " ".join(capsys.readouterr().out.split())
    assert code == 1
    assert "does not fit into 95.74 GiB a chip: sft update needs" in told and "arguments" in told
