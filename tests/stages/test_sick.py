"""Numbers that are not finite never reach a network; healthy steps keep their numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.kl import AdaptiveController
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.reward_models import ranked_accuracy, ranked_loss
from rlhf_jax.stages import policy_update, supervised
from rlhf_jax.stages.experience import Experience, Moved
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.objectives.harness import assert_close
from tests.stages import tiny

# Smooth where gradients are rounding.
SUPERVISED = Pretrain(OptimizerConfig(learning_rate=1e-2, epsilon=1e-3), batch_size=8)
PPO = tiny.ppo_config(kl=AdaptiveController(0.15, target=0.5, horizon=40), ptx_coefficient=2.0)


def numbers(tree):
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.array(plain(x)) for x in jax.tree.leaves(tree)]


def bits(tree):
    return [x.tobytes() for x in numbers(tree)]


@pytest.fixture
def unguarded(monkeypatch):
    """Builds an update without the guard."""

    def build(module, make):
        with monkeypatch.context() as patch:
            patch.setattr(module, "keep_if", lambda ok, new, old: new)
            return make()

    return build


@functools.cache
def supervised_update(guarded=True):
    return supervised.make_update(supervised.likelihood_loss(tiny.MODEL), SUPERVISED, 10)


def supervised_state(optimizer):
    return supervised.initial_state(tiny.policy_params(1), optimizer, jax.random.key(0))


def test_a_healthy_supervised_step_has_the_numbers_of_one_without_the_guard(unguarded):
    # keep_if is looked up when the update is traced: trace inside the patch.
    def trained(guarded=False):
        update, optimizer = supervised_update(guarded)
        state = supervised_state(optimizer)
        for seed in range(3):
            state, metrics = update(state, tiny.text_batch(seed=seed))
        assert metrics["skipped_steps"] == 0
        return numbers(state)

    guarded = trained(guarded=True)
    # Two programs: a compiler may round one otherwise.
    assert_close(guarded, unguarded(supervised, trained), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sick_supervised_step_changes_neither_parameters_nor_optimizer(value):
    update, optimizer = supervised_update()
    before = bits(supervised_state(optimizer)[1:])
    batch = tiny.text_batch()
    batch["weights"][0, np.argmax(batch["weights"][0])] = value
    state, metrics = update(supervised_state(optimizer), batch)
    assert metrics["skipped_steps"] == 1 and state.step == 1
    assert bits(state[1:]) == before
    state, metrics = update(state, tiny.text_batch())
    assert metrics["skipped_steps"] == 0 and bits(state[1:]) != before


def test_a_supervised_step_without_weight_changes_neither_parameters_nor_optimizer():
    """Adam on a gradient of zeros would move: its first moment lives on."""
    update, optimizer = supervised_update()
    state, _ = update(supervised_state(optimizer), tiny.text_batch())
    before = bits(state[1:])
    batch = tiny.text_batch()
    batch["weights"] = np.zeros_like(batch["weights"])
    state, metrics = update(state, batch)
    assert bits(state[1:]) == before and state.step == 2
    assert (metrics["empty_steps"], metrics["skipped_steps"]) == (1, 0)
    assert np.isnan(metrics["loss"]) and np.isnan(metrics["grad_norm"])
    state, metrics = update(state, tiny.text_batch())
    assert metrics["empty_steps"] == 0 and bits(state[1:]) != before


def test_rankings_without_a_decided_pair_teach_nothing():
    def loss(params, batch, key=None):
        scores = jnp.broadcast_to(params["scores"], batch.shape)
        correct, pairs = ranked_accuracy(scores, batch)
        mean = WeightedMean.of(*ranked_loss(scores, batch))
        return mean, {"accuracy": WeightedMean(correct.sum(), pairs.sum())}

    config = dataclasses.replace(SUPERVISED, batch_size=2)
    update, optimizer = supervised.make_update(loss, config, 10)
    params = {"scores": jnp.asarray([0.5, -1.0, 2.0])}
    state = supervised.initial_state(params, optimizer, jax.random.key(0))
    before = bits(state[1:])
    state, metrics = update(state, jnp.asarray([[0, 0, 0], [1, 1, -1]]))
    assert metrics["empty_steps"] == 1 and bits(state[1:]) == before
    assert np.isnan(metrics["loss"]) and np.isnan(metrics["accuracy"])
    _, metrics = update(state, jnp.asarray([[0, 1, -1], [1, 1, -1]]))
    assert metrics["empty_steps"] == 0 and metrics["accuracy"] == 1


@pytest.mark.parametrize("of_text", [False, True])
def test_minibatches_of_ppo_without_a_token_change_nothing(of_text):
    """The policy learns from text alone where responses have no token; the value function never."""
    state, experience, text = ppo_inputs()
    names = ("policy", "policy_opt", "value", "value_opt")
    before = [bits(getattr(state, name)) for name in names]
    experience = experience._replace(mask=jnp.zeros_like(experience.mask))
    if not of_text:
        text["weights"] = np.zeros_like(text["weights"])
    state, metrics = compiled_ppo()(state, experience, Moved(jnp.float32(0.3), None), text)
    same = [bits(getattr(state, name)) == old for name, old in zip(names, before, strict=True)]
    assert same == [not of_text, not of_text, True, True]
    assert metrics["empty_steps"] == (0 if of_text else PPO.epochs * PPO.minibatches)
    assert metrics["skipped_steps"] == 0
    for name in ("policy_loss", "value_loss", "clip_fraction", "value_grad_norm"):
        assert np.isnan(metrics[name]), name
    assert np.isfinite(metrics["ptx_loss"]) == of_text


def ppo_inputs(sick_rows=()):
    networks = tiny.policy_params(1), tiny.score_params(2)
    state = policy_update.initial_state(PPO, *networks, jax.random.key(3))
    tokens, segments = tiny.left_padded(
        [p + r for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)], 12
    )
    rng, shape = np.random.default_rng(0), (8, tiny.RESPONSE)
    advantages = rng.normal(size=shape).astype(np.float32)
    advantages[list(sick_rows)] = np.nan
    small = lambda: rng.normal(size=shape).astype(np.float32)
    ones = np.ones(shape, np.float32)
    old, values, returns = -np.abs(small()), small(), small()
    found = Experience(tokens, segments, ones, old, None, values, advantages, returns)
    return state, jax.tree.map(jnp.asarray, found), tiny.text_batch()


@functools.cache
def compiled_ppo():
    return jax.jit(policy_update.make_update(PPO, tiny.SHAPES))


def ppo_update(kl=0.3, sick_rows=(), compiled=compiled_ppo):
    state, experience, text = ppo_inputs(sick_rows)
    return compiled()(state, experience, Moved(jnp.float32(kl), None), text)


@pytest.mark.slow
def test_a_healthy_ppo_update_has_the_numbers_of_one_without_the_guard(unguarded):
    guarded = ppo_update()
    assert guarded[1]["skipped_steps"] == 0
    fresh = compiled_ppo.__wrapped__
    free = unguarded(policy_update, lambda: ppo_update(compiled=fresh))
    # Two programs: a compiler may round one otherwise.
    assert_close(*map(numbers, (guarded, free)), rtol=1e-5, atol=1e-6)


def test_a_minibatch_of_ppo_is_left_out_alone():
    state, metrics = ppo_update(sick_rows=[5])
    assert metrics["skipped_steps"] == PPO.epochs  # the row is in one minibatch of each epoch
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state[1:6]))
    start = ppo_inputs()[0]
    for name in ("policy", "value", "ema", "policy_opt"):
        assert bits(state._asdict()[name]) != bits(start._asdict()[name]), name


# Falls with every update, so that a count that is off by one shows.
FALLING = OptimizerConfig(
    learning_rate=1e-2, schedule="linear", final_fraction=0.0, max_grad_norm=None
)
ONE_WEIGHT = lambda: {"w": jnp.ones(())}


def slope(values_of):
    """A loss whose gradient is the mean of a batch's values: 1 for ones, so that every Adam update
    is the learning rate itself."""

    def loss(params, batch, key_or_state=None):
        values = values_of(batch)
        mean = WeightedMean(params["w"] * values.sum(), jnp.asarray(len(values), jnp.float32))
        return mean, {"loss": mean, "approximate_kl": mean}

    return loss


def test_after_a_sick_supervised_step_the_logged_rate_is_the_applied_rate():
    config = Pretrain(FALLING, batch_size=2)
    update, optimizer = supervised.make_update(slope(lambda batch: batch), config, 8)
    state = supervised.initial_state(ONE_WEIGHT(), optimizer, jax.random.key(0))
    applied = 0
    for sick in (False, False, True, True, False, True, False):
        before = float(state.params["w"])
        state, metrics = update(state, jnp.full(2, np.nan if sick else 1.0))
        rate = 1e-2 * (1 - applied / 8)
        np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-5)
        moved = 0 if sick else rate
        np.testing.assert_allclose(before - state.params["w"], moved, atol=1e-6)
        applied += not sick


def test_after_a_sick_minibatch_of_ppo_the_logged_rate_is_the_applied_rate(monkeypatch):
    """Two minibatches an iteration; what is logged is the rate of the first."""
    for name in ("policy_loss", "value_loss"):
        monkeypatch.setattr(policy_update, name, lambda *_: slope(lambda batch: batch.advantages))
    config = tiny.ppo_config(policy_optimizer=FALLING, value_optimizer=FALLING, epochs=1)
    update = jax.jit(policy_update.make_update(config, tiny.SHAPES))
    state = policy_update.initial_state(config, ONE_WEIGHT(), ONE_WEIGHT(), jax.random.key(0))
    rate = lambda applied: 1e-2 * (1 - applied / 8)
    applied = 0
    for sick in (False, True, False):
        experience = Experience(*[jnp.ones((8, 1))] * 8)
        if sick:
            experience = experience._replace(advantages=jnp.ones((8, 1)).at[5].set(np.nan))
        before = state.policy["w"], state.value["w"]
        state, metrics = update(state, experience, Moved(jnp.float32(0.5), None), None)
        steps = 2 - sick
        assert metrics["skipped_steps"] == sick
        np.testing.assert_allclose(metrics["learning_rate"], rate(applied), rtol=1e-5)
        moved = sum(rate(applied + n) for n in range(steps))
        for old, new in zip(before, (state.policy["w"], state.value["w"]), strict=True):
            np.testing.assert_allclose(old - new, moved, atol=1e-6)
        applied += steps


def test_where_all_are_sick_nothing_moves_but_the_step():
    state, metrics = ppo_update(kl=float("nan"), sick_rows=range(8))
    start = ppo_inputs()[0]
    assert metrics["skipped_steps"] == PPO.epochs * PPO.minibatches
    for name in ("policy", "value", "policy_opt", "value_opt", "kl_coefficient"):
        assert bits(state._asdict()[name]) == bits(start._asdict()[name]), name
    assert state.step == 1
