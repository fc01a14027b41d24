"""Published policy-gradient algorithms, as settings of the one policy-gradient stage.

Each function returns a `PolicyGradient`. Fields that you give replace the preset's.
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
    """PPO as in InstructGPT: GAE, clipped ratios, the KL in the reward. With a `ptx_coefficient` it
    is PPO-ptx. Source: Schulman et al. 2017 (arXiv 1707.06347); Ouyang et al. 2022."""
    return _preset(fields)


def a2c(**fields: Any) -> PolicyGradient:
    """A2C: advantage = return - value, one step per batch. Source: Mnih et al. 2016 (arXiv
    1602.01783), without asynchronous workers; its entropy bonus is `entropy_coefficient`."""
    return _preset(fields, advantage=GAE(lam=1.0), surrogate=Reinforce(), minibatches=1,
                   whiten_advantages=False, value_clip=None)  # fmt: skip


def reinforce(**fields: Any) -> PolicyGradient:
    """REINFORCE with a moving average of returns as its baseline, one step per batch. Source:
    Williams 1992 (reinforcement comparison)."""
    return _without_critic(fields, advantage=MovingAverage(), surrogate=Reinforce(), minibatches=1)


def rloo(**fields: Any) -> PolicyGradient:
    """RLOO: REINFORCE with the mean return of the prompt's other responses as its baseline, one
    step per batch, the KL in the reward. Source: Ahmadian et al. 2024 (arXiv 2402.14740)."""
    return _without_critic(fields, advantage=LeaveOneOut(), surrogate=Reinforce(), minibatches=1,
                           group=4)  # fmt: skip


def grpo(**fields: Any) -> PolicyGradient:
    """GRPO: scores normalised within the group, clipped ratios, a mean over each response's tokens
    and then over responses, k3 in the loss. Source: Shao et al. 2024 (arXiv 2402.03300), eq. 3."""
    return _grouped(fields, advantage=GroupNormalised(), aggregation="sequence",
                    kl=FixedController(0.04), kl_in="loss", kl_estimator="k3",
                    kl_gradient="own")  # fmt: skip


def dr_grpo(**fields: Any) -> PolicyGradient:
    """Dr. GRPO: GRPO without division by the standard deviation and by the response's length, and
    without KL. Source: Liu et al. 2025 (arXiv 2503.20783)."""
    return _grouped(fields, advantage=GroupNormalised(divide_by_std=False), aggregation="length",
                    kl=FixedController(0.0))  # fmt: skip


def dapo(**fields: Any) -> PolicyGradient:
    """DAPO: GRPO with a higher upper clip, a mean over tokens, only groups whose scores differ, and
    no KL. Its over-long penalty is a reward term, penalties.OverLong. Source: Yu et al. 2025
    (arXiv 2503.14476)."""
    return _grouped(fields, advantage=GroupNormalised(), surrogate=PPOClip(0.2, 0.28),
                    kl=FixedController(0.0), max_draws=10)  # fmt: skip


def gspo(**fields: Any) -> PolicyGradient:
    """GSPO: GRPO with one ratio per response and no KL. Source: Zheng et al. 2025 (arXiv
    2507.18071), with the clip range of its section 5.1."""
    return _grouped(fields, advantage=GroupNormalised(), surrogate=GSPO(), aggregation="sequence",
                    kl=FixedController(0.0))  # fmt: skip


def cispo(**fields: Any) -> PolicyGradient:
    """CISPO: REINFORCE weighted by ratios that are clipped above only and have no gradient; a mean
    over tokens, no KL. Source: MiniMax-M1 2025 (arXiv 2506.13585), equation 4, which does not print
    the upper clip."""
    return _grouped(fields, advantage=GroupNormalised(), surrogate=CISPO(1.0, 0.28),
                    kl=FixedController(0.0))  # fmt: skip


def _grouped(fields: dict[str, Any], **settings: Any) -> PolicyGradient:
    return _without_critic(fields, **{"group": 8, **settings})


def _without_critic(fields: dict[str, Any], **settings: Any) -> PolicyGradient:
    return _preset(fields, **settings, value_optimizer=None, whiten_advantages=False)


def _preset(fields: dict[str, Any], **settings: Any) -> PolicyGradient:
    return PolicyGradient(**{"value_optimizer": None, **settings, **fields})
