"""The plan of a small experiment on eight simulated devices, and the command around it."""

import dataclasses
import json
import re
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from rlhf_jax import cli
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.parallel.runner import mesh_shape
from rlhf_jax.plan import command, suggest
from rlhf_jax.plan.chips import CHIPS, Topology, parse_topology
from rlhf_jax.plan.command import PlanOptions, plan_command
from rlhf_jax.plan.compiling import GIB, Compiled, _wanted_bytes, topology_devices
from rlhf_jax.plan.plan import Plan, make_plan
from rlhf_jax.plan.programs import programs_of, stages_of
from rlhf_jax.plan.report import as_json, print_plan, verdict
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages.elsewhere import FromRun
from rlhf_jax.stages.stage import text_shapes
from tests.small_run import config, ppo

HERE = Topology("v5e:2x4", CHIPS["v5e"], 8)
MESH = MeshShape(2, 2, 2)
JUDGED = (LearnedReward("grader"),)


def small(**changes):
    """The small run with changes of its stages, by name."""
    stages = {name: dataclasses.replace(config.stages[name], **of) for name, of in changes.items()}
    return config.with_stages(**stages)


SMALL = dataclasses.replace(
    small(
        sft={"packed": False, "epochs": 1.0},
        ppo_ptx={"minibatches": 2, "rollout_micro_batches": 2},
        dpo={"batch_size": 8},
    ),
    model=dataclasses.replace(config.model, remat="full"),
    parallel=ParallelConfig(fsdp=2, tensor=2),
)


@pytest.fixture(scope="module")
def plan():
    stages = ("sft", "feedback", "ppo_ptx", "dpo")
    return make_plan(SMALL, HERE, jax.devices(), stages, platform="cpu")


def test_every_program_of_a_run_is_there():
    assert stages_of(SMALL) == tuple(name for name in SMALL.stages if name != "prompted")
    names = [(p.stage, p.name) for p in programs_of(SMALL, stages_of(SMALL))]
    iteration = ["rollout", "experience", "update"]
    assert names == [
        ("pretrain", "update"), ("sft", "update"), ("feedback", "sample"), ("reward", "update"),
        *(("ppo", name) for name in iteration), *(("ppo_ptx", name) for name in iteration),
        ("dpo", "reference"), ("dpo", "update"),
    ]  # fmt: skip
    other = SMALL.with_stages(reward=FromRun("elsewhere", "reward"))
    assert stages_of(other) == ("pretrain", "sft", "feedback", "ppo", "ppo_ptx", "dpo")


def test_a_stage_of_any_name_is_planned():
    """The shapes are those of the models that it needs, its own settings and nobody else's."""
    stages = {
        "base": FromRun("elsewhere", "base", ends="policy"),
        "grader": FromRun("elsewhere", "scorer", model=dataclasses.replace(SMALL.model, layers=1)),
        "first": ppo(start="base", rewards=JUDGED),
        "second": ppo(start="base", rewards=JUDGED, batch_size=16, ptx_coefficient=1.0),
    }
    other = dataclasses.replace(SMALL, stages=stages, evaluators=())
    planned = programs_of(other, ("first", "second"))
    shape = lambda p: p.program.arguments[2]["tokens"].shape
    assert [(p.stage, shape(p)) for p in planned if p.name == "rollout"] == [
        ("first", (8, 56)), ("second", (16, 56))
    ]  # fmt: skip
    state, _, _, text, *_ = planned[-1].program.arguments
    assert state.value["blocks"]["qkv"].shape[0] == 1 and text == text_shapes(3 * 16, 16)


def test_a_stage_has_as_many_calls_as_the_config_tells():
    runs = lambda config: {p.stage: p.runs for p in programs_of(config, stages_of(config))}
    # 60 demonstrations by 8; what is packed, collected or read from text is not known.
    assert runs(SMALL) == {
        "pretrain": None, "sft": 8, "feedback": None, "reward": None, "ppo": 3, "ppo_ptx": 3,
        "dpo": None,
    }  # fmt: skip
    mixed = small(sft={"packed": False, "pretraining_fraction": 0.3, "epochs": 2.0})
    assert runs(mixed)["sft"] == 22  # 2 epochs of 86 rows, text among them, by 8


def test_a_warm_up_longer_than_its_stage_names_the_field():
    optimizer = dataclasses.replace(SMALL.stages["sft"].optimizer, warmup_steps=9)
    long = SMALL.with_stages(sft=dataclasses.replace(SMALL.stages["sft"], optimizer=optimizer))
    with pytest.raises(ConfigError, match=re.escape("sft.optimizer.warmup_steps = 9")):
        programs_of(long, ("sft",))


def test_each_program_is_counted_and_multiplied_by_its_calls(plan):
    names = ["update", "sample", "rollout", "experience", "update", "reference", "update"]
    assert [p.name for p in plan.programs] == names
    sft, sample, rollout, _, update, reference, dpo = plan.programs
    assert sft.runs == 8 and update.runs == 3 and sample.runs is None
    for p in plan.programs:
        assert p.fits and p.unknown_loops == 0
        assert p.arguments > 0 and p.temporaries > 0 and 0 < p.useful_flops <= p.flops
        assert p.total == p.arguments + p.temporaries + p.outputs + p.beside
    assert sft.flops > 1.15 * sft.useful_flops  # layers are recomputed; the logits are not
    assert sum(update.sent.values()) > 0
    assert rollout.parts.keys() == sample.parts.keys() == {"prefill", "decode"}
    assert dpo.useful_flops == pytest.approx(3 * reference.flops, rel=1e-3)
    assert 0 < dpo.beside < reference.arguments < reference.beside and dpo.runs is None
    days = sum(p.useful_flops for p in plan.programs[2:5]) * 3 / 8.64e19
    assert plan.petaflops_days("ppo_ptx") == pytest.approx(days)


def test_state_is_cut_over_the_chips(plan):
    state = programs_of(SMALL, ("sft",))[0].program.arguments[0]
    whole = sum(4 * int(np.prod(x.shape)) for x in jax.tree.leaves(state))
    assert plan.programs[0].arguments < 0.4 * whole


def test_the_state_lies_beside_the_rollout_that_reads_the_policy_only(plan):
    _, _, rollout, _, update, *_ = plan.programs
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


def test_kernels_take_two_fifths_of_the_peak_in_addition_to_the_cycles(capsys):
    flops = 2 * 0.4 * 8 * 197e12
    parts = {name: {"cycles": 1.5e9, "sent": {}} for name in ("prefill", "decode")}
    plan = Plan("small", HERE, MESH, (compiled(kernel_flops=flops, parts=parts),))
    assert plan.kernel_seconds(plan.largest) == pytest.approx(2)
    assert plan.compute_seconds(plan.largest) == pytest.approx(1 + 2)
    assert json.loads(as_json(plan))["programs"][0]["kernel_seconds"] == pytest.approx(2)
    print_plan(plan, Console(width=200))
    told = capsys.readouterr().out
    assert f"sft update: 2 s of compute inside attention's kernels: {flops:.3g} FLOPs" in told
    assert "at 40% of the peak, which is assumed" in told
    prefill, decode = (line for line in told.splitlines() if re.search("of it (pre|dec)", line))
    assert " 3 " in prefill and " 3 " not in decode  # seconds of compute


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
    """Of 64 chips; width 2048 is cut in 16 multiples of 128, 16 heads in 16."""
    model = dataclasses.replace(config.model, width=2048, heads=16)
    wide = dataclasses.replace(small(sft={"batch_size": 64}), model=model)
    tried = suggest.meshes(wide, 64, ("sft",))
    assert tried[:3] == [MeshShape(4, 16, 1), MeshShape(8, 8, 1), MeshShape(16, 4, 1)]
    assert len(set(tried)) == len(tried) and all(mesh.chips == 64 for mesh in tried)
    assert {mesh.tensor for mesh in tried} == {1, 2, 4, 8, 16}
    fewer = dataclasses.replace(small(sft={"batch_size": 64, "micro_batches": 4}), model=model)
    assert suggest.meshes(fewer, 64, ("sft",))[0] == MeshShape(1, 16, 4)  # 16 rows at a time
    # PPO reads the scorer too.
    scorer = dataclasses.replace(model, width=256, heads=2)
    other = wide.with_stages(reward=FromRun("elsewhere", "reward", model=scorer))
    many = ppo(batch_size=256, kl=FixedController(0.02))
    meshes = suggest.meshes(other.with_stages(ppo=many), 64, ("ppo",))
    assert {mesh.tensor for mesh in meshes} == {1, 2} and {mesh.fsdp for mesh in meshes} == {1, 2}


def test_micro_batches_of_a_mesh():
    mesh = MeshShape(1, 2, 2)
    changed = suggest.with_micro_batches(SMALL, 4, mesh, ("sft", "ppo_ptx"))
    assert changed.stages["sft"].micro_batches == 4 and changed.parallel.tensor == 2
    told = suggest.options(Plan("small", HERE, mesh, (compiled(stage="ppo_ptx"),)), SMALL, changed)
    # Of 8 episodes: 4 of each of 2 minibatches, 2 for each group; 12 rows of text.
    assert told == ("--parallel.fsdp 2 --parallel.tensor 2 --ppo-ptx.micro-batches 2 "
                    "--ppo-ptx.rollout-micro-batches 4 --ppo-ptx.ptx-micro-batches 6")  # fmt: skip
    odd = small(sft={"batch_size": 6})
    assert suggest.with_micro_batches(odd, 1, MeshShape(1, 4, 1), ("sft",)) is None


def test_suggest_prints_the_best_that_fits(monkeypatch, capsys):
    def fake(config, topology, devices, stages, platform):
        mesh = mesh_shape(config.parallel, 8)
        size = 36 * GIB / config.stages["sft"].micro_batches / mesh.tensor
        slow = 1e9 * mesh.tensor
        return Plan("small", topology, mesh, (compiled(arguments=size, cycles=slow, sent={}),))

    monkeypatch.setattr(suggest, "make_plan", fake)
    monkeypatch.setattr(suggest, "LANES", 1)
    assert suggest.suggest(SMALL, HERE, [], ("sft",), 12) == 0
    out = capsys.readouterr().out
    # 8 rows: one for each of 8 groups of chips, two micro-batches for each of 4.
    assert "best: --parallel.fsdp 4 --parallel.tensor 2 --sft.micro-batches 2\n" in out
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
    assert planned.stages["sft"].epochs == 16


def test_a_plan_is_written_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "topology_devices", lambda topology: [])
    monkeypatch.setattr(
        command, "make_plan", lambda config, topology, *_: Plan("x", topology, MESH, (compiled(),))
    )
    out = tmp_path / "deep" / "plan.json"
    assert plan_command(SMALL, PlanOptions("v5e:2x4", json=out)) == 0
    assert json.loads(out.read_text())["experiment"] == "x"


@pytest.mark.parametrize(
    "changed, stages, told",
    [
        (SMALL, ("prompted",), "stages = 'prompted'"),
        (SMALL, ("sleep",), "stages = 'sleep'"),
        (dataclasses.replace(SMALL, parallel=ParallelConfig(runner="pmap")), (), "parallel.runner"),
        (dataclasses.replace(SMALL, parallel=ParallelConfig(fsdp=3)),
         ("sft",), "parallel.fsdp x parallel.tensor = 3"),
        (small(sft={"batch_size": 6}), ("sft",), "sft.batch_size = 6"),
    ],
)  # fmt: skip
def test_a_plan_of_what_could_not_run_is_refused(monkeypatch, changed, stages, told):
    monkeypatch.setattr(command, "topology_devices", lambda topology: jax.devices())
    with pytest.raises(ConfigError, match=re.escape(told)):
        plan_command(changed, PlanOptions("v5e:2x4", stages))
