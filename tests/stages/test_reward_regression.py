"""The reward model of absolute scores: its batches, loss, steps, and what it ends with."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.data.pipeline import scored_pass
from rlhf_jax.data.records import Demonstration, Scored
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models.lora import LoRA
from rlhf_jax.stages.facts import Facts, Measures
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_regression import RewardRegression, score_loss
from rlhf_jax.stages.stage import Need
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Letters
from tests.fed import ENDING, inputs_of
from tests.models.test_parts import leaves
from tests.stages import tiny

RATE = OptimizerConfig(learning_rate=3e-2, epsilon=0.1)
STAGE = RewardRegression(RATE, epochs=12, batch_size=4, length=12, start="base")
STAGES = {"base": Pretrain(RATE, batch_size=4, length=12), "reward": STAGE}
SCORED = [Scored(a, a + "bc" * (i % 3), i / 2 - 1) for i, a in enumerate("efghij")]
SCORED.append(Scored("k", "l" * 20, 9.0))  # too long
DEMONSTRATIONS = [Demonstration(a, "xy") for a in "mnopq"]
RECORDS = {
    ("scored", "train", None): SCORED,
    ("demonstrations", "train", None): DEMONSTRATIONS,
}


def inputs(stage=STAGE):
    return inputs_of(
        STAGES | {"reward": stage}, "reward", lambda *of: RECORDS[of], ending=tiny.ENDING,
        shape=tiny.MODEL, runner=tiny.one_device(), model=lambda stage: tiny.policy_params(3),
        trunk=lambda stage: tiny.policy_params(3),
    )  # fmt: skip


def ids_of(prompt, response):
    return [1, *Letters().encode(prompt), *Letters().encode(response), 2]


def scores_of(params, records):
    """float64, each sequence alone."""
    sequences = [ids_of(record.prompt, record.response) for record in records]
    return np.array([row[-1] for row in tiny.sequence_scores(params, sequences)])


def test_the_loss_is_half_the_mean_squared_error_of_the_scores_of_whole_responses():
    """Over the rows that hold a response: the last batch has two empty ones. The gradient of the
    head's bias is the mean error."""
    params, kept = tiny.score_params(1), SCORED[:6]

    def of_mean(params, batch):
        mean, metrics = score_loss(tiny.MODEL)(params, batch)
        return mean.mean, (mean, metrics)

    loss = jax.jit(jax.value_and_grad(of_mean, has_aux=True))
    batches = scored_pass(SCORED, Letters(), batch_size=4, length=12)
    assert (batches.examples, batches.dropped) == (6, {"too long": 1})
    errors = scores_of(params, kept) - [record.score for record in kept]
    for number, batch in enumerate(batches):
        (value, (mean, metrics)), gradient = loss(params, batch)
        error = errors[4 * number : 4 * number + 4]
        assert float(mean.weight) == len(error) == (4, 2)[number]
        np.testing.assert_allclose(value, (error**2 / 2).mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["loss"].mean, value)
        np.testing.assert_allclose(metrics["absolute_error"].mean, abs(error).mean(), rtol=1e-4)
        np.testing.assert_allclose(gradient["score"]["bias"], error.mean(), rtol=1e-4)


def test_it_learns_the_scores_and_keeps_their_scale():
    given = inputs()
    task = STAGE.task(given)
    assert task.total_steps == 24  # 12 epochs of 2 batches
    state, losses = task.state, []
    for _ in range(task.total_steps):
        state, metrics = task.step(state, next(task.batches))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-4:]) < 0.2 * np.mean(losses[:4])
    params = task.model(state)
    assert STAGE.finish(params, given) is params
    found, targets = scores_of(params, SCORED[:6]), [record.score for record in SCORED[:6]]
    assert np.corrcoef(found, targets)[0, 1] > 0.8
    shifted = dataclasses.replace(STAGE, normalise="shift").finish(params, given)
    assert abs(scores_of(shifted, DEMONSTRATIONS).mean()) < 1e-4
    assert abs(scores_of(params, DEMONSTRATIONS).mean()) > 1e-2


def test_with_an_adapter_only_the_adapter_and_the_head_are_trained():
    state = dataclasses.replace(STAGE, lora=LoRA(2)).task(inputs()).state
    paths = leaves(state.params).keys()
    assert any("lora" in path for path in paths) and any("score" in path for path in paths)
    assert all("lora" in path or "score" in path for path in paths)


class Data:
    """What a stage's checks see."""

    def __init__(self, records):
        self.records, self.tokenizer = records, Letters()

    def has(self, kind, split):
        return kind in self.records

    def read(self, kind, split):
        return self.records[kind]

    def sources(self, kind, split):
        return {"all": len(self.records[kind])}

    def where(self, kind, split):
        return f"{kind}.{split}"


def facts(**records):
    return Facts("reward", lambda kind: Data(records), Measures(ENDING.close))


def test_what_it_reads_and_ends_with(capsys):
    assert STAGE.needs() == {"start": Need("base", "policy")} and STAGE.ends == "score"
    STAGE.check(facts(scored=SCORED))
    told = "reward: scored.train: all: 1 too long of 7 left out (reward.length = 12; those too long"
    assert f"{told} have 23 tokens or more)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"reads scored\.train, and the data have no such records"):
        STAGE.check(facts(demonstrations=DEMONSTRATIONS))
    shifted = dataclasses.replace(STAGE, normalise="shift")
    with pytest.raises(UserError, match=r"reads demonstrations\.train, and the data have no such"):
        shifted.check(facts(scored=SCORED))
    shifted.check(facts(scored=SCORED, demonstrations=DEMONSTRATIONS))
    assert STAGE.steps({"scored": 6}.get) == 24 and STAGE.steps({}.get) is None
    slow = OptimizerConfig(learning_rate=1e-2, warmup_steps=24)
    with pytest.raises(ConfigError, match=r"warmup_steps = 24: must be below the run's 24 steps"):
        dataclasses.replace(STAGE, optimizer=slow).check(facts(scored=SCORED))
    with pytest.raises(ConfigError, match="normalise = 'mean': must be one of"):
        dataclasses.replace(STAGE, normalise="mean")
    with pytest.raises(ConfigError, match="length = 99: must be <= the context of base = 32"):
        dataclasses.replace(STAGE, length=99).check_shapes(inputs().build)
