"""The settings of a policy-gradient stage."""

import dataclasses
from typing import Literal

from rlhf_jax.data.buckets import bucket_count, check_buckets
from rlhf_jax.errors import require, require_a
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.generation.decode import TOGETHER, DecodingConfig
from rlhf_jax.models.lora import TRAINED, LoRA
from rlhf_jax.objectives import kl
from rlhf_jax.objectives.estimator import GAE, Advantage, PPOClip, Surrogate
from rlhf_jax.objectives.kl import AdaptiveController, DoublingController, FixedController
from rlhf_jax.rewards.reward import Reward
from rlhf_jax.training.optimizer import OptimizerConfig

KL_ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig:
    """An advantage x a surrogate, with a KL penalty, on responses that the policy samples.

    Schedules of learning rates count optimizer steps: iterations x epochs x minibatches. The
    defaults are PPO's; rlhf_jax/stages/presets.py has the settings of other algorithms. The
    InstructGPT paper does not print the final policy learning rate, the GAE lambda, or how the ptx
    term is normalised.

    rewards          the terms whose weighted sum is a response's score
    value_optimizer  the optimizer of the value network; None if the advantage reads none
    group            responses to each prompt
    aggregation      how the losses of tokens become one number. "token": the mean over tokens;
                     "sequence": the mean over sequences of the mean over their tokens; "length":
                     the mean over sequences of the sum over tokens / response_length
    kl_in            where the KL penalty is: in the "reward" of each token, or in the "loss"
    kl_estimator     the estimator of a token's KL, with d = log p - log reference. "k1": d; "k2":
                     d^2 / 2; "k3": exp(-d) - 1 + d
    kl_gradient      the gradient of a KL in the loss. "right": the gradient of the KL, with tokens
                     of an older policy weighted by their ratio; "own": the gradient of the
                     estimator, as in the GRPO paper
    entropy_coefficient  this x the entropy of a token's distribution is subtracted from its loss
    stale            iteration t learns from responses of the policy of iteration max(0, t - stale)
    max_draws        maximum number of batches of prompts per iteration. They are drawn until
                     batch_size responses are in groups whose scores differ; 1: the first batch is
                     used as it is
    ptx_per          what the ptx gradient is a mean over, before its coefficient. "token": tokens
                     of text, as the policy's gradient is a mean over tokens of responses.
                     "sequence": equation 2 with both expectations over sequences, that is the mean
                     over tokens x (mean tokens of a row of text / mean tokens of a response in the
                     minibatch)
    """

    policy_optimizer: OptimizerConfig
    value_optimizer: OptimizerConfig | None
    iterations: int  # iterations; each samples a batch and learns from it
    rewards: tuple[Reward, ...]
    advantage: Advantage = GAE()
    surrogate: Surrogate = PPOClip()
    aggregation: Literal["token", "sequence", "length"] = "token"
    batch_size: int = 512  # episodes per iteration
    group: int = 1
    minibatches: int = 8  # parts of a batch; each is one optimizer step
    epochs: int = 1  # passes over the batch of an iteration
    micro_batches: int = 1  # parts of a minibatch, computed one by one to save memory
    rollout_micro_batches: int = 1  # parts of a batch that are sampled one by one
    # Parts of a minibatch's pretraining text, computed one by one; None: micro_batches.
    ptx_micro_batches: int | None = None
    prompt_length: int = 1024  # maximum number of tokens; longer prompts are left out and counted
    response_length: int = 1024  # maximum number of tokens of a response
    temperature: float = 1.0  # divides the logits, in sampling and in the losses
    kl: FixedController | AdaptiveController | DoublingController = FixedController(0.02)
    kl_in: Literal["reward", "loss"] = "reward"
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    kl_gradient: Literal["right", "own"] = "right"
    entropy_coefficient: float = 0.0
    value_clip: float | None = 0.2  # most that a value may move from the old one; None: no limit
    whiten_rewards: bool = False  # scales rewards to variance 1; their mean stays
    whiten_advantages: bool = True  # scales them to mean 0, variance 1 over the batch
    zero_value_head: bool = False  # the value head starts at 0; False: with the scorer's weights
    ema_decay: float | None = 0.992  # of the moving average of the policy; None: no average
    stale: int = 0
    max_draws: int = 1
    ptx_coefficient: float = 0.0  # factor of the loss on pretraining text; 0: none
    ptx_per: Literal["token", "sequence"] = "token"  # what the ptx gradient is a mean over
    ptx_ratio: int = 8  # rows of pretraining text per episode
    ptx_length: int = 1024  # tokens per row of pretraining text
    # Names of parameters, or branches of the tree of parameters, that are trained, such as
    # ("blocks",); none: all are trained. The others stay fixed, without optimizer state.
    train_policy: tuple[str, ...] = ()
    train_value: tuple[str, ...] = ()  # parameters of the value network that are trained
    # The number of sizes to which an iteration's episodes are cut; a program is compiled for each
    # that occurs. On one device without the fused attention kernel several episodes share a row of
    # 2 x (prompt_length + response_length) tokens (of half as many, if a model's context is
    # shorter), and the number of rows is cut; otherwise the length of responses. 1: nothing is cut.
    # None: 4, or 1 where an episode has at most 64 tokens.
    buckets: int | None = dataclasses.field(default=None, kw_only=True, metadata=ADDED_LATER)
    # The form of the adapters that are trained, one on the policy and one on the value network;
    # None: the models are trained.
    lora: LoRA | None = dataclasses.field(default=None, kw_only=True, metadata=ADDED_LATER)
    # How each of the rollout_micro_batches is decoded. Its slots are those of all devices together.
    decoding: DecodingConfig = dataclasses.field(
        default=TOGETHER, kw_only=True, metadata=ADDED_LATER
    )

    def __post_init__(self):
        self._check_kinds()
        positive = (
            "iterations", "batch_size", "group", "minibatches", "epochs", "micro_batches",
            "rollout_micro_batches", "prompt_length", "response_length", "temperature", "max_draws",
            "ptx_ratio", "ptx_length",
        )  # fmt: skip
        for field in positive:
            value = getattr(self, field)
            require(value > 0, field, value, "positive")
        for field in ("train_policy", "train_value"):
            ok, value = self.lora is None or not getattr(self, field), getattr(self, field)
            require(ok, field, value, "(): with `lora`, the adapters are trained")
        for field in ("stale", "entropy_coefficient", "ptx_coefficient"):
            require(getattr(self, field) >= 0, field, getattr(self, field), ">= 0")
        clip, decay = self.value_clip, self.ema_decay
        require(clip is None or clip > 0, "value_clip", clip, "> 0")
        require(decay is None or 0 <= decay < 1, "ema_decay", decay, "in [0, 1)")
        check_buckets(self.buckets)
        self._check_rows()
        self._check_estimator()
        self._check_kl()
        steps = self.optimizer_steps
        for name in ("policy_optimizer", "value_optimizer"):
            if (optimizer := getattr(self, name)) is None:
                continue
            warmup, field = optimizer.warmup_steps, f"{name}.warmup_steps"
            require(warmup < steps, field, warmup, f"below the {steps} updates of all iterations")

    def _check_kinds(self):
        require_a(OptimizerConfig, "policy_optimizer", self.policy_optimizer)
        if self.value_optimizer is not None:
            require_a(OptimizerConfig, "value_optimizer", self.value_optimizer)
        require_a(DecodingConfig, "decoding", self.decoding)
        require_a(Advantage, "advantage", self.advantage)
        require_a(Surrogate, "surrogate", self.surrogate)
        require_a((FixedController, AdaptiveController, DoublingController), "kl", self.kl)
        ok = isinstance(self.rewards, tuple) and len(self.rewards) > 0
        require(ok, "rewards", self.rewards, "a tuple of terms, one or more")
        for number, term in enumerate(self.rewards):
            require_a(Reward, f"rewards.{number}", term)

    def _check_rows(self):
        size, pieces = self.batch_size, self.minibatches * self.micro_batches
        allowed = f"a multiple of minibatches x micro_batches = {pieces}"
        require(size % pieces == 0, "batch_size", size, allowed)
        allowed = f"a divisor of batch_size {size}"
        pieces = self.rollout_micro_batches
        require(size % pieces == 0, "rollout_micro_batches", pieces, allowed)
        require(size % self.group == 0, "group", self.group, allowed)
        rows = size // self.minibatches * self.ptx_ratio
        pieces = self.text_pieces
        ok = pieces > 0 and (self.ptx_coefficient == 0 or rows % pieces == 0)
        require(ok, "ptx_micro_batches", pieces, f"a divisor of a minibatch's {rows} rows of text")
        ways = ("token", "sequence")
        require(self.ptx_per in ways, "ptx_per", self.ptx_per, f"one of {ways}")

    def _check_estimator(self):
        """Refuses settings that contradict each other."""
        advantage = type(self.advantage).__name__
        if self.advantage.critic:
            allowed = f"an OptimizerConfig: {advantage} reads a value network"
            require(self.value_optimizer is not None, "value_optimizer", None, allowed)
        else:
            unread = (
                ("value_optimizer", self.value_optimizer, None),
                ("zero_value_head", self.zero_value_head, False),
                ("train_value", self.train_value, ()),
            )
            for field, value, idle in unread:
                allowed = f"{idle!r}: {advantage} reads no value network"
                require(value == idle, field, value, allowed)
        ok = self.group > 1 or not self.advantage.grouped
        require(ok, "group", self.group, f"2 or more: {advantage} compares responses to a prompt")
        ok = self.max_draws == 1 or self.group > 1
        require(ok, "max_draws", self.max_draws, "1: the scores of groups of one never differ")
        ways = ("token", "sequence", "length")
        require(self.aggregation in ways, "aggregation", self.aggregation, f"one of {ways}")
        ok = self.ptx_per == "token" or self.aggregation == "token"
        allowed = f"'token' where aggregation = {self.aggregation!r}"
        require(ok, "ptx_per", self.ptx_per, allowed)

    def _check_kl(self):
        if isinstance(self.kl, AdaptiveController):
            self.kl.check(self.batch_size, "kl.horizon")
        require(self.kl_in in ("reward", "loss"), "kl_in", self.kl_in, "'reward' or 'loss'")
        known = tuple(KL_ESTIMATORS)
        require(self.kl_estimator in known, "kl_estimator", self.kl_estimator, f"one of {known}")
        gradient = self.kl_gradient
        require(gradient in ("right", "own"), "kl_gradient", gradient, "'right' or 'own'")
        ok = gradient == "right" or self.kl_in == "loss"
        require(ok, "kl_gradient", gradient, "'right': the KL in the reward has no gradient")
        ok = gradient == "right" or self.kl_estimator != "k1"
        require(ok, "kl_gradient", gradient, "'right': k1's own gradient is 0 in the mean")

    @property
    def bucket_count(self) -> int:
        """Responses that wait in a queue (`stale`) have its fixed size."""
        length = self.prompt_length + self.response_length
        return 1 if self.stale else bucket_count(self.buckets, length)

    @property
    def trained_policy(self) -> tuple[str, ...]:
        """Names of the policy's trained parameters, for models/parts.py."""
        return self.train_policy if self.lora is None else TRAINED["policy"]

    @property
    def trained_value(self) -> tuple[str, ...]:
        """Names of the value network's trained parameters, for models/parts.py."""
        return self.train_value if self.lora is None else TRAINED["score"]

    @property
    def text_pieces(self) -> int:
        return self.micro_batches if self.ptx_micro_batches is None else self.ptx_micro_batches

    @property
    def optimizer_steps(self) -> int:
        return self.iterations * self.epochs * self.minibatches

    @property
    def start_share(self) -> float | None:
        """The starting policy's share of the moving average after n iterations: d^n in
        d^n start + (1 - d) sum_i d^(n-i) w_i. None without an average."""
        return None if self.ema_decay is None else self.ema_decay**self.iterations

    @property
    def average_warning(self) -> str | None:
        """A warning where the starting policy's share of the saved average is above a tenth."""
        decay, count, left = self.ema_decay, self.iterations, self.start_share
        if left is None or left <= 0.1:
            return None
        return (
            f"ema_decay = {decay}: after {count} iterations {left:.0%} of the average of weights "
            "that is saved is still the policy at the start; a smaller ema_decay, or None, leaves "
            "less of it"
        )
