"""What a judge says about answers, as yes or no."""

import re
from collections.abc import Sequence

from rlhf_jax.evaluation.benchmarks.model import Judge

SAID = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def verdict(answer: str | None) -> bool | None:
    """The first "yes" or "no" of a judge's answer; None where there is neither."""
    found = SAID.search(answer or "")
    return None if found is None else found[1].lower() == "yes"


def verdicts(judge: Judge, prompts: Sequence[str]) -> list[bool | None]:
    """The judge's verdict on each prompt, which asks for yes or no."""
    return [verdict(answer) for answer in judge.answers(prompts)]
