"""A policy-gradient estimator is an advantage x a surrogate, in training and in the lab.

Advantages and surrogates are small frozen dataclasses around the functions of advantages.py and
surrogates.py. You may write your own outside the package. Any advantage goes with any surrogate.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.errors import require
from rlhf_jax.objectives import advantages, surrogates
from rlhf_jax.objectives.kl import DoublingController, FixedController
from rlhf_jax.objectives.reductions import as_float

Array = jax.Array


class Episodes(NamedTuple):
    """Sampled responses and all that an advantage may read about them.

    Arrays are [B, R] over R response tokens, zero outside the mask. The responses to one prompt
    are `group` consecutive rows.
    """

    mask: Array
    rewards: Array  # per token; the KL penalty is included where it is part of the reward
    log_probs: Array  # of the policy that is trained, before its update
    old_log_probs: Array  # of the policy that sampled the responses
    values: Array | None  # of the value network; None without one
    group: int = 1


@dataclasses.dataclass(frozen=True)
class Advantage:
    """advantages, returns = advantage(episodes, carried), each [B, R].

    The returns are the targets of the value network; without a value network they are None.

    critic   whether it reads a value network
    grouped  whether it compares the responses to one prompt; it then needs two or more of them
    """

    critic: ClassVar[bool] = False
    grouped: ClassVar[bool] = False

    def __call__(self, episodes: Episodes, carried: Any = None) -> tuple[Array, Array | None]:
        raise NotImplementedError

    def init(self) -> Any:
        """The initial state that is carried from batch to batch; None: there is no state."""
        return None

    def carry(self, carried: Any, episodes: Episodes) -> Any:
        """The carried state after a batch."""
        return carried


@dataclasses.dataclass(frozen=True)
class GAE(Advantage):
    """Generalised advantage estimation (GAE). With discount = lam = 1 it is
    A = return - V, as in A2C with whole returns."""

    critic: ClassVar = True
    discount: float = 1.0  # gamma
    # lambda: with 1 the return is the sum of all later rewards; a smaller value relies more on the
    # value network.
    lam: float = 0.95

    def __post_init__(self):
        _fractions(discount=self.discount, lam=self.lam)

    def __call__(self, episodes, carried=None):
        e = episodes
        return advantages.gae(e.rewards, e.values, e.mask, self.discount, self.lam)


@dataclasses.dataclass(frozen=True)
class VTrace(Advantage):
    """V-trace, for responses of an older policy. Use it with the surrogate
    `TruncatedImportance`."""

    critic: ClassVar = True
    discount: float = 1.0  # gamma
    # lambda: with 1 the return is the sum of all later rewards; a smaller value relies more on the
    # value network.
    lam: float = 1.0
    ratio_ceiling: float = 1.0  # maximum of p / old in the weight of the following tokens

    def __post_init__(self):
        _fractions(discount=self.discount, lam=self.lam)
        require(self.ratio_ceiling > 0, "ratio_ceiling", self.ratio_ceiling, "positive")

    def __call__(self, episodes, carried=None):
        e = episodes
        return advantages.vtrace(
            e.rewards, e.values, e.mask, e.log_probs, e.old_log_probs,
            self.discount, self.lam, self.ratio_ceiling,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WholeReturn(Advantage):
    """A = R for every token; R is the sum of the response's rewards. Source: Williams 1992."""

    def __call__(self, episodes, carried=None):
        rewards = advantages.paid_at_end(episodes.rewards, episodes.mask)
        return advantages.reward_to_go(rewards, episodes.mask), None


@dataclasses.dataclass(frozen=True)
class RewardToGo(Advantage):
    """A_t = G_t, the discounted sum of rewards from token t on, `advantages.reward_to_go`."""

    discount: float = 1.0  # gamma

    def __post_init__(self):
        _fractions(discount=self.discount)

    def __call__(self, episodes, carried=None):
        return advantages.reward_to_go(episodes.rewards, episodes.mask, self.discount), None


@dataclasses.dataclass(frozen=True)
class MovingAverage(Advantage):
    """A = R - b, where b is the moving average of earlier batches' returns, 0 at first."""

    decay: float = 0.9  # of the moving average, per batch

    def __post_init__(self):
        require(0 <= self.decay < 1, "decay", self.decay, "in [0, 1)")

    def init(self):
        return jnp.zeros((), jnp.float32)

    def __call__(self, episodes, carried=None):
        rewards = advantages.paid_at_end(episodes.rewards, episodes.mask)
        return advantages.minus_baseline(rewards, episodes.mask, carried), None

    def carry(self, carried, episodes):
        return advantages.moving_average(carried, episodes.rewards, episodes.mask, self.decay)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """RLOO, `advantages.leave_one_out`: A = R - the mean R of the prompt's other responses."""

    grouped: ClassVar = True

    def __call__(self, episodes, carried=None):
        found = advantages.leave_one_out(episodes.rewards, episodes.mask, episodes.group)
        return found, None


@dataclasses.dataclass(frozen=True)
class GroupNormalised(Advantage):
    """GRPO, `advantages.group_normalised`: A = (R - mean) / std over a prompt's responses.
    Without `divide_by_std` it is Dr. GRPO."""

    grouped: ClassVar = True
    divide_by_std: bool = True  # False: the mean alone is subtracted, as in Dr. GRPO

    def __call__(self, episodes, carried=None):
        e = episodes
        found = advantages.group_normalised(e.rewards, e.mask, e.group, self.divide_by_std)
        return found, None


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """losses = surrogate(log_probs, old_log_probs, advantages, mask, carried), to be minimised.

    All arrays are [B, R]. No gradient flows through old_log_probs and advantages.
    """

    def __call__(
        self,
        log_probs: Array,
        old_log_probs: Array,
        advantages: Array,
        mask: Array,
        carried: Any = None,
    ) -> Array:
        raise NotImplementedError

    def clipped(
        self, log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array
    ) -> Array:
        """1 where clipping removes or bounds a token's gradient, else 0: [B, R]."""
        return jnp.zeros_like(log_probs)

    def init(self) -> Any:
        """The initial state that is carried from iteration to iteration; None: no state."""
        return None

    def carry(self, carried: Any, kl: Array) -> Any:
        """The carried state after an iteration. kl: the mean of (log p - log old)^2 / 2 over the
        iteration's updates, an estimate of KL(old || policy) in nats per token."""
        return carried


@dataclasses.dataclass(frozen=True)
class Reinforce(Surrogate):
    """-A log p, `surrogates.reinforce`."""

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.reinforce(log_probs, old_log_probs, advantages)


@dataclasses.dataclass(frozen=True)
class ImportanceWeighted(Surrogate):
    """-A p / old, `surrogates.importance_weighted`."""

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.importance_weighted(log_probs, old_log_probs, advantages)


@dataclasses.dataclass(frozen=True)
class TruncatedImportance(Surrogate):
    """-A min(ratio_ceiling, p / old) log p, `surrogates.truncated_importance`."""

    ratio_ceiling: float = 1.0  # the largest weight of a token

    def __post_init__(self):
        require(self.ratio_ceiling > 0, "ratio_ceiling", self.ratio_ceiling, "positive")

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.truncated_importance(
            log_probs, old_log_probs, advantages, self.ratio_ceiling
        )

    def clipped(self, log_probs, old_log_probs, advantages, mask):
        ratio = surrogates.importance_ratio(log_probs, old_log_probs)
        return as_float(ratio > self.ratio_ceiling)


@dataclasses.dataclass(frozen=True)
class Clipped(Surrogate):
    """A surrogate that clips ratios to [1 - clip, 1 + clip_high].

    clip: how far a ratio of probabilities (new / old) may go below 1
    clip_high: how far a ratio may go above 1; None: the same as clip
    """

    clip: float = 0.2
    clip_high: float | None = None

    def __post_init__(self):
        require(self.clip > 0, "clip", self.clip, "positive")
        high = self.clip_high
        require(high is None or high > 0, "clip_high", high, "positive, or None: clip")

    def clipped(self, log_probs, old_log_probs, advantages, mask):
        found = surrogates.ppo_diagnostics(
            log_probs, old_log_probs, advantages, self.clip, self.clip_high
        )
        return found["clip_fraction"]


@dataclasses.dataclass(frozen=True)
class PPOClip(Clipped):
    """PPO's clipped surrogate, `surrogates.ppo_clip`."""

    dual_clip: float | None = None  # bounds the loss of negative advantages by -dual_clip A

    def __post_init__(self):
        super().__post_init__()
        dual = self.dual_clip
        require(dual is None or dual > 1, "dual_clip", dual, "above 1, or None: no bound")

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.ppo_clip(
            log_probs, old_log_probs, advantages, self.clip, self.clip_high, self.dual_clip
        )


@dataclasses.dataclass(frozen=True)
class CISPO(Clipped):
    """CISPO, `surrogates.cispo`: a clipped token keeps its gradient, weighted by the bound."""

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.cispo(log_probs, old_log_probs, advantages, self.clip, self.clip_high)

    def clipped(self, log_probs, old_log_probs, advantages, mask):
        ratio = surrogates.importance_ratio(log_probs, old_log_probs)
        high = self.clip if self.clip_high is None else self.clip_high
        return as_float((ratio < 1 - self.clip) | (ratio > 1 + high))


@dataclasses.dataclass(frozen=True)
class GSPO(Clipped):
    """GSPO, `surrogates.gspo`: one ratio per response, so the clip range is narrow. Use it with
    aggregation by "sequence"."""

    clip: float = 3e-4
    clip_high: float | None = 4e-4

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.gspo(
            log_probs, old_log_probs, advantages, mask, self.clip, self.clip_high
        )

    def clipped(self, log_probs, old_log_probs, advantages, mask):
        log_ratio = surrogates.mean_log_ratio(log_probs, old_log_probs, mask)
        return super().clipped(log_ratio, jnp.zeros_like(log_ratio), advantages, mask)


@dataclasses.dataclass(frozen=True)
class PPOPenalty(Surrogate):
    """PPO with a KL penalty, `surrogates.ppo_penalty`. After each iteration the controller adapts
    the penalty's coefficient to the KL.

    controller: its target is in nats per token
    """

    controller: FixedController | DoublingController = FixedController(1.0)

    def init(self):
        return self.controller.init()

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.ppo_penalty(log_probs, old_log_probs, advantages, carried)

    def carry(self, carried, kl):
        return self.controller.update(carried, kl, batch_size=1)


def _fractions(**fields: float) -> None:
    for field, value in fields.items():
        require(0 <= value <= 1, field, value, "in [0, 1]")
