"""Stages that train nothing: a model of another run, of another size, and a prompted policy."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.durable.model_files import load_model, save_model
from rlhf_jax.errors import UserError
from rlhf_jax.runs.run import Run
from rlhf_jax.stages.elsewhere import FewShot, FromRun
from rlhf_jax.stages.stage import Prompting, policy_shapes, score_shapes
from rlhf_jax.training.metrics import read_metrics
from tests.chain import same
from tests.observed import host
from tests.small_run import config

REWARD = dataclasses.replace(config.model, layers=1, width=16, scan_layers=False)
MODEL = dataclasses.replace(config.model, scan_layers=False)


def noise(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(scale=0.02, size=x.shape).astype(x.dtype), shapes)


def policy(seed=0):
    return noise(policy_shapes(MODEL), seed)


def save_reward_model(directory, shape, fingerprint):
    params = noise(score_shapes(shape), 1)
    save_model(directory / "reward" / "model", shape, params, "score", fingerprint)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose SFT is over, beside a run whose reward model and policy are finished."""
    folder = tmp_path_factory.mktemp("runs")
    experiment = dataclasses.replace(config, model=MODEL, out=str(folder / "own")).with_stages(
        reward=FromRun(str(folder / "other"), "reward", model=REWARD),
        ppo=dataclasses.replace(config.stages["ppo"], iterations=2),
        tuned=FromRun(str(folder / "other"), "sft", ends="policy"),
        dpo=dataclasses.replace(config.stages["dpo"], start="tuned"),
    )
    run = Run(experiment)
    fingerprint = run.tokenizer.fingerprint
    for stage in ("pretrain", "sft"):
        place = run.stage_directory(stage) / "model"
        save_model(place, experiment.model, policy(), "policy", fingerprint)
    save_model(folder / "other" / "sft" / "model", MODEL, policy(7), "policy", fingerprint)
    save_reward_model(folder / "other", REWARD, fingerprint)
    return run


@pytest.mark.slow
def test_ppo_trains_against_a_smaller_reward_model(run):
    run.finish("reward")
    assert not (run.directory / "reward").exists()
    run.finish("ppo")
    directory = run.stage_directory("ppo")
    shape, params = load_model(directory / "model", "policy", run.tokenizer.fingerprint)
    assert shape == run.config.model and params["tokens"].shape == (400, 32)
    before = run.model("sft")
    moved = np.asarray(params["tokens"]) - np.asarray(before["tokens"])
    assert np.abs(moved).max() > 1e-4
    first, second = read_metrics(directory)
    assert first["value_loss"] > 0 and second["value_grad_norm"] > 0


def test_a_model_of_another_run_is_read_where_it_lies_and_nothing_runs(run):
    run.finish("tuned")
    assert run.finished("tuned") and not run.trains("tuned") and run.trains("dpo")
    assert not (run.directory / "tuned").exists()
    assert same(host(run.model("tuned")), policy(7))
    assert run.left(["pretrain", "sft", "reward", "tuned", "dpo"]) == ["dpo"]
    assert (
        run.build("ppo").shapes["rewards reward"] == REWARD
        and run.build("dpo").shapes["start"] == MODEL
    )


def changed(run, tmp_path, shape=REWARD, fingerprint=None):
    """The run with another reward model."""
    save_reward_model(tmp_path, shape, fingerprint or run.tokenizer.fingerprint)
    reward = dataclasses.replace(run.config.stages["reward"], run=str(tmp_path))
    return Run(run.config.with_stages(reward=reward))


def refused(run, stage) -> str:
    with pytest.raises(UserError) as told:
        run.model(stage)
    return str(told.value)


def test_another_tokenizer_is_refused_by_name(run, tmp_path):
    told = refused(changed(run, tmp_path, fingerprint="another"), "reward")
    assert f"{tmp_path}/reward/model/model.json: tokenizer: expected " in told
    assert told.endswith("got 'another'")


def test_another_shape_is_refused_by_field(run, tmp_path):
    told = refused(changed(run, tmp_path, dataclasses.replace(REWARD, mlp_width=20)), "reward")
    about = f"{tmp_path}/reward/model/model.json"
    assert told == f"{about}: mlp_width: expected None (reward), got 20"


def test_how_a_model_is_computed_may_differ(run, tmp_path):
    other = changed(run, tmp_path, dataclasses.replace(REWARD, remat="full", scan_layers=True))
    assert other.model("reward")["tokens"].shape == (400, 16)


def test_a_model_that_ends_otherwise_is_refused(run):
    reward = dataclasses.replace(run.config.stages["reward"], stage="sft", model=None)
    told = refused(Run(run.config.with_stages(reward=reward)), "reward")
    assert told.endswith("sft/model/model.json: kind: expected 'score', got 'policy'")


def test_an_absent_run_is_named(run, tmp_path):
    other = Run(run.config.with_stages(reward=FromRun("nowhere", "scorer", model=REWARD)))
    told = "reward: nowhere/scorer holds no finished model"
    for ask in (other.finish, other.model):
        with pytest.raises(UserError) as refused:
            ask("reward")
        assert str(refused.value) == told
    fresh = Run(dataclasses.replace(other.config, out=str(tmp_path)))
    with pytest.raises(UserError) as refused:
        fresh.finish("ppo")
    assert str(refused.value) == told
    assert not (tmp_path / "pretrain").exists()  # before any stage


def test_a_model_that_does_not_fit_is_refused_before_any_stage(run, tmp_path):
    other = changed(run, tmp_path, dataclasses.replace(REWARD, mlp_width=20))
    other = Run(dataclasses.replace(other.config, out=str(tmp_path / "fresh")))
    other._run = lambda stage: pytest.fail("a stage began")
    with pytest.raises(UserError, match=r"mlp_width: expected None \(reward\), got 20"):
        other.finish("ppo")
    other.check(["pretrain", "sft"])  # which do without it


def test_a_stage_that_is_not_there_is_named(run):
    with pytest.raises(UserError) as refused:
        run.finish("ppo_3")
    assert str(refused.value).startswith(
        "ppo_3: the experiment 'small' has no such stage: it has pretrain, prompted, sft, "
    )


# The prompted policy.


def test_the_prompted_policy_is_the_model_that_it_starts_from(run):
    run.finish("prompted")
    assert run.stage_directory("prompted") == run.stage_directory("pretrain")
    assert not (run.directory / "prompted").exists()
    assert run.finished("prompted") and not run.trains("prompted")
    assert same(host(run.model("prompted")), policy())
    assert run.build("prompted").shapes == {"start": MODEL}


def test_it_is_asked_behind_worked_examples_a_line_each():
    stage, source = FewShot(examples=2, prompt_length=90, start="pretrain"), config.data
    found = stage.prompting(source, 1)
    assert found == Prompting(source.worked_examples(2, 1), "\n", 90)
    assert found.before != stage.prompting(source, 2).before
    assert config.stages["sft"].prompting(source, 1) == Prompting("", None, None)


def test_a_prompted_policy_may_start_from_another_run_s_model(run):
    """And from a prompted one."""
    stages = {
        "few": FewShot(start="tuned", prompt_length=100),
        "fewer": FewShot(start="few", prompt_length=100, examples=1),
    }
    other = Run(run.config.with_stages(**stages))
    assert other.stage_directory("fewer") == other.stage_directory("tuned")
    assert same(host(other.model("fewer")), policy(7))


def test_a_prompted_policy_waits_for_what_it_starts_from(run, tmp_path):
    began = []
    fresh = Run(dataclasses.replace(run.config, out=str(tmp_path / "fresh")))
    fresh._run = began.append
    with pytest.raises(UserError, match=r"^prompted: .*fresh/pretrain holds no finished model$"):
        fresh.finish("prompted")  # had the stage ended, its model would be there
    assert began == ["pretrain"]
