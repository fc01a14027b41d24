"""Benchmarks of reward models: a better and a worse response to each prompt."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.evaluation.benchmarks.benchmark import (
    Beside,
    Item,
    Questions,
    Row,
    continued,
)
from rlhf_jax.evaluation.benchmarks.programs import SCORES
from rlhf_jax.evaluation.calibration import brier, calibration_curve, calibration_error, correct
from rlhf_jax.evaluation.evaluator import Column


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredPairs(Questions):
    """Compares a reward model's scores of two responses. An item has the fields prompt, better,
    worse and group."""

    judges = "score"
    uses = (SCORES,)
    chat_first = True

    def solved(self, item):
        return item.fields["prompt"], item.fields["better"]

    def answered(self, items: Sequence[Item], model: Any, beside: Beside) -> list[Row]:
        before, sides = self.examples(), ("better", "worse")
        prompts = [self.prompt(item.fields["prompt"], model, before) for item in items]
        asked = [(p, continued(p, item.fields[side]))
                 for p, item in zip(prompts, items, strict=True) for side in sides]  # fmt: skip
        scores = model.scores(*zip(*asked, strict=True)).reshape(-1, 2) if asked else []
        rows = []
        for item, (better, worse) in zip(items, scores, strict=True):
            margin = float(better - worse)
            fields, size = item.fields, np.array([margin])
            rows.append({
                "id": item.id,
                "group": fields["group"],
                "prompt": fields["prompt"],
                "expected": fields["better"],
                "answer": fields["better"] if margin > 0 else fields["worse"],
                "scores": [float(better), float(worse)],
                "margin": margin,
                "brier": float(brier(size)[0]),
                "score": float(correct(size)[0]),
            })  # fmt: skip
        return rows

    def columns(self):
        name = self.called
        return {
            name: Column(
                self.title, "share of the pairs of which the better response scores higher",
                percent=True, better="higher", middle=0.5,
            ),
            f"{name}_brier": Column(
                "Brier score",
                "mean (1 - p)^2 of the better response's probability p = sigmoid(difference of "
                "scores); 0.25 without an opinion",
                better="lower", range=(0, 1), drawn=False,
            ),
            f"{name}_calibration_error": Column(
                "calibration error",
                "mean distance of the share of right pairs from the probability, in ten bins of it",
                better="lower", range=(0, 1), drawn=False,
            ),
        }  # fmt: skip

    def means(self):
        return {self.called: "score", f"{self.called}_brier": "brier"}

    def summary(self, rows, seed):
        error = calibration_error(calibration_curve(rows["margin"], seed=seed))
        return super().summary(rows, seed) | {f"{self.called}_calibration_error": error}

    def chance(self, rows):
        return {self.called: 0.5}
