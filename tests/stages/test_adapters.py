"""Stages with LoRA: the adapter alone is trained, the trunk is shared, and at the start a policy is
its reference."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Demonstration
from rlhf_jax.errors import ConfigError
from rlhf_jax.models import lora, score
from rlhf_jax.models.lora import LoRA
from rlhf_jax.stages.adapters import model_at_start, repeated
from rlhf_jax.stages.dpo import DirectPreference
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.stage import Build
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.models.test_parts import leaves
from tests.stages import tiny
from tests.stages.test_trained_parts import BASE, MODELS, RANKED, RATE, SIZES, inputs, ppo_stage

FORM, OTHER = LoRA(3, 6.0), LoRA(2, 4.0, ("qkv", "down"))
ADAPTED = dataclasses.replace(tiny.MODEL, lora=FORM)
ADAPTER = tiny.noisy(lora.init(FORM, MODELS["base"]["blocks"], jax.random.key(1)), 5)
SFT_MODEL = jax.tree.map(lambda x: x, {**MODELS["base"]})
SFT_MODEL["blocks"] = {**SFT_MODEL["blocks"], **ADAPTER["blocks"]}
STAGES = {
    "base": BASE,
    "sft": SFT(RATE, **SIZES, start="base", lora=FORM),
    "reward": RewardModel(RATE, **RANKED | {"start": "sft"}, normalise="none", lora=FORM),
    "plain": SFT(RATE, **SIZES, start="base"),
}
MODELS_HERE = {
    "base": MODELS["base"],
    "sft": SFT_MODEL,
    "plain": MODELS["sft"],
    "reward": score.with_score_head(SFT_MODEL, jax.random.key(2)),
}


def given(stages, name):
    """The inputs of a stage. A merged trunk is made once, as in a run."""
    found = inputs(STAGES | stages, name)
    shapes = {role: shape.lora for role, shape in found.build.shapes.items()}

    @functools.cache
    def trunk(stage):
        form = next(f for role, f in shapes.items() if found._stage.needs()[role].stage == stage)
        params = MODELS_HERE[stage]
        return params if form is None else lora.merged(form, params)

    found._run.model, found._run.trunk = MODELS_HERE.__getitem__, trunk
    return found


def is_adapter(path):
    return path.startswith(("blocks/lora/", "score/"))


def test_a_stage_that_continues_an_adapter_begins_with_the_model_itself():
    here = given({"dpo": DirectPreference(RATE, **RANKED | {"start": "sft"}, lora=FORM)}, "dpo")
    assert model_at_start(here, "start", FORM) is SFT_MODEL


@pytest.mark.parametrize("start", ["sft", "plain"])
@pytest.mark.parametrize("form", [OTHER, None], ids=["other", "none"])
def test_an_adapter_of_another_form_is_merged_and_a_new_one_changes_nothing(start, form):
    stage = DirectPreference(RATE, **RANKED | {"start": start}, lora=form)
    here = given({"dpo": stage}, "dpo")
    found, trunk = leaves(model_at_start(here, "start", form)), leaves(here.trunk("start"))
    assert {path for path in found if is_adapter(path)} == (
        {f"blocks/lora/{name}_{x}" for name in OTHER.matrices for x in "ab"} if form else set()
    )
    for path, array in found.items():
        if is_adapter(path):
            assert np.any(array) == path.endswith("_a")
        else:
            assert array is trunk[path]  # no copy
    assert stage.shape(here.build) == dataclasses.replace(tiny.MODEL, lora=form)


def test_sft_trains_the_adapter_alone_and_keeps_the_arrays_of_the_trunk():
    stage = STAGES["sft"]
    here = given({}, "sft")
    task = stage.task(here)
    state, metrics = task.step(task.state, next(task.batches))
    assert metrics["grad_norm"] > 0 and metrics["skipped_steps"] == 0
    for tree in (state.params, state.opt_state[1].mu):
        assert tree and all(map(is_adapter, leaves(tree)))
    after, before = leaves(stage.finish(task.model(state), here)), leaves(MODELS["base"])
    for path, array in after.items():
        assert is_adapter(path) or array is before[path]
    assert any(np.any(array) for path, array in after.items() if path.endswith("_b"))


FIRST = {  # the first iteration of PPO after these
    "other": {"start": "sft", "lora": OTHER},
    "same": {"start": "sft", "lora": FORM},
    "full": {"start": "plain", "lora": FORM},
    "none": {"start": "sft", "lora": None},
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c == "other" else pytest.mark.slow) for c in FIRST]
)
def test_the_kl_at_ppo_s_first_step_is_0_and_adapters_alone_move(case):
    stage = dataclasses.replace(ppo_stage(), reference=None, **FIRST[case])
    here = given({"ppo": stage}, "ppo")
    task = stage.task(here)
    start = leaves(jax.tree.map(np.array, task.model(task.state)))
    state, metrics = task.step(task.state, next(task.batches))
    assert metrics["kl"] == 0.0 and metrics["sampler_gap"] < 1e-4
    assert metrics["policy_grad_norm"] > 0 and metrics["value_grad_norm"] > 0
    assert metrics["skipped_steps"] == 0
    moved = {p for p, x in leaves(task.model(state)).items() if not np.array_equal(x, start[p])}
    if stage.lora is None:
        assert {"tokens", "blocks/up"} <= moved and not any(map(is_adapter, start))
        return
    assert moved and all(map(is_adapter, moved))
    for tree in (state.policy, state.value, state.ema, state.policy_opt[1].mu):
        assert tree and all(map(is_adapter, leaves(tree)))
    assert {"score/weights", "score/bias"} <= leaves(state.value).keys()


def test_rank_as_large_as_the_width_reaches_the_loss_of_full_fine_tuning():
    """Where the matrices of the layers are trained, with and without adapters."""
    rate = OptimizerConfig(learning_rate=1e-2, max_grad_norm=None, schedule="linear")
    sizes = {"batch_size": 8, "length": 12, "epochs": 90.0, "start": "plain"}
    full = SFT(rate, **sizes, train=("qkv", "out", "up", "down"))
    adapted = SFT(rate, **sizes, lora=LoRA(tiny.MODEL.width, 2.0 * tiny.MODEL.width))
    small = SFT(rate, **sizes, lora=LoRA(1, 1.0, ("out",)))
    records = [Demonstration(a, b * 3) for a, b in zip("efghijkl", "badcabdc", strict=True)]
    found = []
    for stage in (full, adapted, small):
        here = given({"own": stage}, "own")
        here._run.records = lambda *_: records
        task = stage.task(here)
        state, losses = task.state, []
        for _ in range(90):
            state, metrics = task.step(state, next(task.batches))
            losses.append(float(metrics["loss"]))
        found.append(losses)
    full, adapted, small = found
    np.testing.assert_allclose(adapted[0], full[0], rtol=1e-6)
    assert full[-1] < 0.43 < 2 < small[-1] < full[0]
    assert adapted[-1] < 1.005 * full[-1]


def test_what_two_models_share_is_found_once():
    trunk = {"tokens": 1, "blocks": {"up": 2, "lora": {"up_a": 3}}}
    scorer = {"blocks": {"up": 2, "lora": {"up_a": 4}}, "score": {"bias": 5}}
    models = [("base", trunk), ("base", scorer), ("other", trunk), ("other", {"tokens": 1})]
    assert repeated(models) == ({}, {"blocks": {"up": 2}}, {}, {"tokens": 1})


def planned(**changes):
    """Names of the arrays that PPO's programs have a second time, by program."""
    stage = dataclasses.replace(ppo_stage(), reference=None, start="sft", **changes)
    build = given({"ppo": stage}, "ppo").build
    programs = stage.programs(build, 4)
    return {name: [leaves(tree).keys() for tree in p.shared] for name, p in programs.items()}


def test_the_plan_counts_a_shared_trunk_once():
    """Policy, reference, reward model and value network are adapters on "base"."""
    trunk, none = leaves(MODELS["base"]).keys(), set()
    found = planned(lora=FORM)
    assert found["update"] == found["experience"] == [none, trunk, trunk, trunk]
    assert found["rollout"] == [none, trunk, trunk, trunk, trunk]
    # The reward model lies on "base", the others on what SFT's or its own adapter is merged into.
    assert planned(lora=OTHER)["update"] == [none, trunk, none, none]
    assert planned()["update"] == [none, none, none, none]


REFUSED = {
    r"train = \('up',\): must be \(\): with `lora`, the adapter is trained":
        lambda: SFT(RATE, start="base", train=("up",), lora=FORM),
    r"train_value = \('up',\): must be \(\): with `lora`, the adapters are trained":
        lambda: tiny.ppo_config(train_value=("up",), lora=FORM),
    r"lora = LoRA\(.*\): must be None where start is None: random weights are no trunk":
        lambda: SFT(RATE, start=None, lora=FORM),
    "lora.matrices = .*: must be without 'gate': this model has no gate":
        lambda: SFT(RATE, **SIZES, start="base", lora=LoRA(matrices=("gate",))).check_shapes(
            Build("sft", tiny.MODEL, {"start": tiny.MODEL}, tiny.ENDING)
        ),
}  # fmt: skip


@pytest.mark.parametrize("told", REFUSED)
def test_what_contradicts_an_adapter_is_refused(told):
    with pytest.raises(ConfigError, match=f"^{told}$"):
        REFUSED[told]()
