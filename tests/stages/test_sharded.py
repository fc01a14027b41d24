"""Eight devices give the one device's update, though each holds another number of tokens."""

import jax
import numpy as np
import pytest

from rlhf_jax.models.score import with_score_head
from rlhf_jax.parallel.mesh import make_mesh, replicate, shard_batch
from rlhf_jax.stages import supervised
from rlhf_jax.stages.reward_model import RewardConfig, reward_loss
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.objectives.harness import assert_close
from tests.stages import tiny

RATE = OptimizerConfig(learning_rate=1e-2, epsilon=0.1)


def rankings():
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 40, (8, 3, 8)).astype(np.int32)
    segments = (np.arange(8) < rng.integers(2, 9, (8, 3, 1))).astype(np.int32)
    ranks = rng.integers(0, 3, (8, 3)).astype(np.int32)
    ranks[0], ranks[1] = (0, 0, 0), (0, 1, -1)  # a prompt without pairs; one of two outputs
    return {"tokens": tokens, "segments": segments, "ranks": ranks}


CASES = {
    "supervised": lambda: (
        supervised.likelihood_loss(tiny.MODEL),
        supervised.SupervisedConfig(RATE, batch_size=8, length=8),
        tiny.policy_params(1),
        tiny.text_batch(),
    ),
    "reward": lambda: (
        reward_loss(tiny.MODEL),
        RewardConfig(RATE, batch_size=8, outputs=3, length=8),
        tiny.noisy(with_score_head(tiny.policy_params(1), jax.random.key(2)), 3),
        rankings(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_over_eight_devices_is_that_of_one(case):
    loss, config, params, batch = CASES[case]()
    assert jax.local_device_count() == 8
    mesh = make_mesh()
    update, optimizer = supervised.make_update(loss, config, 10)
    start = lambda: supervised.initial_state(
        jax.tree.map(np.array, params), optimizer, jax.random.key(0)
    )
    one, one_metrics = update(start(), batch)
    many, metrics = update(replicate(start(), mesh), shard_batch(batch, mesh))
    assert len(many.params["tokens"].sharding.device_set) == 8
    assert_close(many.params, one.params, rtol=1e-5, atol=1e-5)
    assert_close(metrics, one_metrics, rtol=1e-5, atol=1e-5)
    moved = np.abs(np.asarray(one.params["tokens"]) - np.asarray(params["tokens"])).max()
    assert moved > 1e-4
