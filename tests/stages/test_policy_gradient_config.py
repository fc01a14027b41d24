"""Impossible policy-gradient configs are refused by the name of the field."""

import ast

import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.objectives.estimator import (
    GAE,
    GroupNormalised,
    LeaveOneOut,
    MovingAverage,
    PPOClip,
    PPOPenalty,
    VTrace,
)
from rlhf_jax.objectives.kl import AdaptiveController, FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages.policy_gradient_config import PolicyGradientConfig
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
    "value_clip = 0.0": "> 0",
    "group = 0": POSITIVE,
    "group = 3": "a divisor of batch_size 8",
    "max_draws = 0": POSITIVE,
    "max_draws = 2": "1: the scores of groups of one never differ",
    "stale = -1": ">= 0",
    "entropy_coefficient = -0.1": ">= 0",
    "rewards = ()": "a tuple of terms, one or more",
    "rewards = 'reward'": "a tuple of terms, one or more",
    "aggregation = 'row'": "one of ('token', 'sequence', 'length')",
    "kl_in = 'both'": "'reward' or 'loss'",
    "kl_estimator = 'k4'": "one of ('k1', 'k2', 'k3')",
    "kl_gradient = 'wrong'": "'right' or 'own'",
    "kl_gradient = 'own'": "'right': the KL in the reward has no gradient",
    "value_optimizer = None": "an OptimizerConfig: GAE reads a value network",
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
    rewards = (LearnedReward("reward"),)
    config = PolicyGradientConfig(OptimizerConfig(), OptimizerConfig(), 500, rewards)
    printed = {
        "batch_size": 512, "minibatches": 8, "epochs": 1, "temperature": 1.0,
        "kl": FixedController(0.02), "advantage": GAE(1.0, 0.95),
        "surrogate": PPOClip(0.2, None, None), "value_clip": 0.2, "whiten_rewards": False,
        "whiten_advantages": True, "ema_decay": 0.992, "ptx_ratio": 8, "ptx_coefficient": 0.0,
        "aggregation": "token", "group": 1, "kl_in": "reward", "kl_estimator": "k1", "stale": 0,
        "entropy_coefficient": 0.0, "max_draws": 1,
    }  # fmt: skip
    assert {field: getattr(config, field) for field in printed} == printed
    assert EndingConfig().missing_eos_score == -1.0
    assert config.optimizer_steps == 500 * 8


# Fields that contradict each other: of a stage without a value network; which is told, and how.
CRITIC_FREE = {"advantage": MovingAverage(), "value_optimizer": None}
UNREAD = "MovingAverage reads no value network"
CONTRADICTIONS = [
    (CRITIC_FREE | {"zero_value_head": True}, "zero_value_head = True", f"False: {UNREAD}"),
    (CRITIC_FREE | {"train_value": ("score",)}, "train_value = ('score',)", f"(): {UNREAD}"),
    (CRITIC_FREE | {"value": "reward"}, "value = 'reward'", f"None: {UNREAD}"),
    (CRITIC_FREE | {"value_optimizer": OptimizerConfig(1e-3)},
     f"value_optimizer = {OptimizerConfig(1e-3)!r}", f"None: {UNREAD}"),
    (CRITIC_FREE | {"advantage": LeaveOneOut()}, "group = 1",
     "2 or more: LeaveOneOut compares responses to a prompt"),
    (CRITIC_FREE | {"advantage": GroupNormalised()}, "group = 1",
     "2 or more: GroupNormalised compares responses to a prompt"),
    ({"advantage": VTrace(), "value_optimizer": None}, "value_optimizer = None",
     "an OptimizerConfig: VTrace reads a value network"),
    ({"kl_in": "loss", "kl_gradient": "own"}, "kl_gradient = 'own'",
     "'right': k1's own gradient is 0 in the mean"),
    ({"ptx_per": "sequence", "aggregation": "length"}, "ptx_per = 'sequence'",
     "'token' where aggregation = 'length'"),
]  # fmt: skip


@pytest.mark.parametrize("changes, given, allowed", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused(changes, given, allowed):
    with pytest.raises(ConfigError) as caught:
        tiny.ppo_config(**changes)
    assert str(caught.value) == f"{given}: must be {allowed}"


def test_what_does_not_contradict_itself_is_taken():
    tiny.ppo_config(**CRITIC_FREE)
    tiny.ppo_config(**CRITIC_FREE | {"advantage": LeaveOneOut(), "group": 2, "max_draws": 3})
    tiny.ppo_config(group=4, max_draws=2, stale=3, value="reward", zero_value_head=True)
    tiny.ppo_config(kl_in="loss", kl_estimator="k3", kl_gradient="own", aggregation="sequence")
    tiny.ppo_config(ptx_per="sequence", surrogate=PPOPenalty(), entropy_coefficient=0.1)


def test_values_at_the_edge_are_taken():
    config = tiny.ppo_config(
        ema_decay=None, value_clip=None, advantage=GAE(0.0, 1.0), micro_batches=4
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
