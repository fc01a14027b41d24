"""Problems with right answers, and benchmarks: GSM8K, TruthfulQA, LLMBar, HHH, MT-Bench, HumanEval.

All but GSM8K are published to evaluate models, so they count as test sets.
"""

import re
from collections.abc import Iterator

from rlhf_jax.data.formats.item import Format, Item, Left, asked, choice, compared, field, has
from rlhf_jax.errors import RecordError

# The HHH pairs are in the prompt of a judge.
JUDGED = re.compile(
    r"###The instruction to evaluate:\n(?P<prompt>.*?)\n\n"
    r"###Response to evaluate:\n(?P<response>.*?)\n\n###Score Rubrics:",
    re.DOTALL,
)


def read_gsm8k(where: str, row: dict, by: str) -> Iterator[Item]:
    """{question, answer}: the answer is a solution that ends with "#### 42"."""
    answer = field(where, row, "answer", str)
    yield Item(asked(field(where, row, "question", str)), (answer,), fields={"answer": answer})


def read_truthfulqa(where: str, row: dict, by: str) -> Iterator[Item]:
    """{Question, Best Answer, Best Incorrect Answer} of the table."""
    answers = (field(where, row, name, str) for name in ("Best Answer", "Best Incorrect Answer"))
    yield compared(asked(field(where, row, "Question", str)), *answers)


def read_choices(where: str, row: dict, by: str) -> Iterator[Item]:
    """{question, mc1_targets: {answer: 1 or 0}}: a ranking of the right and the wrong answers."""
    targets = field(where, row, f"{by}_targets", dict)
    if len(targets) < 2:
        raise Left("fewer than two responses")
    ranks = tuple(choice(where, targets, answer, {1: 0, 0: 1}) for answer in targets)
    yield Item(asked(field(where, row, "question", str)), tuple(targets), ranks)


def read_llmbar(where: str, row: dict, by: str) -> Iterator[Item]:
    """{input, output_1, output_2, label}: label is the number of the better output."""
    answers = tuple(field(where, row, f"output_{i}", str) for i in (1, 2))
    ranks = choice(where, row, "label", {1: (0, 1), 2: (1, 0)})
    yield Item(asked(field(where, row, "input", str)), answers, ranks)


def read_hhh(where: str, row: dict, by: str) -> Iterator[Item]:
    """{chosen_instruction, rejected_instruction}: a judge's prompts about two responses."""
    found = []
    for name in ("chosen_instruction", "rejected_instruction"):
        parts = JUDGED.search(field(where, row, name, str))
        if parts is None:
            raise RecordError(f"{where}: field {name!r}: expected an instruction and a response to "
                              f"evaluate, got {row[name]!r:.60}")  # fmt: skip
        found.append(parts)
    if found[0]["prompt"] != found[1]["prompt"]:
        raise Left("prompts differ")
    yield compared(asked(found[0]["prompt"]), found[0]["response"], found[1]["response"])


def read_mt_bench(where: str, row: dict, by: str) -> Iterator[Item]:
    """{turns: [text, ...]}: the first is a prompt, and all of them are its field `turns`."""
    turns = field(where, row, "turns", list)
    if not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise RecordError(f"{where}: field 'turns': expected texts, got {turns!r:.60}")
    yield Item(asked(turns[0]), fields={"turns": turns})


def read_humaneval(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, canonical_solution, test, entry_point}: code, which no template changes."""
    tests = {name: field(where, row, name, str) for name in ("test", "entry_point")}
    prompt, solution = (field(where, row, name, str) for name in ("prompt", "canonical_solution"))
    yield Item(prompt, (solution,), fields=tests)


TRUTHFULQA = "Lin et al. 2021, arXiv 2109.07958"
FORMATS = (
    Format("GSM8K", lambda row: has(row, question=str, answer=str) and "#### " in row["answer"],
           read_gsm8k, ("demonstrations", "prompts"), licence="MIT",
           source="Cobbe et al. 2021, arXiv 2110.14168"),
    Format("TruthfulQA", lambda row: has(row, Question=str, **{"Best Incorrect Answer": str}),
           read_truthfulqa, ("rankings",), licence="Apache-2.0", test=True, source=TRUTHFULQA),
    Format("TruthfulQA choices", lambda row: has(row, question=str, mc1_targets=dict),
           read_choices, ("rankings",), ("mc1", "mc2", "mc0"), licence="Apache-2.0",
           called=("truthfulqa",), test=True, source=TRUTHFULQA),
    Format("LLMBar", lambda row: has(row, input=str, output_1=str, output_2=str),
           read_llmbar, ("rankings",), licence="MIT", test=True,
           source="Zeng et al. 2023, arXiv 2310.07641"),
    Format("HHH", lambda row: has(row, chosen_instruction=str, rejected_instruction=str),
           read_hhh, ("rankings",), licence="Apache-2.0", test=True,
           source="Askell et al. 2021, arXiv 2112.00861"),
    Format("MT-Bench questions", lambda row: has(row, turns=list), read_mt_bench, ("prompts",),
           licence="Apache-2.0", called=("mtbench",), test=True,
           source="Zheng et al. 2023, arXiv 2306.05685"),
    Format("HumanEval", lambda row: has(row, prompt=str, canonical_solution=str),
           read_humaneval, ("demonstrations",), licence="MIT", test=True,
           source="Chen et al. 2021, arXiv 2107.03374"),
)  # fmt: skip
