"""PPO against the reward model of another run, of another size than the policy."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.durable.model_files import load_model, save_model
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.run import Run
from rlhf_jax.training.metrics import read_metrics
from tests.small_run import config

REWARD = dataclasses.replace(config.model, layers=1, width=16, scan_layers=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose SFT is over, beside a run whose reward model is finished."""
    folder = tmp_path_factory.mktemp("runs")
    experiment = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, scan_layers=False),
        reward_model=REWARD,
        reward_from=str(folder / "other"),
        ppo=dataclasses.replace(config.ppo, iterations=2),
        out=str(folder / "own"),
    )
    run, key = Run(experiment), jax.random.key(0)
    policy = transformer.init(experiment.model, key)
    fingerprint = run.tokenizer.fingerprint
    for stage in ("pretrain", "sft"):
        place = run.stage_directory(stage) / "model"
        save_model(place, experiment.model, policy, "policy", fingerprint)
    save_reward_model(folder / "other", REWARD, fingerprint)
    return run


def save_reward_model(directory, shape, fingerprint):
    key = jax.random.key(1)
    params = score.with_score_head(transformer.init(shape, key), key)
    save_model(directory / "reward" / "model", shape, params, "score", fingerprint)
    return params


@pytest.mark.slow
def test_ppo_trains_against_a_smaller_reward_model(run):
    run.finish("reward")
    assert not run.stage_directory("reward").exists()
    run.finish("ppo")
    directory = run.stage_directory("ppo")
    shape, params = load_model(directory / "model", "policy", run.tokenizer.fingerprint)
    assert shape == run.config.model and params["tokens"].shape == (400, 32)
    before = run.model("sft")
    moved = np.asarray(params["tokens"]) - np.asarray(before["tokens"])
    assert np.abs(moved).max() > 1e-4
    first, second = read_metrics(directory)
    assert first["value_loss"] > 0 and second["value_grad_norm"] > 0
    assert run._fingerprint("ppo")["reward_from"]["path"] == run.config.reward_from


def changed(run, tmp_path, shape=REWARD, fingerprint=None, **changes):
    save_reward_model(tmp_path, shape, fingerprint or run.tokenizer.fingerprint)
    other = Run(dataclasses.replace(run.config, reward_from=str(tmp_path)))
    other.config = dataclasses.replace(other.config, **changes)
    return other


def test_another_tokenizer_is_refused_by_name(run, tmp_path):
    other = changed(run, tmp_path, fingerprint="another")
    with pytest.raises(UserError, match=r"model.json: tokenizer: expected .*another"):
        other.finish("reward")


def test_another_shape_is_refused_by_field(run, tmp_path):
    other = changed(run, tmp_path, dataclasses.replace(REWARD, mlp_width=20))
    with pytest.raises(UserError, match=r"model.json: mlp_width: expected None .*got 20"):
        other.model("reward")


def test_how_a_model_is_computed_may_differ(run, tmp_path):
    other = changed(run, tmp_path, dataclasses.replace(REWARD, remat="full", scan_layers=True))
    assert other.model("reward")["tokens"].shape == (400, 16)


def test_an_absent_run_is_named(run):
    other = Run(dataclasses.replace(run.config, reward_from="nowhere"))
    with pytest.raises(UserError, match="nowhere/reward/model: no finished model here"):
        other.finish("reward")


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"reward_model": REWARD}, "come from another run: reward_from"),
        (
            {"reward_model": dataclasses.replace(REWARD, vocab_size=300), "reward_from": "x"},
            "reward_model.vocab_size = 300",
        ),
        (
            {"reward_model": dataclasses.replace(REWARD, context=60), "reward_from": "x"},
            "reward.length = 80",
        ),
    ],
)
def test_a_reward_model_that_cannot_serve_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(config, **changes)


def test_the_policy_s_own_shape_needs_no_other_run():
    same = TransformerConfig(**dataclasses.asdict(config.model) | {"remat": "full"})
    assert dataclasses.replace(config, reward_model=same).scorer is same
