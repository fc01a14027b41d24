"""Published policy-gradient algorithms as settings of the one stage: an estimator with its source.

Each returns a `PolicyGradient`; a field that is given takes the place of the preset's.
"""

from typing import Any

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
from rlhf_jax.stages.policy_gradient import PolicyGradient


def ppo(**fields: Any) -> PolicyGradient:
    """PPO as InstructGPT has it: GAE, clipped ratios, the KL in the reward; PPO-ptx with a
    `ptx_coefficient`. Source: Schulman et al. 2017 (arXiv 1707.06347); Ouyang et al. 2022."""
    return _preset(fields)


def a2c(**fields: Any) -> PolicyGradient:
    """Returns minus a value network, one step a batch. Source: Mnih et al. 2016 (arXiv
    1602.01783), without its asynchronous workers and, unless it is given, its entropy bonus."""
    return _preset(fields, advantage=GAE(lam=1.0), surrogate=Reinforce(), minibatches=1,
                   whiten_advantages=False, value_clip=None)  # fmt: skip


def reinforce(**fields: Any) -> PolicyGradient:
    """REINFORCE with a moving average of the returns as its baseline, one step a batch. Source:
    Williams 1992 (reinforcement comparison)."""
    return _without_critic(fields, advantage=MovingAverage(), surrogate=Reinforce(), minibatches=1)


def rloo(**fields: Any) -> PolicyGradient:
    """REINFORCE with the mean of the other responses to the prompt as its baseline, one step a
    batch, the KL in the reward. Source: Ahmadian et al. 2024 (arXiv 2402.14740)."""
    return _without_critic(fields, advantage=LeaveOneOut(), surrogate=Reinforce(), minibatches=1,
                           group=4)  # fmt: skip


def grpo(**fields: Any) -> PolicyGradient:
    """Scores normalised in their group, clipped ratios, a mean over tokens and then over responses,
    k3 to the reference in the loss. Source: Shao et al. 2024 (arXiv 2402.03300), equation 3."""
    return _grouped(fields, advantage=GroupNormalised(), aggregation="sequence",
                    kl=FixedController(0.04), kl_in="loss", kl_estimator="k3",
                    kl_gradient="own")  # fmt: skip


def dr_grpo(**fields: Any) -> PolicyGradient:
    """GRPO without its two divisions, by the standard deviation and by the length, and without a
    KL. Source: Liu et al. 2025 (arXiv 2503.20783)."""
    return _grouped(fields, advantage=GroupNormalised(divide_by_std=False), aggregation="length",
                    kl=FixedController(0.0))  # fmt: skip


def dapo(**fields: Any) -> PolicyGradient:
    """GRPO with a higher upper clip, a mean over tokens, groups whose scores differ only, and no
    KL; its over-long penalty is a term of the reward, penalties.OverLong. Source: Yu et al. 2025
    (arXiv 2503.14476)."""
    return _grouped(fields, advantage=GroupNormalised(), surrogate=PPOClip(0.2, 0.28),
                    kl=FixedController(0.0), max_draws=10)  # fmt: skip


def gspo(**fields: Any) -> PolicyGradient:
    """GRPO with one ratio a response. Source: Zheng et al. 2025 (arXiv 2507.18071), its clips of
    section 5.1; no KL."""
    return _grouped(fields, advantage=GroupNormalised(), surrogate=GSPO(), aggregation="sequence",
                    kl=FixedController(0.0))  # fmt: skip


def cispo(**fields: Any) -> PolicyGradient:
    """Clipped ratios as constant weights of REINFORCE, the lower side free, a mean over tokens, no
    KL. Source: MiniMax-M1 2025 (arXiv 2506.13585), equation 4; it does not print the upper
    clip."""
    return _grouped(fields, advantage=GroupNormalised(), surrogate=CISPO(1.0, 0.28),
                    kl=FixedController(0.0))  # fmt: skip


def _grouped(fields: dict[str, Any], **settings: Any) -> PolicyGradient:
    return _without_critic(fields, **{"group": 8, **settings})


def _without_critic(fields: dict[str, Any], **settings: Any) -> PolicyGradient:
    return _preset(fields, **settings, value_optimizer=None, whiten_advantages=False)


def _preset(fields: dict[str, Any], **settings: Any) -> PolicyGradient:
    return PolicyGradient(**{"value_optimizer": None, **settings, **fields})
