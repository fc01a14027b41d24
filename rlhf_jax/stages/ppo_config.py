"""The settings of PPO-ptx."""

import dataclasses
from typing import Literal

from rlhf_jax.errors import require
from rlhf_jax.objectives.kl import AdaptiveController, FixedController
from rlhf_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """InstructGPT's PPO. Learning rates count optimizer steps: iterations x epochs x minibatches.

    The paper prints neither the final policy learning rate nor the GAE lambda, nor how the ptx term
    is normalised beside the policy's.

    ptx_per  what the ptx gradient is a mean over, times its coefficient. "token": over tokens of
             text, as the policy's is over tokens of responses. "sequence": equation 2 with both
             expectations over sequences: the mean over tokens, times the mean tokens of a row of
             text, by those of a response, in the minibatch
    """

    policy_optimizer: OptimizerConfig
    value_optimizer: OptimizerConfig
    iterations: int
    batch_size: int = 512  # episodes an iteration
    minibatches: int = 8
    epochs: int = 1
    micro_batches: int = 1  # of each minibatch
    rollout_micro_batches: int = 1  # of the whole batch
    ptx_micro_batches: int | None = None  # of a minibatch's pretraining rows; None: micro_batches
    prompt_length: int = 1024
    response_length: int = 1024
    temperature: float = 1.0
    kl: FixedController | AdaptiveController = dataclasses.field(
        default_factory=lambda: FixedController(0.02)
    )
    discount: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_clip: float | None = 0.2  # None: plain squared error
    whiten_rewards: bool = False  # keeps the mean (Ziegler et al. 2019)
    whiten_advantages: bool = True
    zero_value_head: bool = False  # else the value function starts as the reward model
    ema_decay: float | None = 0.992  # of the policy, an iteration; None: no average
    ptx_coefficient: float = 0.0
    ptx_per: Literal["token", "sequence"] = "token"  # what the ptx gradient is a mean over
    ptx_ratio: int = 8  # rows of pretraining text an episode
    ptx_length: int = 1024  # tokens of such a row
    # Names of the parameters that are trained, as in ("score",), branches of the tree of
    # parameters; none: all are. The others stay as they are and have no optimizer.
    train_policy: tuple[str, ...] = ()
    train_value: tuple[str, ...] = ()

    def __post_init__(self):
        positive = (
            "iterations", "batch_size", "minibatches", "epochs", "micro_batches",
            "rollout_micro_batches", "prompt_length", "response_length", "temperature", "ptx_ratio",
            "ptx_length", "clip",
        )  # fmt: skip
        for field in positive:
            value = getattr(self, field)
            require(value > 0, field, value, "positive")
        for field in ("discount", "gae_lambda"):
            value = getattr(self, field)
            require(0 <= value <= 1, field, value, "in [0, 1]")
        pieces = self.minibatches * self.micro_batches
        require(
            self.batch_size % pieces == 0,
            "batch_size",
            self.batch_size,
            f"a multiple of minibatches x micro_batches = {pieces}",
        )
        pieces = self.rollout_micro_batches
        ok = self.batch_size % pieces == 0
        require(ok, "rollout_micro_batches", pieces, f"a divisor of batch_size {self.batch_size}")
        if isinstance(self.kl, AdaptiveController):
            self.kl.check(self.batch_size, "kl.horizon")
        rows = self.batch_size // self.minibatches * self.ptx_ratio
        pieces = self.text_pieces
        ok = pieces > 0 and (self.ptx_coefficient == 0 or rows % pieces == 0)
        require(ok, "ptx_micro_batches", pieces, f"a divisor of a minibatch's {rows} rows of text")
        ways = ("token", "sequence")
        require(self.ptx_per in ways, "ptx_per", self.ptx_per, f"one of {ways}")
        require(self.ptx_coefficient >= 0, "ptx_coefficient", self.ptx_coefficient, ">= 0")
        require(
            self.value_clip is None or self.value_clip > 0, "value_clip", self.value_clip, "> 0"
        )
        require(
            self.ema_decay is None or 0 <= self.ema_decay < 1,
            "ema_decay",
            self.ema_decay,
            "in [0, 1)",
        )
        steps = self.optimizer_steps
        for name in ("policy_optimizer", "value_optimizer"):
            warmup, field = getattr(self, name).warmup_steps, f"{name}.warmup_steps"
            require(warmup < steps, field, warmup, f"below the {steps} updates of all iterations")

    @property
    def text_pieces(self) -> int:
        return self.micro_batches if self.ptx_micro_batches is None else self.ptx_micro_batches

    @property
    def optimizer_steps(self) -> int:
        return self.iterations * self.epochs * self.minibatches

    @property
    def average_warning(self) -> str | None:
        """Said where more than a tenth of the saved average is still the policy at the start.

        Its share is d^n in the average after n iterations: d^n start + (1 - d) sum_i d^(n-i) w_i.
        """
        decay, count = self.ema_decay, self.iterations
        if decay is None or (left := decay**count) <= 0.1:
            return None
        return (
            f"ema_decay = {decay}: after {count} iterations {left:.0%} of the average of weights "
            "that is saved is still the policy at the start; a smaller ema_decay, or None, leaves "
            "less of it"
        )
