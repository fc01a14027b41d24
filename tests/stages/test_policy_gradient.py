"""Policy gradient over models of three shapes: what is sampled, penalised and scored, by which of
them."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Prompt
from rlhf_jax.stages.elsewhere import FromRun
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.fed import inputs_of
from tests.models.test_parts import leaves
from tests.stages import tiny

SHAPES = {
    "sft": tiny.MODEL,
    "other": dataclasses.replace(tiny.MODEL, layers=1, width=8),
    "reward": dataclasses.replace(tiny.MODEL, layers=1, heads=4, mlp_width=24),
}
MODELS = {
    "sft": tiny.policy_params(1),
    "other": tiny.policy_params(3, SHAPES["other"]),
    "reward": tiny.score_params(4, SHAPES["reward"]),
}
STAGE = tiny.ppo_config(
    value_optimizer=OptimizerConfig(learning_rate=1e-2), reference="other", minibatches=1, epochs=1
)


@pytest.fixture(scope="module")
def iteration():
    """The task, its first batch, the responses drawn in it, state and metrics after it."""
    ends = {"sft": "policy", "other": "policy", "reward": "score"}
    stages = {
        name: FromRun("elsewhere", name, ends=ends[name], model=shape)
        for name, shape in SHAPES.items()
    }
    asked = [Prompt(letter * n) for n, letter in enumerate("abcdefgh", 1) if n < 6]
    given = inputs_of(
        stages | {"ppo": STAGE}, "ppo", lambda kind, split, _: {("prompts", "ppo"): asked}[
            kind, split
        ],
        ending=tiny.ENDING, shape=tiny.MODEL, runner=tiny.one_device(), model=MODELS.__getitem__,
    )  # fmt: skip
    task = STAGE.task(given)
    batch, key = next(task.batches), jax.random.fold_in(given.key("training"), 0)
    prompts = {name: batch["prompts"][name] for name in ("tokens", "segments")}
    rollout = tiny.ppo_programs(STAGE)["rollout"](
        MODELS["sft"], jax.random.fold_in(key, 0), prompts
    )
    rows = zip(prompts["tokens"], prompts["segments"], rollout.tokens, rollout.mask, strict=True)
    drawn = [(p[s > 0].tolist(), np.asarray(t)[np.asarray(m) > 0].tolist()) for p, s, t, m in rows]
    value = jax.tree.map(np.array, task.state.value)
    state, metrics = task.step(task.state, batch)
    return drawn, value, state, metrics


def test_the_kl_is_to_the_reference_that_is_named(iteration):
    drawn, _, _, metrics = iteration
    sequences = [prompt + response for prompt, response in drawn]
    learner = tiny.sequence_log_probs(MODELS["sft"], sequences, 0.7)
    reference = tiny.sequence_log_probs(MODELS["other"], sequences, 0.7, SHAPES["other"])
    kl = [
        (p - r)[len(prompt) - 1 :].sum()
        for (prompt, _), p, r in zip(drawn, learner, reference, strict=True)
    ]
    np.testing.assert_allclose(metrics["kl"], np.mean(kl), rtol=1e-4)
    assert abs(metrics["kl"]) > 0.1


def test_scores_are_the_reward_model_s_and_the_value_function_has_its_shape(iteration):
    drawn, value, state, metrics = iteration
    sequences = [prompt + response for prompt, response in drawn]
    scores = tiny.sequence_scores(MODELS["reward"], sequences, SHAPES["reward"])
    ended = [response[-1] == tiny.EOS for _, response in drawn]
    expected = [row[-1] if e else -1.0 for row, e in zip(scores, ended, strict=True)]
    np.testing.assert_allclose(metrics["score"], np.mean(expected), rtol=1e-4, atol=1e-5)
    for path, array in leaves(MODELS["reward"]).items():
        np.testing.assert_array_equal(leaves(value)[path], array)
    assert metrics["value_grad_norm"] > 0
    assert not np.array_equal(state.value["score"]["weights"], value["score"]["weights"])
