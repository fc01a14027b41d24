"""The common part of evaluators that measure a model on held-out rankings."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, get_args

import jax
import numpy as np

from rlhf_jax.data.arrays import tokenised_ranking
from rlhf_jax.data.batches import Pass
from rlhf_jax.data.pipeline import ranking_pass
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Subject
from rlhf_jax.evaluation.held_out_records import HeldOutRecords
from rlhf_jax.evaluation.statistics import Interval, mean_interval
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.reward_models import DivideBy
from rlhf_jax.stages.stage import Need, ints, text_shapes


@dataclasses.dataclass(frozen=True)
class HeldOutRankings(HeldOutRecords):
    """Measures a model on the held-out rankings.

    rankings    the stage that collected the rankings; None: the data source has them
    length      maximum number of tokens of prompt and response; longer rankings are left out and
                counted
    outputs     maximum number of outputs of a ranking
    batch_size  rankings per batch
    divide_by   what the loss of a ranking is divided by, as in training (stages/rankings.py)
    """

    counted: ClassVar[tuple[str, ...]]  # the names that `figures` returns
    length: int
    outputs: int = 9
    batch_size: int = 8
    rankings: str | None = None
    divide_by: DivideBy = dataclasses.field(default="all_pairs", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        require(self.outputs >= 2, "outputs", self.outputs, "at least 2")
        counts = get_args(DivideBy)
        require(self.divide_by in counts, "divide_by", self.divide_by, f"one of {counts}")

    def named(self, figure: str) -> str:
        """The figure's name, with the stage that collected the rankings if there is one."""
        return figure if self.rankings is None else f"{figure}_on_{self.rankings}"

    def needs(self):
        return {} if self.rankings is None else {"rankings": Need(self.rankings, "rankings")}

    def check(self, facts, grader):
        facts.rankings("valid", self.length, self.outputs, self.rankings)

    def batch_shapes(self) -> dict:
        """Shapes of a batch: tokens, segments, weights [B, K, T] and ranks [B, K]."""
        shape = (self.batch_size, self.outputs)
        return text_shapes(*shape, self.length) | {"ranks": ints(*shape)}

    def figures(self, subject: Subject, batches: Pass) -> dict[str, np.ndarray]:
        """For each name in `counted`, one number per ranking [N], in the order of the batches. The
        numbers can be summed over rankings. N exceeds the number of rankings where the last batch
        is padded."""
        raise NotImplementedError

    def rows(self, subject):
        rankings, start, parts = list(subject.records("rankings", "valid")), 0, []
        for source, count in subject.sources("rankings", "valid").items():
            parts.append(self._of_source(subject, source, rankings[start : start + count]))
            start += count
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _of_source(self, subject, source: str, rankings: Sequence[Ranking]) -> dict:
        """One row per prompt: the sums of its rankings' figures, and the count of its rankings that
        are too long."""
        tokenizer, close = subject.tokenizer, subject.build.ending.close
        longest = lambda r: max(len(ids) for ids, _ in tokenised_ranking(r, tokenizer, close)[0])
        fits, length = self.fitting([longest(ranking) for ranking in rankings])
        prompts, of = np.unique([ranking.prompt for ranking in rankings], return_inverse=True)
        total = lambda counts, of: np.bincount(of, np.asarray(counts, float), len(prompts))
        rows = {
            "id": np.array([f"{source} {i}" for i in range(len(prompts))], dtype=object),
            "group": np.full(len(prompts), source, dtype=object),
            "over_long": total(~fits, of),
            **dict.fromkeys(self.counted, np.zeros(len(prompts))),
        }
        if not fits.any():
            return rows
        kept = [rankings[i] for i in np.flatnonzero(fits)]
        batches = ranking_pass(
            kept,
            tokenizer,
            batch_size=self.batch_size,
            length=length,
            outputs=max(len(ranking.responses) for ranking in kept),
            close=close,
        )
        figures = self.figures(subject, batches)
        return rows | {name: total(x[: fits.sum()], of[fits]) for name, x in figures.items()}


def of_each_ranking(loss: Callable) -> Callable:
    """metrics(params, batch): the metrics of a stage's loss(params, batch), computed for each
    ranking separately, {name: WeightedMean of totals and weights [B]}."""

    def one(params: Any, ranking: dict) -> Mapping[str, WeightedMean]:
        return loss(params, jax.tree.map(lambda x: x[None], ranking))[1]

    return jax.vmap(one, in_axes=(None, 0))


def joined(found: Sequence[Mapping[str, WeightedMean]]) -> Mapping[str, WeightedMean]:
    """The metrics of all batches, as NumPy arrays in float64."""
    return jax.tree.map(lambda *x: np.concatenate([np.asarray(y, float) for y in x]), *found)


def mean_of(totals: np.ndarray, weights: np.ndarray) -> Interval | float | None:
    """sum(totals) / sum(weights) over prompts; None if no prompt has weight, NaN if the model
    diverged."""
    known = weights > 0
    if not known.any():
        return None
    return mean_interval(totals[known], weights[known]) if np.isfinite(totals).all() else math.nan
