"""Stages that train some of the parameters: the others keep their bits and have no optimizer, what
is trained moves by the gradient of the whole model's loss, and all that reads a model gets all."""

import functools

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text
from rlhf_jax.errors import ConfigError
from rlhf_jax.models import score
from rlhf_jax.stages import dpo, policy_update, supervised
from rlhf_jax.stages.dpo import DirectPreference
from rlhf_jax.stages.experience import whole as whole_of
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel, reward_loss
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.stage import Build
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.fed import inputs_of
from tests.models.test_parts import leaves
from tests.stages import tiny

RATE = OptimizerConfig(learning_rate=1e-2, epsilon=0.1, max_grad_norm=0.5)
RECORDS = {
    ("text", "train", None): [Text(letter * 9) for letter in "abcdefgh"],
    ("demonstrations", "train", None): [Demonstration(a, a + "bc") for a in "efghijkl"],
    ("rankings", "train", None): [Ranking(a, (a, "bc", "d"), (0, 1, 2)) for a in "efghijkl"],
    ("prompts", "ppo", None): [Prompt(a * n) for n, a in enumerate("abcdabcd", 1) if n < 6],
}
SIZES = {"batch_size": 4, "length": 12}
RANKED = SIZES | {"outputs": 3, "start": "base"}
BASE = Pretrain(RATE, **SIZES)
# A stage, its role in the chain of STAGES, and which parameters it trains.
ALONE = {
    "base": (Pretrain(RATE, **SIZES, train=("blocks",)), lambda path: path.startswith("blocks/")),
    "sft": (
        SFT(RATE, **SIZES, start="base", train=("mlp_norm", "tokens")),
        lambda path: path.startswith("blocks/mlp_norm/") or path == "tokens",
    ),
    "reward": (
        RewardModel(RATE, **RANKED, normalise="none", train=("score",)),
        lambda path: path.startswith("score/"),
    ),
    "dpo": (
        DirectPreference(RATE, **RANKED, train=("down", "final_norm")),
        lambda path: path == "blocks/down" or path.startswith("final_norm/"),
    ),
}
LOSSES = {
    "base": supervised.likelihood_loss(tiny.MODEL),
    "sft": supervised.likelihood_loss(tiny.MODEL),
    "reward": reward_loss(tiny.MODEL),
    "dpo": dpo.preference_loss(dpo.DPO(), tiny.MODEL),
}


MODELS = {
    "base": tiny.policy_params(3),
    "sft": tiny.policy_params(1),
    "reward": tiny.score_params(2),
}


def inputs(stages, name):
    return inputs_of(
        stages, name, lambda *of: RECORDS[of], ending=tiny.ENDING, shape=tiny.MODEL,
        runner=tiny.one_device(), model=MODELS.__getitem__,
    )  # fmt: skip


class Adam:
    """By hand, in float64, of arrays by path; the gradient is scaled to the norm over them all."""

    def __init__(self, config, start):
        self.config, self.steps = config, 0
        self.params = {path: np.asarray(x, np.float64) for path, x in start.items()}
        self.first = {path: 0 * x for path, x in self.params.items()}
        self.second = dict(self.first)

    def step(self, gradients):
        c, self.steps = self.config, self.steps + 1
        gradients = {path: np.asarray(gradients[path], np.float64) for path in self.params}
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        for path, g in gradients.items():
            g = g * min(1, c.max_grad_norm / norm)
            self.first[path] = c.b1 * self.first[path] + (1 - c.b1) * g
            self.second[path] = c.b2 * self.second[path] + (1 - c.b2) * g**2
            m, v = (
                moment[path] / (1 - decay**self.steps)
                for moment, decay in ((self.first, c.b1), (self.second, c.b2))
            )
            self.params[path] -= c.learning_rate * m / (np.sqrt(v) + c.epsilon)
        return norm


def assert_moved_as(oracle, found, start):
    """found: the whole model. What the oracle does not move has the bits of the start."""
    assert found.keys() == start.keys()
    for path, array in found.items():
        if path in oracle.params:
            np.testing.assert_allclose(
                array, oracle.params[path], rtol=1e-4, atol=2e-5, err_msg=path
            )
        else:
            np.testing.assert_array_equal(array, start[path], err_msg=path)
    moved = [np.abs(np.asarray(found[path]) - start[path]).max() for path in oracle.params]
    assert max(moved) > 1e-3


def gradient_at(loss, whole, batch):
    return leaves(
        jax.jit(jax.grad(lambda params, batch: loss(params, batch)[0].mean))(whole, batch)
    )


@pytest.mark.parametrize("name", ALONE)
def test_two_steps_of_a_stage_that_trains_one_model(name):
    stage, is_trained = ALONE[name]
    given = inputs({"base": BASE} | {name: stage}, name)
    task = stage.task(given)
    start = jax.tree.map(np.array, task.model(task.state))
    trained = {path: x for path, x in leaves(start).items() if is_trained(path)}
    assert 0 < len(trained) < len(leaves(start))
    oracle, state, whole = Adam(RATE, trained), task.state, start
    for _ in range(2):
        batch = next(task.batches)
        referred = dict(batch)
        if name == "dpo":
            referred["ref_log_probs"] = dpo.response_log_probs(tiny.MODEL, start, batch)
        norm = oracle.step(gradient_at(LOSSES[name], whole, referred))
        state, metrics = task.step(state, batch)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
        whole = task.model(state)
    moments = state.opt_state[1]
    for tree in (state.params, moments.mu, moments.nu):
        assert leaves(tree).keys() == trained.keys()
    assert_moved_as(oracle, leaves(stage.finish(whole, given)), leaves(start))


@pytest.mark.parametrize("name", ALONE)
def test_what_is_planned_has_an_optimizer_of_the_trained_parameters_alone(name):
    stage, is_trained = ALONE[name]
    build = Build(name, tiny.MODEL, dict.fromkeys(stage.needs(), tiny.MODEL), tiny.ENDING)
    state, _, fixed = stage.programs(build, 10)["update"].arguments
    for tree in (state.params, state.opt_state[1].mu, state.opt_state[1].nu):
        assert tree and all(map(is_trained, leaves(tree)))
    whole = tiny.score_params() if name == "reward" else tiny.policy_params()
    assert leaves(fixed).keys() == leaves(whole).keys() - leaves(state.params).keys()


UNKNOWN = {
    "pretrain": (Pretrain(RATE, **SIZES, train=("blocks", "head")), "train = 'head'"),
    "sft": (SFT(RATE, **SIZES, start="base", train=("score",)), "train = 'score'"),
    "dpo": (DirectPreference(RATE, **RANKED, train=("score",)), "train = 'score'"),
    "reward": (RewardModel(RATE, **RANKED, train=("score", "head")), "train = 'head'"),
    "policy": (tiny.ppo_config(train_policy=("score",)), "train_policy = 'score'"),
    "value": (tiny.ppo_config(train_value=("score", "head")), "train_value = 'head'"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_parameter_that_the_model_does_not_have_is_refused_before_any_step(name):
    stage, told = UNKNOWN[name]
    build = Build("stage", tiny.MODEL, dict.fromkeys(stage.needs(), tiny.MODEL), tiny.ENDING)
    with pytest.raises(ConfigError, match=f"^{told}: must be one of the model's parameters: "):
        stage.check_shapes(build)


STAGES = {
    "base": BASE,
    "sft": SFT(RATE, **SIZES, start="base"),
    "reward": RewardModel(RATE, **RANKED),
}
VALUE_RATE = OptimizerConfig(learning_rate=2e-2, epsilon=0.2, max_grad_norm=0.5)


def ppo_stage(**changes) -> PolicyGradient:
    """One update an iteration."""
    return tiny.ppo_config(
        policy_optimizer=RATE, value_optimizer=VALUE_RATE, minibatches=1, epochs=1,
        ptx_coefficient=2.0, reference="base", **changes,
    )  # fmt: skip


def first_iteration(stage):
    """Its batch, state and metrics; the model that the stage would end with, before and after."""
    given = inputs(STAGES | {"ppo": stage}, "ppo")
    task = stage.task(given)
    start, batch = jax.tree.map(np.array, task.model(task.state)), next(task.batches)
    state, metrics = task.step(task.state, batch)
    return batch, state, metrics, start, task.model(state)


@functools.cache
def experience():
    """Of the first iteration of a stage that trains everything, by its own programs: the batch, the
    experience and its metrics."""
    stage = ppo_stage()
    given = inputs(STAGES | {"ppo": stage}, "ppo")
    task, programs = stage.task(given), tiny.ppo_programs(stage)
    batch = next(task.batches)
    prompts = {name: batch["prompts"][name] for name in ("tokens", "segments")}
    key = jax.random.fold_in(jax.random.fold_in(task.state.key, 0), 0)
    rollout = programs["rollout"](MODELS["sft"], key, prompts)
    frozen = tiny.frozen_of(stage, MODELS["sft"], MODELS["base"], MODELS["reward"])
    found, _, metrics = programs["experience"](task.state, frozen, prompts, rollout, {})
    return batch, found, metrics


PARTS = {
    "both": ({"train_policy": ("up", "final_norm"), "train_value": ("score", "down")},
             lambda path: path == "blocks/up" or path.startswith("final_norm/"),
             lambda path: path == "blocks/down" or path.startswith("score/")),
    "value": ({"train_value": ("score",)}, lambda path: True,
              lambda path: path.startswith("score/")),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_an_iteration_of_ppo_ptx(case):
    """Sampler, learner, reference, values and scores are of whole models, the update of parts."""
    changes, of_policy, of_value = PARTS[case]
    stage = ppo_stage(**changes)
    batch, state, metrics, start, after = first_iteration(stage)
    expected_batch, episodes, expected = experience()
    np.testing.assert_array_equal(batch["prompts"]["tokens"], expected_batch["prompts"]["tokens"])
    for name in ("score", "kl", "entropy", "response_tokens", "sampler_gap"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, atol=1e-5)
    assert metrics["kl"] > 0.1
    policy, value = MODELS["sft"], MODELS["reward"]
    for path, array in leaves(start).items():
        np.testing.assert_array_equal(array, leaves(policy)[path])
    adam = Adam(RATE, {path: x for path, x in leaves(policy).items() if of_policy(path)})
    loss = policy_update.policy_loss(stage, tiny.MODEL)
    of_policy_loss = lambda params, batch: loss(params, batch, tiny.state_of(stage))
    gradients = [
        gradient_at(of_policy_loss, policy, episodes),
        gradient_at(supervised.likelihood_loss(tiny.MODEL), policy, batch["text"]),
    ]
    adam.step({path: g + 2.0 * gradients[1][path] for path, g in gradients[0].items()})
    of_trained = lambda g: np.sqrt(sum((np.asarray(g[path]) ** 2).sum() for path in adam.params))
    np.testing.assert_allclose(metrics["policy_grad_norm"], of_trained(gradients[0]), rtol=1e-4)
    np.testing.assert_allclose(metrics["ptx_grad_norm"], of_trained(gradients[1]), rtol=1e-4)
    value_adam = Adam(VALUE_RATE, {p: x for p, x in leaves(value).items() if of_value(p)})
    of_value_loss = policy_update.value_loss(stage, tiny.MODEL)
    norm = value_adam.step(gradient_at(of_value_loss, value, episodes))
    np.testing.assert_allclose(metrics["value_grad_norm"], norm, rtol=1e-4)
    for tree, optimizer, oracle, whole in (
        (state.policy, state.policy_opt, adam, policy),
        (state.value, state.value_opt, value_adam, value),
    ):
        for part in (tree, optimizer[1].mu, optimizer[1].nu):
            assert leaves(part).keys() == oracle.params.keys()
        fixed = leaves(whole) | leaves(tree)
        assert_moved_as(oracle, fixed, leaves(whole))
    assert leaves(state.ema).keys() == adam.params.keys()
    for path, array in leaves(after).items():  # what is saved: the average, and what is fixed
        was = leaves(policy)[path]
        moved = 0.9 * was + 0.1 * adam.params[path] if path in adam.params else was
        np.testing.assert_allclose(array, moved, rtol=1e-4, atol=2e-5, err_msg=path)
    assert leaves(after).keys() == leaves(policy).keys()


def test_a_value_head_of_zeros_that_is_not_trained_stays_one():
    config = tiny.ppo_config(zero_value_head=True, train_value=("blocks",))
    policy, reward = MODELS["sft"], MODELS["reward"]
    frozen = tiny.frozen_of(config, policy, MODELS["base"], reward)
    state = policy_update.initial_state(config, policy, reward, jax.random.key(0))
    value, states = whole_of(state, frozen.fixed).value, np.ones((3, 16), np.float32)
    np.testing.assert_array_equal(score.scores(value, states), 0)
    for path, array in leaves(value).items():
        if not path.startswith("score/"):
            np.testing.assert_array_equal(array, leaves(reward)[path])
    assert frozen.scorers["reward"] is reward  # which scores with its own head
