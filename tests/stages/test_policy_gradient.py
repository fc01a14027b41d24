"""Policy gradient over models of three shapes: what is sampled, penalised and scored, by which of
them; and what functions on the host are asked."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Prompt
from rlhf_jax.errors import UserError
from rlhf_jax.generation.decode import Rollout
from rlhf_jax.rewards.checked import CheckedReward
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.rewards.reward import Reward
from rlhf_jax.stages.elsewhere import FromRun
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Characters
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


def test_stale_responses_have_a_place_each_and_values_start_from_the_stage_that_is_named():
    ends = {"sft": "policy", "other": "policy", "reward": "score", "value": "score"}
    stages = {name: FromRun("elsewhere", name, ends=kind) for name, kind in ends.items()}
    models = {
        name: tiny.score_params(n) if kind == "score" else tiny.policy_params(n)
        for n, (name, kind) in enumerate(ends.items())
    }
    stage = dataclasses.replace(STAGE, stale=1, value="value")
    given = inputs_of(
        stages | {"ppo": stage}, "ppo", lambda *_: [Prompt("a")], ending=tiny.ENDING,
        shape=tiny.MODEL, runner=tiny.one_device(), model=models.__getitem__,
    )  # fmt: skip
    state = stage.task(given).state
    assert state.queue is not None and state.queue.tokens.shape == (2, 8, 12)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(state.queue))
    for path, array in leaves(models["value"]).items():
        np.testing.assert_array_equal(leaves(state.value)[path], array)


@dataclasses.dataclass(frozen=True)
class Lengths(Reward):
    """Of a response, times its record's answer; of none, no number."""

    on_host: ClassVar = True
    more: float = 0.0

    def function(self, host):
        of = lambda record, text: len(text) * record["answer"] + self.more if text else None
        return lambda records, texts: [*map(of, records, texts)]


@pytest.fixture
def asking(tmp_path):
    """What is asked of a stage's functions, and where the answers lie."""
    stage = dataclasses.replace(
        STAGE, prompts="asked", rewards=(LearnedReward("reward"), Lengths(), Lengths(more=0.5))
    )
    records = [Prompt("a" * n, {"answer": 10**n}) for n in range(1, 4)]
    ends = {"sft": "policy", "other": "policy", "reward": "score"}
    stages = {name: FromRun("elsewhere", name, ends=kind) for name, kind in ends.items()}
    given = inputs_of(
        stages | {"ppo": stage}, "ppo",
        lambda *of: {("prompts", "asked", None): records}[of], directory=tmp_path,
        tokenizer=Characters(), runner=tiny.one_device(),
    )  # fmt: skip
    return stage._asks(given), tmp_path / "ppo" / "host"


def test_each_function_says_its_number_of_each_response_and_its_own_prompt(asking):
    ask, folder = asking
    tokens, mask = tiny.right_padded([[4, 5, 2], [6], [2], [4, 4, 4, 4]], 4)
    places = np.array([2, 0, 1, 1], np.int32)
    found = ask(np.int32(5), 0, places, Rollout(tokens, mask, mask))
    assert found.keys() == {"1", "2"}
    np.testing.assert_array_equal(found["1"], [2000, 10, np.nan, 400])
    np.testing.assert_array_equal(found["2"], [2000.5, 10.5, np.nan, 400.5])
    assert found["1"].dtype == np.float32
    ask(5, 2, places, Rollout(tokens, mask, mask))
    ask(6, 0, places, Rollout(tokens, mask, mask))
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.json"))
    assert files == ["reward_1/5.json", "reward_1/6.json", "reward_1_2/5.json",
                     "reward_2/5.json", "reward_2/6.json", "reward_2_2/5.json"]  # fmt: skip


def test_a_function_that_is_not_there_is_told_before_any_step():
    class Facts:
        def some(self, *_):
            pass

    terms = LearnedReward("reward"), CheckedReward("nowhere_at_all:f")
    with pytest.raises(UserError, match="nowhere_at_all:f"):
        dataclasses.replace(STAGE, rewards=terms).check(Facts())
