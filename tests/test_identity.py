"""What a stage's fingerprint holds: all that it depends on, and nothing else."""

import dataclasses

import pytest

from rlhf_jax.durable import manifest
from rlhf_jax.objectives.estimator import GAE
from rlhf_jax.runs.experiment import EvaluationConfig
from rlhf_jax.stages.dpo import IPO
from rlhf_jax.stages.elsewhere import FromRun
from tests.small_run import config, ppo


def fingerprint(stage, config=config):
    return config.fingerprint(stage)


SHARED = {"seed", "data", "model", "ending", "stages"}
RANKED = ["pretrain", "sft", "feedback"]
HOLDS = {  # in the order in which they run
    "pretrain": ["pretrain"],
    "prompted": ["pretrain", "prompted"],
    "sft": ["pretrain", "sft"],
    "feedback": RANKED,
    "reward": [*RANKED, "reward"],
    "dpo": [*RANKED, "dpo"],
    "ppo": [*RANKED, "reward", "ppo"],
    "ppo_ptx": [*RANKED, "reward", "ppo_ptx"],
}
EVERY = set(HOLDS)


def test_the_table_holds_all_stages():
    assert config.stages.keys() == EVERY


@pytest.mark.parametrize("stage", HOLDS)
def test_a_stage_holds_all_stages_upstream(stage):
    found = fingerprint(stage)
    assert found.keys() == SHARED and list(found["stages"]) == HOLDS[stage]


def change(field, **changes):
    """Of a part of the experiment, or of one of its stages."""
    if field in config.stages:
        return config.with_stages(**{field: dataclasses.replace(config.stages[field], **changes)})
    part = dataclasses.replace(getattr(config, field), **changes)
    return dataclasses.replace(config, **{field: part})


def below(*stages):
    """Those stages and all that hold one of them."""
    return {name for name, upstream in HOLDS.items() if set(stages) & set(upstream)}


def test_what_is_below_a_stage():
    assert below("sft") == EVERY - {"pretrain", "prompted"}
    assert below("reward") == {"reward", "ppo", "ppo_ptx"} and below("dpo") == {"dpo"}


SAMPLING = dataclasses.replace(config.evaluation.sampling, temperature=0.4)
CHANGES = {  # (the config, the stages whose fingerprint changes)
    "seed": (dataclasses.replace(config, seed=5), EVERY),
    "data": (change("data", careless=0.8), EVERY),
    "model": (change("model", layers=3), EVERY),
    "ending": (change("ending", stop_token="."), EVERY),
    "missing end": (change("ending", missing_eos_score=-3.0), EVERY),
    "pretrain": (change("pretrain", epochs=2.0), EVERY),
    "prompted": (change("prompted", examples=2), {"prompted"}),
    "sft": (change("sft", epochs=2.0), below("sft")),
    "optimizer": (change("sft", optimizer=config.stages["reward"].optimizer), below("sft")),
    "feedback": (change("feedback", agreement=0.8), below("feedback")),
    "temperature": (change("feedback", temperature=0.5), below("feedback")),
    "outputs": (change("feedback", outputs=(2, 2)), below("feedback")),
    "reward": (change("reward", epochs=2.0), below("reward")),
    "dpo": (change("dpo", objective=IPO()), {"dpo"}),
    "ppo_ptx": (change("ppo_ptx", advantage=GAE(0.95, 0.5)), {"ppo_ptx"}),
    "ppo": (change("ppo", temperature=0.5), {"ppo"}),
    "start": (change("ppo", start="dpo"), {"ppo"}),
    "stream": (change("sft", stream="other"), below("sft")),
    "kind": (config.with_stages(dpo=ppo()), {"dpo"}),
    "another stage": (config.with_stages(more=ppo(start="dpo")), set()),
    "evaluation": (
        dataclasses.replace(config, evaluation=EvaluationConfig(40, 9, SAMPLING, 11)), set(),
    ),
    "loop": (change("loop", log_every=7), set()),
    "parallel": (change("parallel", heartbeat=7), set()),
    "name": (dataclasses.replace(config, name="other", out="elsewhere"), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reaches_the_stages_downstream_and_no_other(name):
    changed, stages = CHANGES[name]
    differ = {stage for stage in HOLDS if fingerprint(stage) != fingerprint(stage, changed)}
    assert differ == stages


def test_the_order_in_which_stages_are_written_down_is_no_part_of_it():
    turned = dataclasses.replace(config, stages=dict(reversed(config.stages.items())))
    for stage in HOLDS:
        found = fingerprint(stage, turned)
        assert found == fingerprint(stage) and list(found["stages"]) == HOLDS[stage]


def test_a_model_of_another_run_is_known_by_its_content(tmp_path):
    model = tmp_path / "scorer" / "model"
    model.mkdir(parents=True)
    (model / "params").write_bytes(b"one")
    manifest.write(model, {})
    other = config.with_stages(reward=FromRun(str(tmp_path), "scorer"))
    before = fingerprint("ppo", other)
    assert before.keys() == SHARED | {"models"}
    assert list(before["stages"]) == ["pretrain", "sft", "reward", "ppo"]
    assert before["stages"]["reward"]["run"] == str(tmp_path)
    assert before["models"] == {"reward": manifest.digest(model)}
    for stage in ("pretrain", "sft", "feedback", "dpo"):
        assert fingerprint(stage, other) == fingerprint(stage)
    (model / "params").write_bytes(b"two")
    manifest.write(model, {})
    after = fingerprint("ppo", other)
    assert after["models"]["reward"] not in (None, before["models"]["reward"])
    assert {**after, "models": 0} == {**before, "models": 0}
