"""A value network is there where the advantage reads one, and starts from what the stage has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import score
from rlhf_jax.objectives.estimator import GAE, LeaveOneOut
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.rewards.graded import GradedReward
from rlhf_jax.stages import policy_update
from rlhf_jax.stages.experience import Experience, Moved
from rlhf_jax.stages.stage import Build, Need
from tests.models.test_parts import leaves
from tests.stages import tiny

FREE = tiny.ppo_config(advantage=LeaveOneOut(), value_optimizer=None, group=2)
GRADED = tiny.ppo_config(rewards=(GradedReward(),))


def planned(stage):
    build = Build("stage", tiny.MODEL, dict.fromkeys(stage.needs(), tiny.MODEL), tiny.ENDING)
    return stage.programs(build, stage.iterations)


def paths(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def test_without_a_critic_no_program_holds_a_value_network_or_its_optimizer():
    """The reward model alone has a head, and the update does not read it."""
    programs = planned(FREE)
    state, experience, *_ = arguments = programs["update"].arguments
    assert (state.value, state.value_opt) == (None, None)
    assert (experience.values, experience.returns) == (None, None)
    assert not [path for path in paths(arguments) if "['score']" in path]
    one = len(jax.tree.leaves(state.policy))
    counted = jax.tree.leaves((state.policy, state.policy_opt, state.ema))
    assert 4 * one <= len(counted) <= 4 * one + 4  # Adam's two moments, and its counts
    _, frozen, *_ = programs["experience"].arguments
    heads = [path for path in paths(programs["experience"].arguments) if "['score']" in path]
    assert len(heads) == 2 and heads == [path for path in heads if "reward" in path]
    assert frozen.fixed == {"policy": {}, "value": {}}
    with_one = planned(tiny.ppo_config())["update"].arguments
    assert [path for path in paths(with_one) if "['score']" in path]


def test_without_a_critic_an_iteration_learns_no_values(monkeypatch):
    def loss(params, batch, state):
        return WeightedMean.of(params["w"] * batch.advantages, batch.mask), {
            "approximate_kl": WeightedMean.of(batch.mask)
        }

    monkeypatch.setattr(policy_update, "policy_loss", lambda *_: loss)
    start = {"w": jnp.ones(())}
    state = policy_update.initial_state(FREE, start, None, jax.random.key(0))
    assert (state.value, state.value_opt) == (None, None)
    ones = jnp.ones((8, tiny.RESPONSE))
    experience = Experience(ones, ones, ones, ones, None, None, ones, None)
    update = jax.jit(policy_update.make_update(FREE, tiny.SHAPES))
    after, metrics = update(state, experience, Moved(jnp.float32(0.1), None), None)
    assert (after.value, after.value_opt) == (None, None) and after.policy["w"] < 1
    assert not [name for name in metrics if name.startswith("value")]
    assert metrics["skipped_steps"] == metrics["empty_steps"] == 0


def test_what_the_value_network_starts_from_is_read():
    scorer, policy = Need("reward", "score"), Need("sft", "policy")
    models = {"start": policy, "reference": policy}
    assert FREE.needs() == models | {"rewards reward": scorer}
    assert GRADED.needs() == models
    found = {"rewards reward": scorer, "value": scorer}
    assert tiny.ppo_config().needs() == models | found
    other = tiny.ppo_config(value="other").needs()
    assert other == models | {"rewards reward": scorer, "value": Need("other", "score")}
    named = tiny.ppo_config(rewards=(GradedReward(),), value="other").needs()
    assert named == models | {"value": Need("other", "score")}


@pytest.mark.parametrize("zero_value_head", [False, True])
def test_without_a_scorer_it_is_the_policy_s_trunk_under_a_head_of_zeros(zero_value_head):
    config = tiny.ppo_config(rewards=(GradedReward(),), zero_value_head=zero_value_head)
    policy = tiny.policy_params(1)
    state = policy_update.initial_state(config, policy, None, jax.random.key(0))
    of_value = leaves(state.value)
    for path, array in leaves(policy).items():
        np.testing.assert_array_equal(of_value[path], array, err_msg=path)
    assert {path for path in of_value if path not in leaves(policy)} == {
        "score/weights", "score/bias"
    }  # fmt: skip
    hidden = jax.random.normal(jax.random.key(1), (3, 16))
    np.testing.assert_array_equal(score.scores(state.value, hidden), 0)
    frozen = policy_update.frozen_of(config, policy, tiny.policy_params(3), {}, None)
    assert frozen.fixed == {"policy": {}, "value": {}} and frozen.scorers == {}


def test_its_trunk_stays_where_the_head_alone_is_trained():
    config = tiny.ppo_config(rewards=(GradedReward(),), train_value=("score",))
    policy = tiny.policy_params(1)
    state = policy_update.initial_state(config, policy, None, jax.random.key(0))
    frozen = policy_update.frozen_of(config, policy, tiny.policy_params(3), {}, None)
    assert leaves(state.value).keys() == {"score/weights", "score/bias"}
    fixed = leaves(frozen.fixed["value"])
    assert fixed.keys() == leaves(policy).keys()
    np.testing.assert_array_equal(fixed["tokens"], policy["tokens"])


def test_a_value_network_without_a_scorer_is_planned_in_the_policy_s_shape():
    state = planned(GRADED)["update"].arguments[0]
    assert state.value["score"]["weights"].shape == (tiny.MODEL.width,)
    assert leaves(state.value).keys() > leaves(state.policy).keys()
    assert isinstance(GRADED.advantage, GAE)
