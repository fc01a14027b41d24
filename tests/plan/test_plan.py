"""The plan of a small experiment on eight simulated devices, and the command around it."""

import dataclasses
import json
import re
import sys
import types

import jax
import numpy as np
import pytest

from rlhf_jax import cli
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.parallel.runner import mesh_shape
from rlhf_jax.plan import command, suggest
from rlhf_jax.plan.chips import CHIPS, Topology, parse_topology
from rlhf_jax.plan.command import PlanOptions, make_plan, plan_command
from rlhf_jax.plan.compiling import GIB, Compiled, _wanted_bytes, topology_devices
from rlhf_jax.plan.programs import programs_of, stages_of
from rlhf_jax.plan.report import Plan, as_json, verdict
from rlhf_jax.run import Run
from rlhf_jax.stages import dpo, reward_model
from tests.small_run import config

HERE = Topology("v5e:2x4", CHIPS["v5e"], 8)
MESH = MeshShape(2, 2, 2)
SMALL = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, remat="full"),
    sft=dataclasses.replace(config.sft, packed=False, epochs=1.0),
    ppo_ptx=dataclasses.replace(config.ppo_ptx, minibatches=2, rollout_micro_batches=2),
    dpo=dataclasses.replace(config.dpo, batch_size=8),
    parallel=ParallelConfig(fsdp=2, tensor=2),
)


@pytest.fixture(scope="module")
def plan():
    return make_plan(SMALL, HERE, jax.devices(), ("sft", "ppo_ptx", "dpo"), platform="cpu")


def test_every_program_of_a_run_is_there():
    names = [(p.stage, p.name) for p in programs_of(SMALL, stages_of(SMALL))]
    ppo = ["rollout", "experience", "update"]
    assert names == [(s, "update") for s in ("pretrain", "sft", "reward")] + [
        (stage, name) for stage in ("ppo", "ppo_ptx") for name in ppo
    ] + [("dpo", "reference"), ("dpo", "update")]  # fmt: skip
    other = dataclasses.replace(SMALL, reward_from="elsewhere", dpo=None)
    assert stages_of(other) == ("pretrain", "sft", "ppo", "ppo_ptx")


def test_a_stage_has_as_many_calls_as_a_run_has_steps(tmp_path):
    """Text among the demonstrations makes an epoch longer."""
    settings = dataclasses.replace(SMALL.sft, pretraining_fraction=0.3, epochs=2)
    mixed = dataclasses.replace(SMALL, sft=settings, out=str(tmp_path), data=SMALL.data)
    run = Run(mixed)
    steps = []
    run._train_one_model = lambda stage, loss, params, batches, *_: steps.append(
        round(settings.epochs * batches.steps_per_epoch)
    )
    run.model = lambda stage: None
    run._sft()
    assert steps == [p.runs for p in programs_of(mixed, ("sft",))]


def test_run_and_plan_divide_rankings_as_the_config_says(tmp_path, monkeypatch):
    asked = []
    for module, name in ((reward_model, "reward_loss"), (dpo, "preference_loss")):
        make = getattr(module, name)
        recorded = lambda *given, make=make: asked.append(given[-1]) or make(*given)
        monkeypatch.setattr(module, name, recorded)
    of = lambda stage: dataclasses.replace(getattr(SMALL, stage), divide_by="untied_pairs")
    untied = dataclasses.replace(SMALL, reward=of("reward"), dpo=of("dpo"), out=str(tmp_path))
    programs_of(untied, ("reward", "dpo"))
    assert asked == ["untied_pairs"] * 2
    run = Run(untied)
    for name in ("_train_one_model", "_normalise_reward", "rankings"):
        setattr(run, name, lambda *_, **__: None)
    run.model = lambda stage: {"tokens": np.zeros((2, 4), np.float32)}
    run.feeds = types.SimpleNamespace(rankings=lambda *_: None)
    run._reward()
    run._dpo()
    assert asked == ["untied_pairs"] * 4


def test_each_program_is_counted_and_multiplied_by_its_calls(plan):
    names = ["update", "rollout", "experience", "update", "reference", "update"]
    assert [p.name for p in plan.programs] == names
    sft, rollout, _, update, reference, dpo = plan.programs
    assert sft.runs == 8 and update.runs == 3  # 60 demonstrations by 8; iterations
    for p in plan.programs:
        assert p.fits and p.unknown_loops == 0
        assert p.arguments > 0 and p.temporaries > 0 and 0 < p.useful_flops <= p.flops
        assert p.total == p.arguments + p.temporaries + p.outputs + p.beside
    assert sft.flops > 1.15 * sft.useful_flops  # layers are recomputed; the logits are not
    assert sum(update.sent.values()) > 0
    assert rollout.parts.keys() == {"prefill", "decode"}
    assert dpo.useful_flops == pytest.approx(3 * reference.flops, rel=1e-3)
    assert 0 < dpo.beside < reference.arguments < reference.beside and dpo.runs is None
    days = sum(p.useful_flops for p in plan.programs[1:4]) * 3 / 8.64e19
    assert plan.petaflops_days("ppo_ptx") == pytest.approx(days)


def test_state_is_cut_over_the_chips(plan):
    state = programs_of(SMALL, ("sft",))[0].arguments[0]
    whole = sum(4 * int(np.prod(x.shape)) for x in jax.tree.leaves(state))
    assert plan.programs[0].arguments < 0.4 * whole


def test_the_state_lies_beside_the_rollout_that_reads_the_policy_only(plan):
    _, rollout, _, update, *_ = plan.programs
    assert rollout.beside > update.beside > 0
    assert rollout.beside + rollout.arguments <= 1.2 * (update.beside + update.arguments)


def compiled(**changes) -> Compiled:
    found = Compiled(
        stage="sft", name="update", fits=True, arguments=4 * GIB, temporaries=3 * GIB,
        outputs=GIB, beside=2 * GIB, flops=8e15, useful_flops=6e15, sent={"all-gather": 2e11},
        cycles=1.5e9, unknown_loops=0, compile_seconds=1.0, runs=14400, parts={},
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def test_what_fits_and_what_it_takes():
    plan = Plan("small", HERE, MESH, (compiled(),))
    assert plan.exit_code == 0 and verdict(plan).startswith("fits: at most 10.00 GiB a chip, 63%")
    assert plan.compute_seconds(plan.largest) == 1.0 and plan.link_seconds(plan.largest) == 1.0
    assert plan.utilisation(plan.largest) == pytest.approx(6e15 / (8 * 197e12))
    assert plan.petaflops_days("sft") == pytest.approx(1.0)
    assert plan.days("sft") == pytest.approx(1 / 6)
    found = json.loads(as_json(plan))
    assert found["fits"] and found["programs"][0]["total"] == 10 * GIB


@pytest.mark.parametrize("changes", [{"beside": 8 * GIB}, {"fits": False}])
def test_what_does_not_fit_ends_with_1_and_names_the_largest(changes):
    plan = Plan("small", HERE, MESH, (compiled(), compiled(name="rollout", **changes)))
    assert plan.exit_code == 1
    largest = "beside 8.00, arguments 4.00" if "beside" in changes else "arguments 4.00, temporary"
    told = verdict(plan)
    assert "does not fit into 15.75 GiB" in told and "sft rollout needs" in told
    assert largest in told and "sft update" not in told


@pytest.mark.parametrize(
    "message, wanted",
    [
        ("Ran out of memory in memory space hbm. Used 23.5G of 15.75G hbm. Exceeded", 23.5 * GIB),
        ("the total memory required for HLO temporaries (298.12G) exceeds available HBM (30.75G)",
         298.12 * GIB),
        ("something else", None),
    ],
)  # fmt: skip
def test_what_the_compiler_wanted_is_read_off_its_error(message, wanted):
    assert _wanted_bytes(message) == wanted


def test_meshes_worth_a_try_send_least_first():
    model = dataclasses.replace(config.model, width=2048, heads=16)
    kl = FixedController(0.02)
    ppo = dataclasses.replace(config.ppo_ptx, batch_size=512, minibatches=8, kl=kl)
    tried = suggest.meshes(dataclasses.replace(config, model=model, ppo_ptx=ppo), 64)
    assert MeshShape(4, 16, 1) == tried[0] and len(set(tried)) == len(tried)
    assert all(mesh.chips == 64 for mesh in tried)


def test_suggest_prints_the_best_that_fits(monkeypatch, capsys):
    def fake(config, topology, devices, stages, platform):
        mesh = mesh_shape(config.parallel, 8)
        size = 40 * GIB / config.sft.micro_batches / mesh.tensor
        slow = 1e9 * mesh.tensor
        return Plan("small", topology, mesh, (compiled(arguments=size, cycles=slow, sent={}),))

    monkeypatch.setattr(suggest, "make_plan", fake)
    monkeypatch.setattr(suggest, "LANES", 1)
    assert suggest.suggest(SMALL, HERE, [], ("sft",), 12) == 0
    out = capsys.readouterr().out
    assert re.search(r"best: --parallel.fsdp \d --parallel.tensor 2 --sft.micro-batches 4", out)
    monkeypatch.setattr(suggest, "GROWTH", (1,))
    assert suggest.suggest(SMALL, HERE, [], ("sft",), 12) == 1
    capsys.readouterr()
    suggest.suggest(SMALL, HERE, [], ("sft",), 1)
    assert "stopped after 1 tries" in capsys.readouterr().out


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"pip install 'rlhf-jax\[tpu\]'") as caught:
        topology_devices(parse_topology("v5p:4x4x4"))
    assert "\n" not in str(caught.value)


def test_the_command_reads_fields_and_options(monkeypatch, request):
    calls = []

    def made(config, topology, devices, stages):
        calls.append((config, topology, stages))
        return Plan(config.name, topology, MESH, (compiled(fits=False),))

    monkeypatch.setattr(command, "make_plan", made)
    monkeypatch.setattr(command, "topology_devices", lambda topology: [])
    file = str(request.config.rootpath / "experiments" / "instructgpt_1b3.py")
    options = "--topology v5e:8x8 --parallel.fsdp 8 --stages sft --sft.epochs 16"
    code = cli.command(["plan", file, *options.split()])
    (planned, topology, stages), *rest = calls
    assert code == 1 and not rest
    assert (topology.name, planned.parallel.fsdp, stages) == ("v5e:8x8", 8, ("sft",))
    assert planned.sft.epochs == 16


def test_a_plan_is_written_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "topology_devices", lambda topology: [])
    monkeypatch.setattr(
        command, "make_plan", lambda config, topology, *_: Plan("x", topology, MESH, (compiled(),))
    )
    out = tmp_path / "deep" / "plan.json"
    assert plan_command(SMALL, PlanOptions("v5e:2x4", json=out)) == 0
    assert json.loads(out.read_text())["experiment"] == "x"


@pytest.mark.parametrize(
    "changes, stages, told",
    [
        ({}, ("dpo",), "stages = 'dpo'"),
        ({}, ("sleep",), "stages = 'sleep'"),
        ({"parallel": ParallelConfig(runner="pmap")}, (), "parallel.runner = 'pmap'"),
        ({"parallel": ParallelConfig(fsdp=3)}, ("sft",), "parallel.fsdp x parallel.tensor = 3"),
        ({"sft": dataclasses.replace(SMALL.sft, batch_size=6)},
         ("sft",), "sft.batch_size = 6"),
    ],
)  # fmt: skip
def test_a_plan_of_what_could_not_run_is_refused(monkeypatch, changes, stages, told):
    monkeypatch.setattr(command, "topology_devices", lambda topology: jax.devices())
    with pytest.raises(ConfigError, match=re.escape(told)):
        plan_command(
            dataclasses.replace(SMALL, dpo=None, **changes), PlanOptions("v5e:2x4", stages)
        )
