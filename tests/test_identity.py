"""What a stage's fingerprint holds: all that it depends on, and nothing else."""

import dataclasses
import types

import pytest

from rlhf_jax.durable import manifest
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.run import STAGES, Run
from rlhf_jax.stages.dpo import IPO
from tests.small_run import config


def fingerprint(stage, config=config):
    return Run._fingerprint(types.SimpleNamespace(config=config), stage)


SHARED = {"seed", "data", "model"}
HOLDS = {
    "pretrain": SHARED | {"pretrain"},
    "sft": SHARED | {"pretrain", "sft"},
    "reward": SHARED | {"pretrain", "sft", "feedback", "reward"},
    "dpo": SHARED | {"pretrain", "sft", "feedback", "dpo"},
    "ppo": SHARED | {"pretrain", "sft", "feedback", "reward", "ppo"},
    "ppo_ptx": SHARED | {"pretrain", "sft", "feedback", "reward", "ppo_ptx"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_holds_all_stages_upstream(stage):
    assert fingerprint(stage).keys() == HOLDS[stage]


def change(field, **changes):
    return dataclasses.replace(
        config, **{field: dataclasses.replace(getattr(config, field), **changes)}
    )


CHANGES = [  # (the config, the stages whose fingerprint changes)
    (dataclasses.replace(config, seed=5), set(STAGES)),
    (change("data", agreement=0.8), set(STAGES)),
    (change("pretrain", epochs=2.0), set(STAGES)),
    (change("sft", epochs=2.0), set(STAGES) - {"pretrain"}),
    (change("reward", epochs=2.0), {"reward", "ppo", "ppo_ptx"}),
    (change("dpo", objective=IPO()), {"dpo"}),
    (change("ppo_ptx", gae_lambda=0.5), {"ppo_ptx"}),
    (change("ppo", gae_lambda=0.5), {"ppo"}),
    # PPO's way of sampling is that of the outputs that labelers rank.
    (change("ppo", temperature=0.5), {"reward", "dpo", "ppo", "ppo_ptx"}),
    (change("ppo", response_length=7), {"reward", "dpo", "ppo", "ppo_ptx"}),
    (change("ppo", stop_token="."), {"reward", "dpo", "ppo", "ppo_ptx"}),
    (change("evaluation", batch_size=11), {"reward", "dpo", "ppo", "ppo_ptx"}),
    (change("loop", log_every=7), set()),
    (change("parallel", heartbeat=7), set()),
    (dataclasses.replace(config, name="other", out="elsewhere"), set()),
]


@pytest.mark.parametrize("changed, stages", CHANGES)
def test_a_change_reaches_the_stages_downstream_and_no_other(changed, stages):
    differ = {stage for stage in STAGES if fingerprint(stage) != fingerprint(stage, changed)}
    assert differ == stages


def test_a_reward_model_of_another_run_is_known_by_its_content(tmp_path):
    model = tmp_path / "reward" / "model"
    model.mkdir(parents=True)
    (model / "params").write_bytes(b"one")
    manifest.write(model, {})
    other = dataclasses.replace(
        config,
        reward_model=TransformerConfig(**dataclasses.asdict(config.model) | {"layers": 1}),
        reward_from=str(tmp_path),
    )
    before = fingerprint("ppo", other)
    assert before.keys() == SHARED | {"pretrain", "sft", "ppo", "reward_model", "reward_from"}
    assert before["reward_from"] == {"path": str(tmp_path), "model": manifest.digest(model)}
    assert fingerprint("dpo", other) == fingerprint("dpo")
    (model / "params").write_bytes(b"two")
    manifest.write(model, {})
    after = fingerprint("ppo", other)
    assert after["reward_from"]["model"] not in (None, before["reward_from"]["model"])
