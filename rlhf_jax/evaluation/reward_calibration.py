"""How sure a reward model is of held-out pairs, and how often it is right when it is so sure."""

import dataclasses
import functools
from html import escape
from typing import ClassVar

import numpy as np

from rlhf_jax.errors import require
from rlhf_jax.evaluation.calibration import brier, correct, probability
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.held_out_rankings import HeldOutRankings
from rlhf_jax.evaluation.statistics import ratio_interval
from rlhf_jax.stages.reward_model import score_sequences
from rlhf_jax.stages.stage import Program, score_shapes

BINS = 10
PARTS = ("pairs", "right", "sure")


@dataclasses.dataclass(frozen=True)
class RewardCalibration(HeldOutRankings):
    """The Brier score of a reward model on the untied pairs of held-out rankings, and the distance
    of the share of right pairs from its probability sigmoid(|difference of scores|), in ten bins of
    it (evaluation/calibration.py). The report's page shows the bins: agreement by margin."""

    judges: ClassVar = "score"
    counted: ClassVar = ("brier", "pairs", *(f"{part}_{n}" for n in range(BINS) for part in PARTS))

    @property
    def name(self):
        return self.named("calibration")

    def columns(self):
        return {
            self.named("brier"): Column(
                "Brier score", "mean (1 - p)^2 of held-out pairs, p the model's probability of the "
                "better output; 0.25 without an opinion",
                better="lower", range=(0, 1), drawn=False,
            ),
            self.named("calibration_error"): Column(
                "calibration error", "mean distance of the share of right pairs from the "
                "probability, in ten bins of it",
                better="lower", range=(0, 1), drawn=False,
            ),
        }  # fmt: skip

    def programs(self, build, asked):
        model = build.shapes["subject"]
        shapes = self.batch_shapes()
        score = functools.partial(score_sequences, model)
        arguments = (score_shapes(model), shapes["tokens"], shapes["segments"])
        return {"scores": Program(score, arguments, whole=True)}

    def figures(self, subject, batches):
        """Sums over the untied pairs of each ranking: of the Brier score, of pairs; and by bin of
        the probability: pairs, right ones, and probabilities."""
        run, found = subject.programs["scores"], []
        for batch in batches:
            scores = np.asarray(run(subject.params, batch["tokens"], batch["segments"]), np.float64)
            ranks = np.asarray(batch["ranks"])
            require(bool(np.isfinite(scores).all()), "scores", "not finite", "finite")
            found += [pair_sums(*row) for row in zip(scores, ranks, strict=True)]
        return {name: np.array([row[name] for row in found]) for name in self.counted}

    def summary(self, rows, seed):
        pairs = rows["pairs"]
        if not pairs.any():
            return {self.named("brier"): None, self.named("calibration_error"): None}
        curve = [[rows[f"{part}_{n}"].sum() for part in PARTS] for n in range(BINS)]
        apart = sum(abs(right - sure) for _, right, sure in curve)
        return {
            self.named("brier"): ratio_interval(rows["brier"], pairs, seed),
            self.named("calibration_error"): float(apart / pairs.sum()),
        }

    def parts(self, rows):
        return {self.named("brier"): (rows["brier"], rows["pairs"])}

    def section(self, found, others):
        shown = ""
        for stage, measured in found.items():
            rows, lines = measured.rows, ""
            for n in range(BINS):
                pairs, right, sure = (rows[f"{part}_{n}"] for part in PARTS)
                if not pairs.any():
                    continue
                share = ratio_interval(right, pairs, 0).text()
                lines += (f"<tr><td>{sure.sum() / pairs.sum():.3f}</td><td>{share}</td>"
                          f"<td>{int(pairs.sum())}</td></tr>")  # fmt: skip
            head = "<tr><th>probability</th><th>right</th><th>pairs</th></tr>"
            shown += f"<h3>{escape(stage)}</h3><table><thead>{head}</thead>"
            shown += f"<tbody>{lines}</tbody></table>"
        return f"<h2>Calibration of reward models</h2>\n{shown}" if shown else ""


def pair_sums(scores: np.ndarray, ranks: np.ndarray) -> dict[str, float]:
    """The sums of one ranking, by their names in `counted`; ranks [K], -1 where there is no
    output."""
    better, worse = np.nonzero((ranks[:, None] < ranks[None]) & (ranks[:, None] >= 0))
    margins = scores[better] - scores[worse]
    sure, right = probability(np.abs(margins)), correct(margins)
    place = np.minimum(BINS - 1, ((sure - 0.5) * 2 * BINS).astype(int))
    found = {"brier": float(brier(margins).sum()), "pairs": float(len(margins))}
    for n in range(BINS):
        own = place == n
        sums = float(own.sum()), float(right[own].sum()), float(sure[own].sum())
        found |= {f"{part}_{n}": value for part, value in zip(PARTS, sums, strict=True)}
    return found
