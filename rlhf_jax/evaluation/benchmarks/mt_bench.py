"""MT-Bench: questions in two turns, rated by a judge."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from rlhf_jax.errors import RecordError, require
from rlhf_jax.evaluation.benchmarks.benchmark import Answers, Beside, Item, Row
from rlhf_jax.evaluation.benchmarks.files import checked, read_jsonl
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.graders.ratings import rating

QUESTIONS = "mt_bench/question.jsonl"
JUDGE = "mt_bench/judge_prompts.jsonl"
REFERENCES = "mt_bench/reference_answer/gpt-4.jsonl"
WITH_REFERENCE = ("math", "reasoning", "coding")  # categories that are judged beside an answer
SLOT = re.compile(r"\{(question|answer|question_1|question_2|answer_1|answer_2|"
                  r"ref_answer_1|ref_answer_2)\}")  # fmt: skip
NAMES = {(False, 1): "single-v1", (True, 1): "single-math-v1",
         (False, 2): "single-v1-multi-turn", (True, 2): "single-math-v1-multi-turn"}  # fmt: skip


def to_judge(template: Mapping[str, str], texts: Mapping[str, str]) -> str:
    """What the judge is asked: the data set's system prompt, and its template with the texts."""
    filled = SLOT.sub(lambda slot: texts[slot[1]], template["prompt_template"])
    return f"{template['system_prompt'].strip()}\n\n{filled}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MTBench(Answers):
    """The mean rating, 1 to 10, that a judge gives the answers to 80 questions with two turns.

    The judge reads the data set's own prompts for single answers, with a reference answer for
    mathematics, reasoning and coding. An answer without a rating in the judge's words is left out,
    and the share of such answers is a column.
    """

    called = "mt_bench"
    title = "MT-Bench"
    licence = "Apache-2.0"
    source = "Zheng et al. 2023 (arXiv 2306.05685)"
    files = (QUESTIONS, JUDGE, REFERENCES)
    takes_judge = needs_judge = True
    judged_fields = ("first", "second")
    plain = "Human: {prompt}\n\nAssistant:"
    plain_stops = ("\n\nHuman:",)
    most_tokens: int = 1024

    def __post_init__(self):
        super().__post_init__()
        require(self.shots == 0, "shots", self.shots, "0: the first turn stands before the second")

    def items(self):
        path, _, beside = self.paths()
        known = {}
        for where, record in read_jsonl(beside, {"question_id": int, "choices": list}):
            turns = checked(where, (record["choices"] or [None])[0], {"turns": list})["turns"]
            known[record["question_id"]] = turns
        kinds = {"question_id": int, "category": str, "turns": list}
        found = []
        for where, record in read_jsonl(path, kinds):
            turns, reference = record["turns"], known.get(record["question_id"])
            if len(turns) != 2 or not all(isinstance(turn, str) for turn in turns):
                raise RecordError(f"{where}: field 'turns': expected two texts")
            if record["category"] in WITH_REFERENCE and (not reference or len(reference) != 2):
                raise RecordError(f"{where}: {beside}: expected two reference answers to question "
                                  f"{record['question_id']}")  # fmt: skip
            fields = {"category": record["category"], "turns": turns, "reference": reference}
            found.append(Item(str(record["question_id"]), fields, turns[0]))
        return found

    def templates(self) -> dict[str, dict]:
        """The judge's prompts, by name."""
        path = self.paths()[1]
        kinds = dict.fromkeys(("name", "system_prompt", "prompt_template"), str)
        found = {record["name"]: record for _, record in read_jsonl(path, kinds)}
        if missing := [name for name in NAMES.values() if name not in found]:
            raise RecordError(f"{path}: expected a prompt named {missing[0]}")
        return found

    def answered(self, items: Sequence[Item], model, beside: Beside) -> list[Row]:
        turns = [item.fields["turns"] for item in items]
        of = lambda k: [f"{item.id}/{k}" for item in items]
        first = self.asked([self.prompt(one, model) for one, _ in turns], model, of(1))
        second = self.asked(
            [self.prompt(two, model, [(one, answer.text.strip())])
             for (one, two), answer in zip(turns, first, strict=True)],
            model,
            of(2),
        )  # fmt: skip
        answers = [tuple(each.text.strip() for each in pair)
                   for pair in zip(first, second, strict=True)]  # fmt: skip
        ratings = self._ratings(items, answers, beside)
        return [self._row(item, said, rated)
                for item, said, rated in zip(items, answers, ratings, strict=True)]  # fmt: skip

    def judge_questions(self, items, answer):
        return self._questions(items, [(answer, answer)] * len(items))

    def _questions(self, items: Sequence[Item], answers: Sequence[tuple[str, str]]) -> list[str]:
        """Of each item, what the judge is asked about the first turn and about the second."""
        templates, asked = self.templates(), []
        for item, (one, two) in zip(items, answers, strict=True):
            with_reference = item.fields["category"] in WITH_REFERENCE
            question, after = item.fields["turns"]
            texts = {"question": question, "question_1": question, "question_2": after,
                     "answer": one, "answer_1": one, "answer_2": two}  # fmt: skip
            if with_reference:
                texts["ref_answer_1"], texts["ref_answer_2"] = item.fields["reference"]
            asked += [to_judge(templates[NAMES[with_reference, turn]], texts) for turn in (1, 2)]
        return asked

    def _ratings(self, items, answers, beside: Beside) -> list[tuple[float | None, float | None]]:
        said = beside.judge.answers(self._questions(items, answers))
        found = [None if each is None else rating(each) for each in said]
        return list(zip(found[::2], found[1::2], strict=True))

    def _row(self, item: Item, said: tuple[str, str], rated: tuple) -> Row:
        known = [value for value in rated if value is not None]
        return {
            "id": item.id,
            "group": item.fields["category"],
            "prompt": "\n\n".join(item.fields["turns"]),
            "answer": "\n\n".join(said),
            "first": rated[0],
            "second": rated[1],
            "score": sum(known) / len(known) if known else None,
            "unrated": (2 - len(known)) / 2,
        }

    def columns(self):
        mean, limits = "mean rating by the judge, 1 to 10", (1, 10)
        return {
            "mt_bench": Column("MT-Bench", mean, 2, better="higher", range=limits),
            "mt_bench_first": Column("turn 1", f"{mean}: first turn", 2, better="higher",
                                     range=limits),
            "mt_bench_second": Column("turn 2", f"{mean}: second turn", 2, better="higher",
                                      range=limits),
            "mt_bench_unrated": Column("not\nrated", "share of the answers without a rating",
                                       percent=True, better="lower"),
        }  # fmt: skip

    def means(self):
        return {"mt_bench": "score", "mt_bench_first": "first", "mt_bench_second": "second",
                "mt_bench_unrated": "unrated"}  # fmt: skip
