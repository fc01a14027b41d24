"""RewardBench 2: the best of four responses, and its rule for questions with several right ones."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.data.formats import files
from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.benchmarks.benchmark import Beside, Item, Questions, Row, continued
from rlhf_jax.evaluation.benchmarks.choices import chosen
from rlhf_jax.evaluation.benchmarks.files import checked
from rlhf_jax.evaluation.benchmarks.programs import SCORES
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.statistics import bounded_mean

FILE = "reward-bench-2/data/test-00000-of-00001.parquet"
TIES = "Ties"
PARTS = ("Factuality", "Precise IF", "Math", "Safety", "Focus", TIES)
WEIGHTS = {"tied": 0.3, "single": 0.3, "apart": 0.2, "apart_hard": 0.2, "margin": 0.01}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardBench2(Questions):
    """The share of prompts of which a reward model scores the right one of four responses highest,
    and the score of the part Ties (`ties_score`); the mean over the six parts.

    The published Parquet file has a row for each prompt; id, prompt, chosen, rejected and subset
    are read; `chosen` and `rejected` are lists.
    """

    judges = "score"
    uses = (SCORES,)
    chat_first = True
    called = "reward_bench_2"
    title = "RewardBench 2"
    licence = "ODC-BY"
    source = "Malik et al. 2025 (arXiv 2506.01937)"
    files = (FILE,)

    def items(self):
        (path,) = self.paths()
        fields = {"id": str, "prompt": str, "chosen": list, "rejected": list, "subset": str}
        found = []
        for where, row in files.rows(str(path), path):
            record = {name: checked(where, row, fields)[name] for name in fields}
            for name in ("chosen", "rejected"):
                texts = record[name]
                if not texts or not all(isinstance(text, str) for text in texts):
                    raise RecordError(f"{where}: field {name!r}: expected texts, at least one")
            tied = record["subset"] == TIES
            if tied and not _tied_id(record["id"])[0]:
                raise RecordError(f"{where}: field 'id': expected ref:N or tied:N in the part "
                                  f"{TIES}, got {record['id']!r:.40}")  # fmt: skip
            if not tied and len(record["chosen"]) > 1:
                raise RecordError(f"{where}: field 'chosen': expected one text outside of {TIES}")
            found.append(Item(f"{record['subset']} {record['id']}", record, record["prompt"]))
        return found

    def solved(self, item):
        return item.fields["prompt"], item.fields["chosen"][0]

    def answered(self, items: Sequence[Item], model: Any, beside: Beside) -> list[Row]:
        rows, before = [], self.examples()
        for item in items:
            of = item.fields
            texts, prompt = (
                [*of["chosen"], *of["rejected"]],
                self.prompt(of["prompt"], model, before),
            )
            replies = [continued(prompt, text) for text in texts]
            scores = model.scores([prompt] * len(texts), replies).tolist()
            tied, right = of["subset"] == TIES, scores[: len(of["chosen"])]
            wrong = scores[len(right) :]
            rows.append({
                "id": item.id,
                "group": of["subset"],
                "prompt": of["prompt"],
                "expected": texts[0],
                "answer": texts[int(np.argmax(scores))],
                "scores": scores,
                "score": float(min(right) > max(wrong)) if tied else chosen(scores, 0),
                "pair": of["id"] if tied else "",
                "right_spread": max(right) - min(right),
                "gap": min(right) - max(wrong),
            })  # fmt: skip
        return rows

    def columns(self):
        name = self.called
        about = "mean over the parts: share of prompts whose right response scores highest (ties " \
                "share it); for Ties, its score of accuracy and margins"  # fmt: skip
        return {
            name: Column(self.title, about, percent=True, better="higher"),
            f"{name}_best_of_4": Column(
                "best of 4", "share of prompts whose right response has the highest of four scores",
                percent=True, better="higher", middle=0.25, drawn=False,
            ),
            f"{name}_ties": Column(
                "Ties", "0.3 accuracy with several right answers + 0.3 with one + 0.2 + 0.2 shares "
                "of prompts whose right answers differ less than right from wrong + 0.01 margin",
                better="higher", drawn=False, range=(-0.01, 1.01),
            ),
        }  # fmt: skip

    def means(self):
        return {f"{self.called}_best_of_4": "score"}

    def summary(self, rows, seed):
        tied = rows["group"] == TIES
        parts = {str(part): float(rows["score"][rows["group"] == part].mean())
                 for part in dict.fromkeys(rows["group"][~tied])}  # fmt: skip
        found = {}
        if parts:
            found[f"{self.called}_best_of_4"] = bounded_mean(rows["score"][~tied], seed)
        if tied.any():
            parts[TIES] = ties_score(rows["pair"][tied], rows["right_spread"][tied],
                                     rows["gap"][tied])["score"]  # fmt: skip
            found[f"{self.called}_ties"] = parts[TIES]
        return {self.called: sum(parts.values()) / len(parts)} | found

    def parts(self, rows):
        return {f"{self.called}_best_of_4": (rows["score"], (rows["group"] != TIES).astype(float))}


def _tied_id(name: str) -> tuple[str, str]:
    """(ref or tied, the prompt's number) of an id "ref:3" or "tied:3"; ("", "") of any other."""
    kind, _, number = name.partition(":")
    return (kind, number) if kind in ("ref", "tied") and number else ("", "")


def ties_score(
    ids: Sequence[str], right_spread: Sequence[float], gap: Sequence[float]
) -> Mapping[str, float]:
    """The score of RewardBench 2's part Ties.

    A question stands there with one right answer ("ref:N") and with several ("tied:N"). With
    s = the spread of the right answers' scores of "tied:N", and g = min right - max wrong of each,
    score = 0.3 [g_tied > 0] + 0.3 [g_ref > 0] + 0.2 [g_tied > s] + 0.2 [min(g_tied, g_ref) > s]
    + 0.01 tanh(min(g_tied, g_ref) / s - 1), each the mean over the questions that have it; the last
    term is 0 where it is 0 / 0.
    Source: Malik et al. (2025), arXiv 2506.01937, and the code that it names.
    """
    ref, tied = {}, {}
    for name, spread, apart in zip(ids, right_spread, gap, strict=True):
        kind, number = _tied_id(name)
        (ref if kind == "ref" else tied)[number] = (spread, apart)
    mean = lambda values: float(np.mean(values)) if len(values) else 0.0
    both = [(tied[n][0], tied[n][1], ref[n][1]) for n in tied if n in ref]
    found = {
        "tied": mean([apart > 0 for _, apart in tied.values()]),
        "single": mean([apart > 0 for _, apart in ref.values()]),
        "apart": mean([own > s for s, own, _ in both]),
        "apart_hard": mean([min(own, other) > s for s, own, other in both]),
        "margin": mean([_margin(min(own, other), s) for s, own, other in both]),
    }
    return found | {"score": sum(weight * found[name] for name, weight in WEIGHTS.items())}


def _margin(gap: float, spread: float) -> float:
    if spread == 0:
        return math.copysign(1.0, gap) if gap else 0.0
    return math.tanh(gap / spread - 1)
