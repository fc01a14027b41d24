"""Impossible PPO configs are refused by the name of the field."""

import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.objectives.kl import AdaptiveController, FixedController
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.stages import tiny

IMPOSSIBLE = {
    "iterations": 0,
    "batch_size": 7,
    "minibatches": 3,
    "epochs": 0,
    "micro_batches": -1,
    "prompt_length": 0,
    "response_length": 0,
    "temperature": 0.0,
    "discount": 1.1,
    "gae_lambda": -0.1,
    "clip": 0.0,
    "value_clip": 0.0,
    "ema_decay": 1.0,
    "ptx_coefficient": -1.0,
    "ptx_ratio": 0,
    "ptx_length": 0,
}


@pytest.mark.parametrize("field, value", IMPOSSIBLE.items(), ids=list(IMPOSSIBLE))
def test_an_impossible_value_is_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        tiny.ppo_config(**{field: value})
    named = "batch_size" if field == "minibatches" else field
    assert str(caught.value).startswith(f"{named} = ")


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
