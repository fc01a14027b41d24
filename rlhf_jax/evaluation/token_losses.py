"""The common part of evaluators that measure a policy's loss of each token."""

import dataclasses
import functools

from rlhf_jax.evaluation.held_out_records import HeldOutRecords
from rlhf_jax.stages.stage import Program, policy_shapes, text_shapes
from rlhf_jax.stages.supervised import token_losses


@dataclasses.dataclass(frozen=True)
class TokenLosses(HeldOutRecords):
    """Measures a policy's losses [B, T - 1] of the tokens of held-out records.

    length      maximum number of tokens per row
    batch_size  rows per batch
    """

    length: int
    batch_size: int = 8

    def programs(self, build, asked):
        model = build.shapes["subject"]
        function = functools.partial(token_losses, model)
        arguments = (policy_shapes(model), text_shapes(self.batch_size, self.length))
        return {"losses": Program(function, arguments, whole=True)}
