"""The gold score of a policy: the data source's grades of its responses."""

import dataclasses

import numpy as np

from rlhf_jax.evaluation.evaluator import Column, Evaluator, Measured, paired
from rlhf_jax.evaluation.statistics import Interval, bounded_difference, bounded_mean


@dataclasses.dataclass(frozen=True)
class GoldScore(Evaluator):
    """The mean grade of the responses to the test prompts, in [0, 1].

    above: pairs of stages; the findings say whether the first scores above the second, by the
    paired difference over prompts
    over: the column over which the figure draws it, such as "kl_to_sft"; None: none
    """

    above: tuple[tuple[str, str], ...] = ()
    over: str | None = None

    def columns(self):
        about = "mean grade of a response by the data source's grader"
        column = Column("gold\nscore", about, better="higher", over=self.over, range=(0, 1))
        return {self.name: column}

    def check(self, facts, grader):
        grader()

    def rows(self, subject):
        sampled, grade = subject.sampled(), subject.grader()
        pairs = zip(sampled.prompts, sampled.responses, strict=True)
        scores = [grade(prompt, response.text).score for prompt, response in pairs]
        return {"id": sampled.ids, "score": np.array(scores, np.float64)}

    def summary(self, rows, seed):
        return {self.name: bounded_mean(rows["score"], seed)}

    def parts(self, rows):
        return {self.name: (rows["score"], np.ones(len(rows["score"])))}

    def findings(self, found, seed):
        sentences = [
            self._order(better, worse, found[better], found[worse], seed)
            for better, worse in self.above
            if better in found and worse in found
        ]
        named = dict.fromkeys(stage for pair in self.above for stage in pair)
        if missing := [stage for stage in named if stage not in found]:
            sentences.append(f"Not measured, so not judged: {', '.join(missing)}.")
        return sentences

    def _order(self, better: str, worse: str, one: Measured, other: Measured, seed: int) -> str:
        a, b = one.summary[self.name], other.summary[self.name]
        difference = bounded_difference(*paired(one, other, "score"), seed)
        return order(better, worse, a, b, difference)

    def notes(self, item):
        return [(f"gold score {item['score']:.2f}", "")]


def order(better: str, worse: str, a: Interval, b: Interval, difference: Interval) -> str:
    """A sentence on whether one policy scores above another, by the paired difference."""
    apart = a.low > b.high or b.low > a.high
    figures = (
        f"{a.text()} against {b.text()}; the 95 % intervals {'do not ' * apart}overlap, "
        f"the paired difference is {difference.text('+')}."
    )
    verdict = {
        1: f"Holds: {better} scores above {worse},",
        0: f"Not sure: {better} should score above {worse}, and has",
        -1: f"Does not hold: {better} should score above {worse}, but has",
    }
    return f"{verdict[difference.side()]} {figures}"
