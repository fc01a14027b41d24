"""Advantages and surrogates as objects: each is its function, clips as told, and carries on what it
says."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.objectives import advantages as functions
from rlhf_jax.objectives import estimator, surrogates
from rlhf_jax.objectives.kl import DoublingController, FixedController

GROUP = 2
LENGTHS = (4, 1, 3, 2)


def episodes(group=GROUP):
    rng = np.random.default_rng(0)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = (np.arange(shape[1]) < np.array(LENGTHS)[:, None]).astype(np.float32)
    draw = lambda: jnp.asarray(mask * rng.normal(size=shape), jnp.float32)
    new = draw() - 2
    return estimator.Episodes(
        jnp.asarray(mask), draw(), new * mask, (new + 0.5 * draw()) * mask, draw(), group
    )


E = episodes()
RETURNS = np.asarray(E.rewards, np.float64).sum(axis=1)  # of each response
OTHERS = RETURNS[[1, 0, 3, 2]]  # of the other one of the group


def spread(of_responses):
    return np.asarray(of_responses)[:, None] * np.asarray(E.mask)


ADVANTAGES = {
    "gae": (estimator.GAE(0.9, 0.8), lambda: functions.gae(E.rewards, E.values, E.mask, 0.9, 0.8)),
    "vtrace": (
        estimator.VTrace(0.9, 0.8, 1.1),
        lambda: functions.vtrace(
            E.rewards, E.values, E.mask, E.log_probs, E.old_log_probs, 0.9, 0.8, 1.1
        ),
    ),
    "reward_to_go": (
        estimator.RewardToGo(0.9), lambda: (functions.reward_to_go(E.rewards, E.mask, 0.9), None)
    ),
    "whole_return": (estimator.WholeReturn(), lambda: (spread(RETURNS), None)),
    "moving_average": (estimator.MovingAverage(0.7), lambda: (spread(RETURNS - 0.4), None)),
    "leave_one_out": (
        estimator.LeaveOneOut(), lambda: (spread(RETURNS - OTHERS), None)
    ),
    "group_normalised": (
        estimator.GroupNormalised(), lambda: (spread(np.sign(RETURNS - OTHERS)), None)
    ),
    "dr_grpo": (
        estimator.GroupNormalised(divide_by_std=False),
        lambda: (spread((RETURNS - OTHERS) / 2), None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVANTAGES)
def test_an_advantage_is_its_function(name):
    """Of two responses a group; of one the deviation is half the difference."""
    made, function = ADVANTAGES[name]
    found, expected = made(E, jnp.float32(0.4)), function()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-5)
    assert np.abs(expected[0]).max() > 0.1
    assert (found[1] is None) == (expected[1] is None) == (not made.critic)
    if made.critic:
        np.testing.assert_array_equal(found[1], expected[1])
    assert made.grouped == (name in ("leave_one_out", "group_normalised", "dr_grpo"))


def test_a_moving_average_carries_on_the_returns_of_the_batches_before():
    made = estimator.MovingAverage(0.7)
    carried = made.init()
    assert carried == 0
    for batch in range(3):
        now = E._replace(rewards=E.rewards + batch * E.mask)
        returns = RETURNS + batch * np.array(LENGTHS)
        np.testing.assert_allclose(made(now, carried)[0], spread(returns - carried), atol=1e-5)
        expected = 0.7 * carried + 0.3 * returns.mean()
        carried = made.carry(carried, now)
        np.testing.assert_allclose(carried, expected, rtol=1e-5)
    for name, (other, _) in ADVANTAGES.items():
        if name != "moving_average":
            assert other.init() is None and other.carry(None, E) is None


ARRAYS = E.log_probs, E.old_log_probs, E.rewards
SURROGATES = {
    "reinforce": (estimator.Reinforce(), lambda: surrogates.reinforce(*ARRAYS)),
    "importance_weighted": (
        estimator.ImportanceWeighted(), lambda: surrogates.importance_weighted(*ARRAYS)
    ),
    "truncated_importance": (
        estimator.TruncatedImportance(0.9), lambda: surrogates.truncated_importance(*ARRAYS, 0.9)
    ),
    "ppo_clip": (
        estimator.PPOClip(0.1, 0.3, 1.2), lambda: surrogates.ppo_clip(*ARRAYS, 0.1, 0.3, 1.2)
    ),
    "cispo": (estimator.CISPO(0.1, 0.3), lambda: surrogates.cispo(*ARRAYS, 0.1, 0.3)),
    "gspo": (estimator.GSPO(0.02, 0.01), lambda: surrogates.gspo(*ARRAYS, E.mask, 0.02, 0.01)),
    "ppo_penalty": (
        estimator.PPOPenalty(FixedController(0.5)), lambda: surrogates.ppo_penalty(*ARRAYS, 0.8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_its_function(name):
    made, function = SURROGATES[name]
    found = made(*ARRAYS, E.mask, jnp.float32(0.8))
    np.testing.assert_array_equal(found, function())
    assert np.abs(found).max() > 0.1


def clipped_by_loops(name):
    found = np.zeros(E.mask.shape)
    for b, count in enumerate(LENGTHS):
        differences = np.asarray(E.log_probs - E.old_log_probs, np.float64)[b, :count]
        for t, difference in enumerate(differences):
            ratio, positive = np.exp(difference), float(E.rewards[b, t]) > 0
            match name:
                case "truncated_importance":
                    found[b, t] = ratio > 0.9
                case "ppo_clip":
                    found[b, t] = ratio > 1.3 if positive else ratio < 0.9
                case "cispo":
                    found[b, t] = ratio > 1.3 or ratio < 0.9
                case "gspo":
                    ratio = np.exp(differences.mean())
                    found[b, t] = ratio > 1.01 if positive else ratio < 0.98
    return found


@pytest.mark.parametrize("name", SURROGATES)
def test_what_a_surrogate_clips(name):
    """GSPO one ratio a response, CISPO whatever the advantage's sign."""
    made, _ = SURROGATES[name]
    expected = clipped_by_loops(name)
    found = np.asarray(made.clipped(*ARRAYS, E.mask)) * np.asarray(E.mask)
    np.testing.assert_array_equal(found, expected)
    clips = name in ("truncated_importance", "ppo_clip", "cispo", "gspo")
    assert (0 < expected.sum() < sum(LENGTHS)) == clips


def test_the_same_range_clips_both_sides_where_there_is_no_other():
    ratio = jnp.log(jnp.float32([[0.7, 0.85, 1.15, 1.25]]))
    old, mask = jnp.zeros((1, 4)), jnp.ones((1, 4))
    for made in (estimator.PPOClip(0.2), estimator.CISPO(0.2)):
        loss = made(ratio, old, mask, mask)
        wide = type(made)(0.2, 0.2)(ratio, old, mask, mask)
        np.testing.assert_array_equal(loss, wide)
        assert np.asarray(made.clipped(ratio, old, mask, mask))[0, 3] == 1
    assert np.asarray(estimator.CISPO(0.2).clipped(ratio, old, mask, mask)).tolist() == [
        [1, 0, 0, 1]
    ]


def test_a_penalty_s_coefficient_moves_by_its_controller():
    made = estimator.PPOPenalty(DoublingController(0.5, target=0.01))
    carried = made.init()
    assert carried == 0.5
    for kl, expected in ((0.016, 1.0), (0.012, 1.0), (0.006, 0.5), (0.006, 0.25)):
        carried = made.carry(carried, jnp.float32(kl))
        assert carried == expected
    assert estimator.PPOPenalty(FixedController(0.3)).carry(jnp.float32(0.3), 9.0) == np.float32(
        0.3
    )
    for name, (other, _) in SURROGATES.items():
        if name != "ppo_penalty":
            assert other.init() is None and other.carry(None, 1.0) is None


REFUSED = {
    "discount = 1.1: must be in [0, 1]": lambda: estimator.GAE(discount=1.1),
    "lam = -0.1: must be in [0, 1]": lambda: estimator.GAE(lam=-0.1),
    "lam = 2.0: must be in [0, 1]": lambda: estimator.VTrace(lam=2.0),
    "ratio_ceiling = 0.0: must be positive": lambda: estimator.VTrace(ratio_ceiling=0.0),
    "discount = -0.5: must be in [0, 1]": lambda: estimator.RewardToGo(-0.5),
    "decay = 1.0: must be in [0, 1)": lambda: estimator.MovingAverage(1.0),
    "ratio_ceiling = -1.0: must be positive": lambda: estimator.TruncatedImportance(-1.0),
    "clip = 0.0: must be positive": lambda: estimator.PPOClip(0.0),
    "clip_high = 0.0: must be positive, or None: clip": lambda: estimator.CISPO(0.2, 0.0),
    "dual_clip = 1.0: must be above 1, or None: no bound": lambda: estimator.PPOClip(dual_clip=1.0),
}


@pytest.mark.parametrize("told", REFUSED)
def test_an_impossible_value_is_refused_by_name(told):
    with pytest.raises(ConfigError) as caught:
        REFUSED[told]()
    assert str(caught.value) == told


def test_values_at_the_edge_are_taken():
    estimator.GAE(0.0, 1.0), estimator.MovingAverage(0.0), estimator.PPOClip(0.2, None, 1.1)
