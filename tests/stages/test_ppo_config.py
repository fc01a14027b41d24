"""Impossible PPO configs are refused by the name of the field."""

import ast

import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.objectives.kl import AdaptiveController, FixedController
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.stages import tiny

POSITIVE = "positive"
PIECES = "a multiple of minibatches x micro_batches ="
# What stands before "must be", of a stage with the field; and what it must be.
IMPOSSIBLE = {
    "iterations = 0": POSITIVE,
    "batch_size = 0": POSITIVE,
    "batch_size = 7": f"{PIECES} 2",
    "minibatches = 0": POSITIVE,
    "minibatches = 3": f"{PIECES} 3",
    "epochs = 0": POSITIVE,
    "micro_batches = -1": POSITIVE,
    "micro_batches = 3": f"{PIECES} 6",
    "rollout_micro_batches = 0": POSITIVE,
    "rollout_micro_batches = 3": "a divisor of batch_size 8",
    "prompt_length = 0": POSITIVE,
    "response_length = 0": POSITIVE,
    "temperature = 0.0": POSITIVE,
    "discount = 1.1": "in [0, 1]",
    "gae_lambda = -0.1": "in [0, 1]",
    "clip = 0.0": POSITIVE,
    "value_clip = 0.0": "> 0",
    "ema_decay = 1.0": "in [0, 1)",
    "ema_decay = -0.1": "in [0, 1)",
    "ptx_coefficient = -1.0": ">= 0",
    "ptx_ratio = 0": POSITIVE,
    "ptx_length = 0": POSITIVE,
    "ptx_micro_batches = 0": "a divisor of a minibatch's 4 rows of text",
    "ptx_per = 'row'": "one of ('token', 'sequence')",
}


@pytest.mark.parametrize("given, allowed", IMPOSSIBLE.items(), ids=list(IMPOSSIBLE))
def test_an_impossible_value_is_refused_by_name(given, allowed):
    field, value = given.split(" = ")
    with pytest.raises(ConfigError) as caught:
        tiny.ppo_config(**{field: ast.literal_eval(value)})
    of_batch = field in ("minibatches", "micro_batches") and allowed != POSITIVE
    assert str(caught.value) == f"{'batch_size = 8' if of_batch else given}: must be {allowed}"


def test_rows_of_text_are_cut_where_there_are_some():
    """Of 4 episodes a minibatch, 3 rows each."""
    tiny.ppo_config(ptx_ratio=3, ptx_micro_batches=5)  # without a coefficient no text is read
    told = "^ptx_micro_batches = 5: must be a divisor of a minibatch's 12 rows of text$"
    with pytest.raises(ConfigError, match=told):
        tiny.ppo_config(ptx_ratio=3, ptx_micro_batches=5, ptx_coefficient=1.0)
    assert tiny.ppo_config(ptx_ratio=3, ptx_micro_batches=6, ptx_coefficient=1.0).text_pieces == 6
    assert tiny.ppo_config(micro_batches=2, ptx_coefficient=1.0).text_pieces == 2


@pytest.mark.parametrize("name", ["policy_optimizer", "value_optimizer"])
def test_a_warm_up_ends_before_the_last_update(name):
    """4 iterations of 2 epochs of 2 minibatches."""
    warm = lambda steps: tiny.ppo_config(**{name: OptimizerConfig(warmup_steps=steps)})
    warm(15)
    told = f"^{name}.warmup_steps = 16: must be below the 16 updates of all iterations$"
    with pytest.raises(ConfigError, match=told):
        warm(16)


def test_a_horizon_that_could_make_the_kl_coefficient_zero_is_refused():
    refused = "kl.horizon = 1: must be above batch_size x max_error = 8 x 0.2 = 1.6"
    with pytest.raises(ConfigError, match=f"^{refused}$"):
        tiny.ppo_config(kl=AdaptiveController(horizon=1))
    tiny.ppo_config(kl=AdaptiveController(horizon=2))


def test_the_defaults_are_the_papers():
    """Ouyang et al. 2022, appendix C.4; lambda, value clip, whitening and the score of a response
    without an end are Ziegler et al.'s (2019) and Huang et al.'s (2023)."""
    config = PPOConfig(OptimizerConfig(), OptimizerConfig(), iterations=500)
    printed = {
        "batch_size": 512, "minibatches": 8, "epochs": 1, "temperature": 1.0,
        "kl": FixedController(0.02), "discount": 1.0, "gae_lambda": 0.95, "clip": 0.2,
        "value_clip": 0.2, "whiten_rewards": False, "whiten_advantages": True,
        "ema_decay": 0.992, "ptx_ratio": 8, "ptx_coefficient": 0.0,
    }  # fmt: skip
    assert {field: getattr(config, field) for field in printed} == printed
    assert EndingConfig().missing_eos_score == -1.0
    assert config.optimizer_steps == 500 * 8


def test_values_at_the_edge_are_taken():
    config = tiny.ppo_config(
        ema_decay=None, value_clip=None, discount=0.0, gae_lambda=1.0, micro_batches=4
    )
    assert config.optimizer_steps == 4 * 2 * 2


@pytest.mark.parametrize(
    "decay, iterations, left",
    [
        (0.992, 5, "96%"),  # .992^5 = .9606
        (0.992, 286, "10%"),  # .1006
        (0.992, 287, None),  # .0997
        (0.5, 3, "12%"),
        (0.5, 4, None),
        (0.0, 1, None),
        (None, 1, None),
    ],
)
def test_an_average_that_is_still_mostly_the_start_is_told(decay, iterations, left):
    told = tiny.ppo_config(ema_decay=decay, iterations=iterations).average_warning
    if left is None:
        assert told is None
    else:
        start = f"ema_decay = {decay}: after {iterations} iterations {left} of the average"
        assert told.startswith(start)
