"""Compiled by the TPU compiler for topologies that are not here: some minutes."""

import dataclasses
import importlib.util
import json

import pytest

from rlhf_jax import cli
from rlhf_jax.experiment import load_experiment
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.plan.chips import parse_topology
from rlhf_jax.plan.command import make_plan
from rlhf_jax.plan.compiling import topology_devices
from rlhf_jax.plan.flops import fsdp_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="the TPU compiler is not installed: pip install 'rlhf-jax[tpu]'",
    ),
]
SMALL = (
    "--model.layers 2 --reward-model.layers 2 --sft.batch-size 16 --ppo-ptx.batch-size 32 "
    "--ppo-ptx.minibatches 2 --ppo-ptx.prompt-length 128 --ppo-ptx.response-length 128 "
    "--ppo-ptx.ptx-length 256"
)


def plan_of(tmp_path, size: str, options: str) -> tuple[int, dict]:
    out = tmp_path / "plan.json"
    file = f"experiments/instructgpt_{size}.py"
    code = cli.command(["plan", file, *options.split(), "--json", str(out)])
    return code, json.loads(out.read_text(encoding="utf-8"))


def test_two_layers_of_instructgpt_fit_and_keep_chips_busy(tmp_path, capsys):
    code, plan = plan_of(tmp_path, "1b3", f"--topology v5e:4x4 --stages sft ppo_ptx {SMALL}")
    printed = capsys.readouterr().out
    assert code == 0 and plan["fits"] and "fits: at most" in printed
    names = [(p["stage"], p["name"]) for p in plan["programs"]]
    assert names == [
        ("sft", "update"),
        *(("ppo_ptx", n) for n in ("rollout", "experience", "update")),
    ]
    for program in plan["programs"]:
        assert program["unknown_loops"] == 0
        assert 0 < program["total"] < plan["capacity"]
        assert program["compute_seconds"] > 0
        assert 0 < program["utilisation"] < 1
    assert plan["programs"][1]["parts"]["decode"]["cycles"] > 0


def test_an_update_sends_little_more_than_fsdp_has_to():
    """1.3 billion on 16 chips, one micro-batch; the layers' loop is cut to four."""
    config = load_experiment("experiments/instructgpt_1b3.py")
    model = dataclasses.replace(config.model, layers=4)
    topology = parse_topology("v5e:4x4")
    config = dataclasses.replace(config, model=model)
    mesh = MeshShape(1, 16, 1)
    (update,) = make_plan(config, topology, topology_devices(topology), mesh, ("sft",)).programs
    assert 1 <= sum(update.sent.values()) / fsdp_bytes(model, 16) <= 1.2


def test_what_cannot_fit_is_named_with_what_it_wants(tmp_path, capsys):
    code, plan = plan_of(tmp_path, "175b", "--topology v5p:2x2x1 --stages sft")
    told = " ".join(capsys.readouterr().out.split())
    assert code == 1 and not plan["fits"]
    assert "does not fit into 95.74 GiB a chip: sft update wants" in told and "arguments" in told


def test_suggest_finds_micro_batches_that_fit(tmp_path, capsys):
    code, plan = plan_of(
        tmp_path, "1b3", "--topology v5e:2x4 --stages sft --suggest --model.layers 6"
    )
    assert code == 0 and plan["fits"] and "best: --fsdp" in capsys.readouterr().out
