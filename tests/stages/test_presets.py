"""Presets hold the settings that the papers print."""

import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.objectives.estimator import (
    CISPO,
    GAE,
    GSPO,
    GroupNormalised,
    LeaveOneOut,
    MovingAverage,
    PPOClip,
    Reinforce,
)
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import presets
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.training.optimizer import OptimizerConfig

RATE = OptimizerConfig(1e-3)
GIVEN = {"policy_optimizer": RATE, "iterations": 3, "rewards": (LearnedReward("reward"),),
         "start": "sft"}  # fmt: skip
CRITIC = {"value_optimizer": RATE}
CRITIC_FREE = {"value_optimizer": None, "whiten_advantages": False}
NO_KL = {"kl": FixedController(0.0), "kl_in": "reward"}
GROUPED = CRITIC_FREE | {"group": 8, "minibatches": 8, "epochs": 1}
PRINTED = {
    "ppo": CRITIC | {
        "advantage": GAE(1.0, 0.95), "surrogate": PPOClip(0.2), "aggregation": "token", "group": 1,
        "kl": FixedController(0.02), "kl_in": "reward", "kl_estimator": "k1",
        "whiten_advantages": True, "value_clip": 0.2,
    },
    "a2c": CRITIC | {
        "advantage": GAE(1.0, 1.0), "surrogate": Reinforce(), "minibatches": 1, "epochs": 1,
        "whiten_advantages": False, "value_clip": None, "group": 1,
    },
    "reinforce": CRITIC_FREE | {
        "advantage": MovingAverage(0.9), "surrogate": Reinforce(), "minibatches": 1, "epochs": 1,
        "group": 1,
    },
    "rloo": CRITIC_FREE | {
        "advantage": LeaveOneOut(), "surrogate": Reinforce(), "minibatches": 1, "epochs": 1,
        "group": 4, "kl_in": "reward", "kl_estimator": "k1",
    },
    "grpo": GROUPED | {
        "advantage": GroupNormalised(divide_by_std=True), "surrogate": PPOClip(0.2, None, None),
        "aggregation": "sequence", "kl": FixedController(0.04), "kl_in": "loss",
        "kl_estimator": "k3", "kl_gradient": "own", "max_draws": 1,
    },
    "dr_grpo": GROUPED | NO_KL | {
        "advantage": GroupNormalised(divide_by_std=False), "surrogate": PPOClip(0.2),
        "aggregation": "length",
    },
    "dapo": GROUPED | NO_KL | {
        "advantage": GroupNormalised(), "surrogate": PPOClip(0.2, 0.28), "aggregation": "token",
        "max_draws": 10,
    },
    "gspo": GROUPED | NO_KL | {
        "advantage": GroupNormalised(), "surrogate": GSPO(3e-4, 4e-4), "aggregation": "sequence",
    },
    "cispo": GROUPED | NO_KL | {
        "advantage": GroupNormalised(), "surrogate": CISPO(1.0, 0.28), "aggregation": "token",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_a_preset_has_the_published_settings(name):
    critic = CRITIC if name in ("ppo", "a2c") else {}
    stage = getattr(presets, name)(**GIVEN, **critic)
    assert type(stage) is PolicyGradient
    assert {field: getattr(stage, field) for field in PRINTED[name]} == PRINTED[name]
    changed = getattr(presets, name)(**GIVEN, **critic, epochs=4, minibatches=2, group=16)
    assert (changed.epochs, changed.minibatches, changed.group) == (4, 2, 16)
    assert changed.advantage == stage.advantage


def test_every_preset_is_here():
    made = {name for name, preset in vars(presets).items()
            if callable(preset) and getattr(preset, "__module__", "") == presets.__name__
            and not name.startswith("_")}  # fmt: skip
    assert made == PRINTED.keys()


def test_a_critic_without_an_optimizer_is_refused_in_a_sentence():
    told = "^value_optimizer = None: must be an OptimizerConfig: GAE reads a value network$"
    with pytest.raises(ConfigError, match=told):
        presets.ppo(**GIVEN)
