"""How often a policy's responses beat another's."""

import dataclasses

import numpy as np

from rlhf_jax.evaluation.evaluator import Column, Evaluator, same_items
from rlhf_jax.evaluation.statistics import Interval, win_rate
from rlhf_jax.stages.stage import Need

HALF = Interval(0.5, 0.5, 0.5)  # the win rate of a policy against itself, by definition


@dataclasses.dataclass(frozen=True)
class WinRate(Evaluator):
    """The share of the test prompts to which a policy's response scores above the response of
    another stage's policy; a tie counts one half.

    against  the stage of the other policy
    of       the name of the evaluator whose rows have the scores
    told     stages whose win rates are among the findings
    """

    against: str
    of: str = "gold_score"
    told: tuple[str, ...] = ()

    @property
    def name(self):
        return f"{self.of}_wins_vs_{self.against}"

    def needs(self):
        return {"against": Need(self.against, "policy")}

    def reads(self):
        return (self.of,)

    def columns(self):
        about = (
            f"share of the prompts where the response has a higher {self._score} than the response "
            f"of {self.against}; a tie counts one half"
        )
        title = f"{self._score}\nwins\nvs {self.against}"
        return {self.name: Column(title, about, better="higher", middle=0.5, range=(0, 1))}

    def rows(self, subject):
        own = subject.rows(self.of)
        rows = {"id": own["id"], "score": own["score"]}
        if subject.stage != self.against:
            other = subject.rows(self.of, self.against)
            rows["against"] = same_items(own, other, "score")[1]
        return rows

    def summary(self, rows, seed):
        if "against" not in rows:
            return {self.name: HALF}
        return {self.name: win_rate(rows["score"], rows["against"], seed)}

    def parts(self, rows):
        own, other = rows["score"], rows.get("against", rows["score"])
        return {self.name: ((own > other) + 0.5 * (own == other), np.ones(len(own)))}

    def findings(self, found, seed):
        return [self._moved(stage, found[stage].summary) for stage in self.told if stage in found]

    def _moved(self, stage: str, summary) -> str:
        wins = summary[self.name]
        verdict = {1: "raised", -1: "lowered", 0: "did not clearly change"}[wins.side(0.5)]
        return (
            f"{stage} {verdict} the {self._score}: its responses beat those of {self.against} on "
            f"{wins.text()} of the prompts."
        )

    @property
    def _score(self) -> str:
        return self.of.replace("_", " ")
