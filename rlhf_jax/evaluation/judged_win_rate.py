"""How often a judge prefers a policy's responses to another's; and win rates with the length of the
responses controlled."""

import dataclasses
import math

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.benchmarks.judges import endpoint_of, judge_of
from rlhf_jax.evaluation.evaluator import Column, same_items
from rlhf_jax.evaluation.judging.verdicts import Pair, compare
from rlhf_jax.evaluation.length_control import ABOUT, length_controlled_interval
from rlhf_jax.evaluation.paired_tests import sign_test
from rlhf_jax.evaluation.statistics import bounded_mean
from rlhf_jax.evaluation.win_rate import HALF, WinRate

SAMPLES = "samples"


@dataclasses.dataclass(frozen=True)
class LengthControlledWinRate(WinRate):
    """`WinRate`, and the win rate that would remain if both policies wrote as long
    (evaluation/length_control.py). It reads the responses of the evaluator `Samples`."""

    @property
    def name(self):
        return f"{self.of}_length_controlled_wins_vs_{self.against}"

    def reads(self):
        return (self.of, SAMPLES)

    def columns(self):
        about = (f"share of the prompts on which the response would have the higher {self._score} "
                 f"than that of {self.against} if both were as long")  # fmt: skip
        title = f"{self._score} wins\nvs {self.against},\nlength con-\ntrolled"
        return {self.name: Column(title, about, better="higher", middle=0.5, range=(0, 1))}

    def rows(self, subject):
        rows = super().rows(subject)
        return dict(rows) | _lengths(subject, self.against)

    def summary(self, rows, seed):
        if "against" not in rows:
            return {self.name: HALF}
        own, other = rows["score"], rows["against"]
        wins = (own > other) + 0.5 * (own == other)
        found = length_controlled_interval(wins, rows["length"], rows["other_length"], seed)
        return {self.name: found}

    def parts(self, rows):
        return {}

    def findings(self, found, seed):
        return [ABOUT] if found else []


@dataclasses.dataclass(frozen=True)
class JudgedWinRate(WinRate):
    """The share of the test prompts to which a judge prefers a policy's response to that of another
    stage's policy. Each pair is asked in both orders; a tie, or two orders that contradict each
    other, counts one half. It reads the responses of the evaluator `Samples`.

    judge  "URL#MODEL" of an OpenAI-compatible endpoint, with any fields of `judging.endpoint`'s
           Endpoint behind it, as in "https://api.openai.com/v1#gpt-4o,price_in=2.5,price_out=10"
    """

    of: str = SAMPLES
    judge: str = dataclasses.field(kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        endpoint_of(self.judge)

    @property
    def name(self):
        return f"judged_wins_vs_{self.against}"

    @property
    def _names(self) -> dict[str, str]:
        parts = ("length_controlled", "consistent", "prefers_first", "unread")
        return {part: f"{self.name}_{part}" for part in parts}

    def check(self, facts, grader):
        _ = endpoint_of(self.judge).secret  # that there is one

    def columns(self):
        about = f"than the response of {self.against}; a tie counts one half"
        shown = {"drawn": False, "range": (0, 1)}
        parts = {
            "length_controlled": Column(
                "judged wins,\nlength con-\ntrolled", "the judged win rate if both responses were "
                "as long", middle=0.5, better="higher", range=(0, 1),
            ),
            "consistent": Column(
                "same in\nboth orders", "share of the pairs on which the judge says the same in "
                "both orders", better="higher", **shown,
            ),
            "prefers_first": Column(
                "prefers\nthe first", "share of the verdicts for the response that stood first",
                middle=0.5, **shown,
            ),
            "unread": Column(
                "without a\nverdict", "pairs that are left out, because the judge gave no verdict",
                digits=0, drawn=False,
            ),
        }  # fmt: skip
        whole = Column(f"judged\nwins\nvs {self.against}",
                       f"share of the prompts where a judge finds the response better {about}",
                       better="higher", middle=0.5, range=(0, 1))  # fmt: skip
        return {self.name: whole} | {self._names[part]: one for part, one in parts.items()}

    def rows(self, subject):
        own = subject.rows(SAMPLES)
        if subject.stage == self.against:
            return {"id": own["id"]}
        other = subject.rows(SAMPLES, self.against)
        columns = own["prompt"], *same_items(own, other, "response")
        found = compare([Pair(*one) for one in zip(*columns, strict=True)], judge_of(self.judge))
        number = lambda value: math.nan if value is None else float(value)
        return {
            "id": own["id"],
            "win": np.array([number(one.win) for one in found]),
            "consistent": np.array([number(one.consistent) for one in found]),
            "first": np.array([float(one.first) for one in found]),
            "asked": np.array([2.0 * (one.answers != (None, None)) for one in found]),
        } | _lengths(subject, self.against)

    def summary(self, rows, seed):
        if "win" not in rows:
            return {self.name: HALF}
        known = np.isfinite(rows["win"])
        if not known.any():
            return {self._names["unread"]: int((~known).sum())}
        wins, lengths = rows["win"][known], (rows["length"][known], rows["other_length"][known])
        asked = rows["asked"].sum()
        found = {
            self.name: bounded_mean(wins, seed),
            self._names["length_controlled"]: length_controlled_interval(wins, *lengths, seed),
            self._names["consistent"]: bounded_mean(rows["consistent"][known], seed),
            self._names["unread"]: int((~known).sum()),
        }
        first = rows["first"].sum() / asked if asked else None
        return found | {self._names["prefers_first"]: first}

    def parts(self, rows):
        win = rows.get("win", np.full(len(rows["id"]), 0.5))
        return {self.name: (np.nan_to_num(win), np.isfinite(win).astype(float))}

    def findings(self, found, seed):
        sentences = []
        for stage, measured in found.items():
            if "win" not in measured.rows or self.name not in measured.summary:
                continue
            wins = measured.summary[self.name]
            test = sign_test(measured.rows["win"][np.isfinite(measured.rows["win"])])
            verdict = {1: "prefers", -1: "does not prefer", 0: "does not clearly prefer"}
            sentences.append(
                f"The judge {verdict[wins.side(0.5)]} the responses of {stage} to those of "
                f"{self.against}: {wins.text()} of the prompts (sign test over {test.n} decided "
                f"prompts: p = {test.p:.3g})."
            )
        return [*sentences, ABOUT] if sentences else []


def _lengths(subject, against: str) -> dict[str, np.ndarray]:
    """Characters of each response of the model, and of the policy `against`."""
    own, other = subject.rows(SAMPLES), subject.rows(SAMPLES, against)
    if "response" not in own:
        raise UserError(f"length control reads the evaluator {SAMPLES}: add Samples()")
    texts = same_items(own, other, "response")
    sizes = [np.array([float(len(text)) for text in column]) for column in texts]
    return {"length": sizes[0], "other_length": sizes[1]}
