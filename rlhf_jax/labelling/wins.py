"""`rlhf-jax label wins`: how often people prefer the outputs of one model to those of another."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.evaluation.paired_tests import sign_test
from rlhf_jax.evaluation.statistics import Interval, bounded_mean
from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.export import files
from rlhf_jax.strict_json import read_json

EXPORTED = "answers.json"


class Wins(NamedTuple):
    """The win rate of a model against another, by people's rankings.

    rate         the mean over prompts of the share of comparisons that it wins, a tie one half,
                 with its 95 % interval over prompts
    prompts      how many both models answered
    comparisons  a labeler's view of an output of each
    ties         the share of them that tie
    p            of the sign test over prompts; a prompt is won by the model with most wins
    """

    model: str
    against: str
    rate: Interval
    prompts: int
    comparisons: int
    ties: float
    p: float

    def text(self) -> str:
        """One line."""
        return (
            f"{self.model} against {self.against}: {self.rate.text()} of {self.prompts} prompts "
            f"({self.comparisons} comparisons, {100 * self.ties:.0f} % ties; sign test "
            f"p = {self.p:.2g})"
        )


def answers_of(folder: Path, database: Database | None = None) -> list[Mapping[str, Any]]:
    """The exported answers of a folder, answers.json; or those that are in a database now.

    Raises UserError where there is none, or RecordError where one is malformed.
    """
    if database is not None:
        content = files(database).content.get(EXPORTED, b"[]")
        return json.loads(content)
    path = folder / EXPORTED
    found = read_json(path)
    if not isinstance(found, list):
        raise RecordError(f"{path}: expected a list of answers, got {type(found).__name__}")
    for number, answer in enumerate(found):
        if (why := _wrong(answer)) is not None:
            raise RecordError(f"{path}: answer {number}: {why}")
    return found


def _wrong(answer: Any) -> str | None:
    """What is wrong with an exported answer; None: nothing."""
    if not isinstance(answer, dict) or not {"task", "state", "prompt", "gold"} <= answer.keys():
        return "expected an object with task, state, prompt and gold, as label export writes it"
    if not _ranks(answer):
        return None
    outputs, ranks = answer.get("outputs"), answer.get("ranks")
    ok = isinstance(outputs, list) and isinstance(ranks, list) and len(outputs) == len(ranks)
    whole = lambda rank: isinstance(rank, int) and not isinstance(rank, bool)
    if not ok or not all(map(whole, ranks)):
        return "expected a rank for each of its outputs, a whole number"
    origins = [output.get("origins") if isinstance(output, dict) else None for output in outputs]
    if not all(isinstance(names, list) for names in origins) or not all(
        isinstance(name, str) for names in origins for name in names
    ):
        return "expected outputs with origins, a list of names"
    return None


def _ranks(answer: Mapping[str, Any]) -> bool:
    """Whether it ranks outputs whose order is not known beforehand."""
    return answer["task"] == "rank" and answer["state"] == "answered" and answer["gold"] is None


def win_rates(answers: Sequence[Mapping[str, Any]], against: str | None = None) -> list[Wins]:
    """The win rate of each model against `against`, or of each pair of models.

    A comparison is a labeler's view of an output of each model: 1 if the first has the lower rank,
    0.5 if both tie or are one text that both models gave, else 0. Each prompt counts as one value,
    the mean of its comparisons, whoever made them.

    Raises UserError where no ranking has outputs of two models, or `against` has no output.
    """
    seen = [answer for answer in answers if _ranks(answer)]
    models = sorted({name for a in seen for output in a["outputs"] for name in output["origins"]})
    if len(models) < 2:
        raise UserError(f"no ranking compares two models: the outputs are of "
                        f"{', '.join(models) or 'none that is named'}")  # fmt: skip
    require(against is None or against in models, "against", against, f"of {', '.join(models)}")
    pairs = [(model, against) for model in models if model != against]
    if against is None:
        pairs = list(itertools.combinations(models, 2))
    found = [_wins(seen, *pair) for pair in pairs]
    if not any(found):
        raise UserError("no prompt has outputs of two models")
    return [wins for wins in found if wins is not None]


def _wins(answers: Sequence[Mapping[str, Any]], model: str, against: str) -> Wins | None:
    """None: no prompt has outputs of both."""
    by_prompt: dict[str, list[float]] = {}
    for answer in answers:
        outputs, ranks = answer["outputs"], answer["ranks"]
        for i, j in itertools.product(range(len(outputs)), repeat=2):
            if model in outputs[i]["origins"] and against in outputs[j]["origins"]:
                won = (1 + np.sign(ranks[j] - ranks[i])) / 2
                by_prompt.setdefault(json.dumps(answer["prompt"]), []).append(float(won))
    if not by_prompt:
        return None
    shares = np.array([np.mean(values) for values in by_prompt.values()])
    every = np.concatenate([*by_prompt.values()])
    return Wins(model, against, bounded_mean(shares), len(shares), len(every),
                float((every == 0.5).mean()), sign_test(shares).p)  # fmt: skip


def as_json(found: Sequence[Wins]) -> list[dict[str, Any]]:
    """The fields of each, as JSON values."""
    return [wins._asdict() | {"rate": wins.rate.as_json()} for wins in found]
