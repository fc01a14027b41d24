"""The common part of evaluators that measure a policy's loss of each token."""

import dataclasses
import functools
from typing import ClassVar

from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.stages.stage import Program, policy_shapes, text_shapes
from rlhf_jax.stages.supervised import token_losses


@dataclasses.dataclass(frozen=True)
class TokenLosses(Evaluator):
    """Measures a policy's losses [B, T - 1] of the tokens of held-out records.

    length      maximum number of tokens per row
    batch_size  rows per batch
    """

    asks: ClassVar = False
    length: int
    batch_size: int = 8

    def __post_init__(self):
        super().__post_init__()
        for field in ("length", "batch_size"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")

    def check_shapes(self, build, asked):
        context = build.shapes["subject"].context
        require(self.length <= context, "length", self.length, f"<= a context of {context}")

    def programs(self, build, asked):
        model = build.shapes["subject"]
        function = functools.partial(token_losses, model)
        arguments = (policy_shapes(model), text_shapes(self.batch_size, self.length))
        return {"losses": Program(function, arguments, whole=True)}
