"""Responses with absolute scores: HelpSteer and UltraFeedback."""

import re
from collections.abc import Iterator

from rlhf_jax.data.formats.item import (
    Dialogue,
    Format,
    Item,
    Left,
    asked,
    best_first,
    field,
    has,
)
from rlhf_jax.data.messages import Message

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ULTRAFEEDBACK = ("aspects", "overall_score", "fine-grained_score")
TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")


def read_helpsteer(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, response, helpfulness, ...}: each from 0 to 4. In a prompt of several turns
    "<extra_id_1>" marks them."""
    first, *more = TURN.split(field(where, row, "prompt", str))
    turns = [Message("user", first.strip())]
    for role, text in zip(more[::2], more[1::2], strict=True):
        turns.append(Message(role.lower(), text.strip()))
    if turns[-1] == Message("assistant", ""):  # the mark before the response
        turns.pop()
    if turns[-1].role != "user" or not turns[-1].content:
        raise Left("no user's turn before the response")
    response = field(where, row, "response", str)
    score = field(where, row, by, (int, float))
    yield Item(Dialogue(tuple(turns)), (response,), scores=(score,))


def read_ultrafeedback(where: str, row: dict, by: str) -> Iterator[Item | Left]:
    """{instruction, completions: [{response, annotations, overall_score}]}: up to four responses
    that GPT-4 scored. "aspects" is the mean of its ratings of four aspects; in the published file
    some overall scores are wrong (10 in place of 1).

    A response without a score is left out; a single one left is scored, not ranked.
    """
    answers, scores = [], []
    for number, each in enumerate(field(where, row, "completions", list)):
        place = f"{where}: field 'completions[{number}]'"
        score = _score(place, each, by)
        if score is None:
            yield Left(f"a response without {by}")
            continue
        answers.append(field(place, each, "response", str))
        scores.append(score)
    if answers:
        ranks = best_first(scores) if len(answers) > 1 else None
        prompt = asked(field(where, row, "instruction", str))
        yield Item(prompt, tuple(answers), ranks, tuple(scores))


def _score(place: str, completion: dict, by: str) -> float | None:
    if by != "aspects":
        found = completion.get(by)
        return None if found is None else field(place, completion, by, (int, float))
    aspects = field(place, completion, "annotations", dict).values()
    ratings = [float(each["Rating"]) for each in aspects
               if has(each, Rating=str) and each["Rating"].isdecimal()]  # fmt: skip
    return sum(ratings) / len(ratings) if ratings else None


FORMATS = (
    Format("HelpSteer",
           lambda row: has(row, prompt=str, response=str, helpfulness=(int, float)),
           read_helpsteer, ("scored",), HELPSTEER, licence="CC BY 4.0",
           source="Wang et al. 2023, arXiv 2311.09528"),
    Format("UltraFeedback", lambda row: has(row, instruction=str, completions=list),
           read_ultrafeedback, ("rankings", "scored"), ULTRAFEEDBACK, licence="MIT",
           source="Cui et al. 2023, arXiv 2310.01377"),
)  # fmt: skip
