"""The common part of evaluators that measure a model on held-out records up to a length."""

from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.buckets import bucket_count, bucket_for
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

    def fitting(self, lengths: Sequence[int]) -> tuple[np.ndarray, int]:
        """(whether each record of so many tokens fits `length`, the tokens of a row): rows are cut
        to the smallest default bucket that holds all that fit."""
        lengths = np.asarray(lengths, int)
        fits = lengths <= self.length
        longest = lengths[fits].max(initial=1)
        return fits, bucket_for(longest, self.length, bucket_count(None, self.length))
