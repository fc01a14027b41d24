"""How far a reward model's scores are from held-out absolute scores."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from rlhf_jax.data.pipeline import scored_pass
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.held_out_records import HeldOutRecords
from rlhf_jax.evaluation.statistics import mean_interval
from rlhf_jax.stages.reward_model import score_sequences
from rlhf_jax.stages.stage import Program, ints, score_shapes


@dataclasses.dataclass(frozen=True)
class ScoreError(HeldOutRecords):
    """The mean absolute difference between a reward model's score of a held-out response and the
    score in the data; and that of the rule that gives every response the median held-out score.

    length      the most tokens of prompt and response; longer responses are left out and counted
    batch_size  responses per batch
    """

    judges: ClassVar = "score"
    length: int
    batch_size: int = 8

    def columns(self):
        about = "mean absolute difference from the scores of held-out responses"
        return {
            "score_error": Column("score\nerror", about, better="lower", range=(0, None)),
            "score_error_of_median": Column(
                "of the\nmedian",
                f"{about}, if every response got their median",
                drawn=False,
                range=(0, None),
            ),
        }

    def check(self, facts, grader):
        facts.some("scored", "valid", "length", self.length)

    def programs(self, build, asked):
        model, shape = build.shapes["subject"], ints(self.batch_size, self.length)
        scores = lambda params, tokens, segments: score_sequences(model, params, tokens, segments)
        return {"scores": Program(scores, (score_shapes(model), shape, shape), whole=True)}

    def rows(self, subject):
        close, prompt_ids = subject.build.ending.close, subject.tokenizer.prompt_ids
        tokens = lambda r: (
            len(prompt_ids(r.prompt)) + len(close(subject.tokenizer.encode(r.response), True))
        )
        records = list(subject.records("scored", "valid"))
        fits, length = self.fitting([tokens(record) for record in records])
        kept = np.flatnonzero(fits)
        batches = scored_pass(
            [records[i] for i in kept],
            subject.tokenizer,
            batch_size=self.batch_size,
            length=length,
            close=close,
        )
        run = subject.programs["scores"]
        found = [run(subject.params, batch["tokens"], batch["segments"]) for batch in batches]
        scores = np.concatenate([np.asarray(each, float) for each in found])[: len(kept)]
        targets = np.array([records[i].score for i in kept])
        return {
            "id": np.array([f"response {i}" for i in kept]),
            "error": abs(scores - targets),
            "deviation": abs(np.median(targets) - targets),
        }

    def summary(self, rows, seed):
        return {
            name: mean_interval(totals, weights) if np.isfinite(totals).all() else math.nan
            for name, (totals, weights) in self._means(rows).items()
        }

    def parts(self, rows):
        return self._means(rows) if np.isfinite(rows["error"]).all() else {}

    def _means(self, rows) -> dict:
        ones = np.ones(len(rows["id"]))
        return {
            "score_error": (rows["error"], ones),
            "score_error_of_median": (rows["deviation"], ones),
        }
