"""What a sample of edits that nobody chose showed to be untested (docs/testing.md)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.generation.decode import Rollout
from rlhf_jax.generation.ending import Ending
from rlhf_jax.stages import dpo, policy_update
from rlhf_jax.stages.experience import Experiences
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.stages import tiny


def test_each_rollout_draws_from_a_key_of_its_own():
    """The second of the keys of an iteration is the update's."""
    config, policy, value = tiny.ppo_config(), tiny.policy_params(1), tiny.score_params(2)
    drawn = []

    def rollout(policy, key, prompts):
        drawn.append(jax.random.key_data(key).tolist())

    experience = lambda *_: (None, None, {"sick_rows": 1})
    update = lambda state, *_: (state._replace(step=7), {})
    programs = {"rollout": rollout, "experience": experience, "update": update}
    step = tiny.iteration(config, programs, tiny.frozen_of(config, policy, policy, value))
    key = jax.random.key(3)
    state = policy_update.initial_state(config, policy, value, key)
    batch = tiny.asked_batch()
    step(step(state, batch)[0], batch)
    of = lambda number, use: jax.random.fold_in(jax.random.fold_in(key, number), use)
    assert drawn == [jax.random.key_data(of(number, 0)).tolist() for number in (0, 7)]


def test_a_response_without_a_token_to_read_is_scored_at_the_end_of_its_prompt():
    """EOS is not read where another token ends a response; the length is odd."""
    config, ending = tiny.ppo_config(response_length=5), Ending(tiny.EOS, tiny.PAD, stop=10)
    policy, value, reward = tiny.policy_params(1), tiny.score_params(2), tiny.score_params(4)
    tokens, mask = tiny.right_padded([[tiny.EOS]] * 8, 5)
    rollout = Rollout(jnp.array(tokens), jnp.array(mask, jnp.float32), jnp.zeros((8, 5)))
    state = policy_update.initial_state(config, policy, value, jax.random.key(0))
    frozen = tiny.frozen_of(config, policy, policy, reward)
    run = jax.jit(Experiences(config, tiny.SHAPES, ending).fresh)
    *_, metrics = run(state, frozen, tiny.prompt_batch(), rollout, {})
    expected = [scores[-1] for scores in tiny.sequence_scores(reward, tiny.PROMPTS)]
    np.testing.assert_allclose(metrics["score"], np.mean(expected), rtol=1e-5)


def test_bounds_of_configs():
    with pytest.raises(ConfigError, match=r"micro_batches = 4: must be a divisor"):
        RewardModel(OptimizerConfig(1e-3), batch_size=6, micro_batches=4, start="sft")
    with pytest.raises(ConfigError, match=r"label_smoothing = -0.1: must be in \[0, 0.5\)"):
        dpo.DPO(label_smoothing=-0.1)
