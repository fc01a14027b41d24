"""Dialogues in Anthropic's template: HH and Nectar."""

from collections.abc import Iterator

from rlhf_jax.data.formats.item import (
    ASSISTANT,
    HUMAN,
    Format,
    Item,
    Left,
    as_written,
    compared,
    field,
    has,
    whole,
)


def read_hh(where: str, row: dict, by: str) -> Iterator[Item]:
    """{chosen, rejected}: a prompt ends with the last "\\n\\nAssistant:"."""
    sides = []
    for name in ("chosen", "rejected"):
        before, mark, response = field(where, row, name, str).rpartition(ASSISTANT)
        sides.append((as_written(where, name, before + mark), response))
    if sides[0][0] != sides[1][0]:
        raise Left("prompts differ")
    yield compared(sides[0][0], sides[0][1], sides[1][1])


def read_nectar(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, answers: [{answer, rank}]}: seven answers, ranked by GPT-4; 1 is the best rank."""
    prompt = as_written(where, "prompt", field(where, row, "prompt", str).rstrip())
    answers, ranks = [], []
    for number, each in enumerate(field(where, row, "answers", list)):
        place = f"{where}: field 'answers[{number}]'"
        answers.append(f" {field(place, each, 'answer', str)}")
        ranks.append(whole(field(place, each, "rank", (int, float))))
    if len(answers) < 2:
        raise Left("fewer than two responses")
    yield Item(prompt, tuple(answers), tuple(ranks))


def _is_hh(row) -> bool:
    return has(row, chosen=str, rejected=str) and row["chosen"].startswith(HUMAN)


FORMATS = (
    Format("Anthropic HH", lambda row: _is_hh(row) and "prompt" not in row, read_hh, ("rankings",),
           licence="MIT", called=("hhrlhf",), source="Bai et al. 2022, arXiv 2204.05862"),
    Format("Nectar", lambda row: has(row, prompt=str, answers=list), read_nectar, ("rankings",),
           licence="Apache-2.0, not to compete with OpenAI",
           source="https://huggingface.co/datasets/berkeley-nest/Nectar"),
)  # fmt: skip
