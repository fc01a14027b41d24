"""A policy-gradient estimator is an advantage x a surrogate, in training and in the lab.

Each is a small frozen dataclass over the functions of advantages.py and surrogates.py, in the
package or outside of it. Any advantage goes with any surrogate.
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
    """Sampled responses and what an advantage may read of them: [B, R], zero outside the mask. The
    responses to one prompt are `group` consecutive rows."""

    mask: Array
    rewards: Array  # of each token, with the KL penalty where that is in the reward
    log_probs: Array  # of the policy that learns, before its update
    old_log_probs: Array  # of the policy that sampled
    values: Array | None  # of the value network; None without one
    group: int = 1


@dataclasses.dataclass(frozen=True)
class Advantage:
    """advantages, returns = advantage(episodes, carried), each [B, R]; the returns are what a value
    network learns, None without one.

    critic   it reads a value network
    grouped  it compares the responses to one prompt, of which it wants two or more
    """

    critic: ClassVar[bool] = False
    grouped: ClassVar[bool] = False

    def __call__(self, episodes: Episodes, carried: Any = None) -> tuple[Array, Array | None]:
        raise NotImplementedError

    def init(self) -> Any:
        """What it carries from batch to batch; None: nothing."""
        return None

    def carry(self, carried: Any, episodes: Episodes) -> Any:
        """What it carries on after a batch."""
        return carried


@dataclasses.dataclass(frozen=True)
class GAE(Advantage):
    """advantages.gae; discount = lam = 1 is A = return - V, as in A2C with whole returns."""

    critic: ClassVar = True
    discount: float = 1.0
    lam: float = 0.95

    def __post_init__(self):
        _fractions(discount=self.discount, lam=self.lam)

    def __call__(self, episodes, carried=None):
        e = episodes
        return advantages.gae(e.rewards, e.values, e.mask, self.discount, self.lam)


@dataclasses.dataclass(frozen=True)
class VTrace(Advantage):
    """advantages.vtrace, for responses of an older policy; with `TruncatedImportance`."""

    critic: ClassVar = True
    discount: float = 1.0
    lam: float = 1.0
    ratio_ceiling: float = 1.0

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
    """A = R, the sum of a response's rewards, for each of its tokens. Source: Williams 1992."""

    def __call__(self, episodes, carried=None):
        rewards = advantages.paid_at_end(episodes.rewards, episodes.mask)
        return advantages.reward_to_go(rewards, episodes.mask), None


@dataclasses.dataclass(frozen=True)
class RewardToGo(Advantage):
    """advantages.reward_to_go."""

    discount: float = 1.0

    def __post_init__(self):
        _fractions(discount=self.discount)

    def __call__(self, episodes, carried=None):
        return advantages.reward_to_go(episodes.rewards, episodes.mask, self.discount), None


@dataclasses.dataclass(frozen=True)
class MovingAverage(Advantage):
    """A = R - b, b the moving average of the returns of the batches before, 0 at first."""

    decay: float = 0.9

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
    """advantages.leave_one_out, RLOO."""

    grouped: ClassVar = True

    def __call__(self, episodes, carried=None):
        found = advantages.leave_one_out(episodes.rewards, episodes.mask, episodes.group)
        return found, None


@dataclasses.dataclass(frozen=True)
class GroupNormalised(Advantage):
    """advantages.group_normalised, GRPO; without `divide_by_std` Dr. GRPO."""

    grouped: ClassVar = True
    divide_by_std: bool = True

    def __call__(self, episodes, carried=None):
        e = episodes
        found = advantages.group_normalised(e.rewards, e.mask, e.group, self.divide_by_std)
        return found, None


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """losses [B, R] = surrogate(log_probs, old_log_probs, advantages, mask, carried), to minimise.

    All arrays are [B, R]; the old log-probabilities and the advantages are constants.
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
        """1 where it takes or bounds a token's gradient, else 0: [B, R]."""
        return jnp.zeros_like(log_probs)

    def init(self) -> Any:
        """What it carries from iteration to iteration; None: nothing."""
        return None

    def carry(self, carried: Any, kl: Array) -> Any:
        """What it carries on; kl: nats a token of KL(old || policy) over the iteration's updates,
        (log p - log old)^2 / 2."""
        return carried


@dataclasses.dataclass(frozen=True)
class Reinforce(Surrogate):
    """surrogates.reinforce."""

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.reinforce(log_probs, old_log_probs, advantages)


@dataclasses.dataclass(frozen=True)
class ImportanceWeighted(Surrogate):
    """surrogates.importance_weighted."""

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.importance_weighted(log_probs, old_log_probs, advantages)


@dataclasses.dataclass(frozen=True)
class TruncatedImportance(Surrogate):
    """surrogates.truncated_importance."""

    ratio_ceiling: float = 1.0

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
    """A surrogate with the range [1 - clip, 1 + clip_high] of ratios.

    clip_high: None: clip
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
    """surrogates.ppo_clip."""

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
    """surrogates.cispo; its clipped tokens keep their gradient, at the bound's weight."""

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return surrogates.cispo(log_probs, old_log_probs, advantages, self.clip, self.clip_high)

    def clipped(self, log_probs, old_log_probs, advantages, mask):
        ratio = surrogates.importance_ratio(log_probs, old_log_probs)
        high = self.clip if self.clip_high is None else self.clip_high
        return as_float((ratio < 1 - self.clip) | (ratio > 1 + high))


@dataclasses.dataclass(frozen=True)
class GSPO(Clipped):
    """surrogates.gspo: one ratio a response. Aggregate by "sequence"; its clips are small."""

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
    """surrogates.ppo_penalty; the controller moves its coefficient by the KL of each iteration.

    controller: its target in nats a token
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
