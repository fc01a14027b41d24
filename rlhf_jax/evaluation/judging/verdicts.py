"""What a judge says of two answers: its question, its verdict, and both orders as one result.

A judge that prefers the first answer whatever stands there has a position bias; so each pair is
asked in both orders (Zheng et al. 2023, arXiv 2306.05685, section 3.4).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rlhf_jax.errors import UserError

FIRST, SECOND, TIE = 1, -1, 0
_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_BARE = re.compile(r"^\W*(?:verdict|answer)?\W*([ABC])\W*$", re.IGNORECASE)
QUESTION = """\
Below are an instruction and two answers to it. Decide which answer is better: it follows the \
instruction, and it is helpful, true and harmless. Neither the order of the answers nor their \
length should matter. Explain your reasons in a few sentences. Then end with one of these \
verdicts, in double brackets: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if \
they are equally good.

<instruction>
{prompt}
</instruction>

<answer_A>
{first}
</answer_A>

<answer_B>
{second}
</answer_B>"""


class Judge(Protocol):
    """`benchmarks.model.Judge`."""

    def answers(self, prompts: Sequence[str]) -> list[str | None]:
        """The judge's answer to each prompt; None where it gave none."""


class Pair(NamedTuple):
    """Two responses to one prompt."""

    prompt: str
    one: str
    other: str


class Judged(NamedTuple):
    """The judge's verdicts on one pair.

    win         1 where `one` is better, 0 where `other` is, 0.5 for a tie or where the two orders
                contradict each other; None where a verdict cannot be read
    consistent  whether both orders gave the same verdict; None where one cannot be read
    first       how many of the two verdicts, 0 to 2, preferred the answer that stood first
    answers     the judge's words: (`one` first, `other` first)
    """

    win: float | None
    consistent: bool | None
    first: int
    answers: tuple[str | None, str | None]


def question(prompt: str, first: str, second: str) -> str:
    """What the judge is asked. Answers cannot end their own marks."""
    part = lambda text: re.sub(r"<(/?(?:instruction|answer_[AB]))>", r"< \1 >", text.strip())
    # One pass: a brace in an answer is text.
    return QUESTION.format(prompt=part(prompt), first=part(first), second=part(second))


def verdict_of(answer: str | None) -> int | None:
    """1 for [[A]], -1 for [[B]], 0 for [[C]]: the last one in the answer. An answer that is a bare
    letter counts too. None where there is no verdict."""
    found = _VERDICT.findall(answer or "")
    if not found and (bare := _BARE.match(answer or "")):
        found = [bare.group(1).upper()]
    return {"A": FIRST, "B": SECOND, "C": TIE}[found[-1]] if found else None


def compare(pairs: Sequence[Pair], judge: Judge) -> list[Judged]:
    """The judge's verdict on each pair, asked in both orders. Equal responses tie unasked.

    Raises UserError where not one verdict of several can be read.
    """
    asked = [pair for pair in pairs if pair.one.strip() != pair.other.strip()]
    questions = [question(p.prompt, *order) for p in asked
                 for order in ((p.one, p.other), (p.other, p.one))]  # fmt: skip
    answers = iter(judge.answers(questions) if questions else ())
    found = []
    for pair in pairs:
        if pair.one.strip() == pair.other.strip():
            found.append(Judged(0.5, True, 0, (None, None)))
        else:
            found.append(_judged(next(answers), next(answers)))
    unread = [one for one in found if one.win is None]
    if len(unread) > 1 and len(unread) == len(asked):
        told = repr(" ".join(str(unread[0].answers[0]).split())[:80])
        raise UserError(f"the judge gave no verdict on any of {len(asked)} pairs: expected [[A]], "
                        f"[[B]] or [[C]], got {told}")  # fmt: skip
    return found


def _judged(straight: str | None, turned: str | None) -> Judged:
    one, other = verdict_of(straight), verdict_of(turned)
    first = (one == FIRST) + (other == FIRST)
    if one is None or other is None:
        return Judged(None, None, first, (straight, turned))
    other = -other  # as a verdict on `one` against `other`
    win = (1 + one) / 2 if one == other else 0.5
    return Judged(win, one == other, first, (straight, turned))
