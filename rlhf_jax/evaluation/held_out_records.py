"""The common part of evaluators that measure a model on held-out records up to a length."""

from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Evaluator


class HeldOutRecords(Evaluator):
    """An evaluator with the fields `length` and `batch_size` that samples no responses."""

    asks = False

    def __post_init__(self):
        super().__post_init__()
        for field in ("length", "batch_size"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")

    def check_shapes(self, build, asked):
        context = build.shapes["subject"].context
        require(self.length <= context, "length", self.length, f"<= a context of {context}")
