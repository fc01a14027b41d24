"""Pairs that people compared: WebGPT, SHP, PKU-SafeRLHF, HelpSteer's preferences, PandaLM."""

from collections import Counter
from collections.abc import Iterator

from rlhf_jax.data.formats.alpaca import instruction
from rlhf_jax.data.formats.item import (
    Format,
    Item,
    Noted,
    asked,
    best_first,
    choice,
    field,
    has,
)
from rlhf_jax.data.formats.messages import dialogue, turns
from rlhf_jax.errors import RecordError

NOT_TEXT = "responses that are true or false, read as that word"


def read_webgpt(where: str, row: dict, by: str) -> Iterator[Item]:
    """{question: {full_text}, answer_0, score_0, answer_1, score_1}: equal scores are a tie."""
    question = field(where, field(where, row, "question", dict), "full_text", str)
    answers = tuple(field(where, row, f"answer_{i}", str) for i in (0, 1))
    scores = [field(where, row, f"score_{i}", (int, float)) for i in (0, 1)]
    yield Item(asked(question), answers, best_first(scores))


def read_shp(where: str, row: dict, by: str) -> Iterator[Item]:
    """{history, human_ref_A, human_ref_B, labels}: labels is 1 where people preferred A."""
    answers = tuple(field(where, row, f"human_ref_{side}", str) for side in "AB")
    ranks = choice(where, row, "labels", {1: (0, 1), 0: (1, 0)})
    yield Item(asked(field(where, row, "history", str)), answers, ranks)


def read_safe_rlhf(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, response_0, response_1, better_response_id, safer_response_id}: people compared the
    responses twice, by helpfulness ("better") and by harmlessness ("safer")."""
    answers = tuple(field(where, row, f"response_{i}", str) for i in (0, 1))
    ranks = choice(where, row, f"{by}_response_id", {0: (0, 1), 1: (1, 0), -1: (0, 0)})
    yield Item(asked(field(where, row, "prompt", str)), answers, ranks)


def read_helpsteer_preference(where: str, row: dict, by: str) -> Iterator[Item]:
    """{context: [messages], response1, response2, overall_preference}: from -3, response 1 is much
    better, to 3, response 2 is; 0 is a tie."""
    prompt = dialogue(turns(where, "context", field(where, row, "context", list)))
    answers = tuple(field(where, row, f"response{i}", str) for i in (1, 2))
    preference = field(where, row, "overall_preference", (int, float))
    yield Item(prompt, answers, best_first([-preference, preference]))


def read_pandalm(where: str, row: dict, by: str) -> Iterator[Item | Noted]:
    """{instruction, input, response1, response2, annotator1..3}: the majority of three annotators
    (0: tie, 1 or 2: the better response); three different opinions are a tie.

    Some responses are JSON booleans in the file, where a model had written "True"; they are read as
    that word.
    """
    prompt = instruction(field(where, row, "instruction", str), field(where, row, "input", str))
    answers = [field(where, row, f"response{i}", (str, bool)) for i in (1, 2)]
    yield from (Noted(NOT_TEXT) for answer in answers if isinstance(answer, bool))
    votes = Counter(field(where, row, f"annotator{n}", int) for n in (1, 2, 3))
    if not votes.keys() <= {0, 1, 2}:
        raise RecordError(f"{where}: annotators: expected 0, 1 or 2, got {sorted(votes)}")
    verdict, agreed = votes.most_common(1)[0]
    if agreed < 2:
        yield Noted("three opinions, read as a tie")
    ranks = {0: (0, 0), 1: (0, 1), 2: (1, 0)}[verdict if agreed >= 2 else 0]
    yield Item(prompt, tuple(map(str, answers)), ranks)


FORMATS = (
    Format("WebGPT comparisons",
           lambda row: has(row, question=dict, answer_0=str, answer_1=str),
           read_webgpt, ("rankings",), source="Nakano et al. 2021, arXiv 2112.09332"),
    Format("SHP", lambda row: has(row, history=str, human_ref_A=str, human_ref_B=str),
           read_shp, ("rankings",), source="Ethayarajh et al. 2022, arXiv 2110.08420"),
    Format("PKU-SafeRLHF", lambda row: has(row, prompt=str, response_0=str, response_1=str),
           read_safe_rlhf, ("rankings",), ("better", "safer"), licence="CC BY-NC 4.0",
           called=("saferlhf",),
           source="Ji et al. 2024, arXiv 2406.15513"),
    Format("HelpSteer preferences",
           lambda row: has(row, context=list, response1=str, response2=str),
           read_helpsteer_preference, ("rankings",), licence="CC BY 4.0", called=("helpsteer",),
           source="Wang et al. 2025, arXiv 2505.11475"),
    Format("PandaLM", lambda row: has(row, instruction=str, response1=(str, bool), annotator1=int),
           read_pandalm, ("rankings",), licence="Apache-2.0",
           source="Wang et al. 2023, arXiv 2306.05087"),
)  # fmt: skip
