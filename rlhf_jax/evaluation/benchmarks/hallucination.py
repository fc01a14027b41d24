"""Closed-domain hallucination: what an answer states that its passage does not say."""

import dataclasses
from collections.abc import Sequence

from rlhf_jax.errors import require
from rlhf_jax.evaluation.benchmarks.benchmark import Answers, Beside, Item, Row
from rlhf_jax.evaluation.benchmarks.files import checked, read_jsonl
from rlhf_jax.evaluation.benchmarks.verdicts import verdicts
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.graders.unsupported import claims
from rlhf_jax.evaluation.statistics import ratio_interval

FILE = "squality/v1-3/txt/test.jsonl"
ONLY = "Answer from the text alone, in a few sentences."


def opening(text: str, most: int) -> str:
    """The first words of a text, with the white space between them."""
    words = text.split(maxsplit=most)
    return text[: len(text) - len(words[most])].rstrip() if len(words) > most else text


def to_judge(passage: str, question: str, answer: str) -> str:
    """What a judge is asked about an answer."""
    return (f"Text:\n{passage}\n\nQuestion: {question}\n\nAnswer: {answer}\n\nDoes the answer "
            "state anything that the text does not say? Reply with yes or no only.")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hallucination(Answers):
    """A proxy for closed-domain hallucination, on SQuALITY's stories and questions: the share of
    the answers with a name or number that is not in the passage (graders/unsupported.py). With a
    judge, also the share that the judge finds to state something else than the passage.

    It misses wrong claims made of the passage's own names, and an empty answer states nothing: read
    it beside the number of names and numbers. People's own summaries have a share of absent names
    and numbers of about 4 %, and against another story's passage of about 85 %.

    most_words  words of the story that are shown: its first ones. How many passages are cut is a
                column
    """

    called = "hallucination"
    title = "Closed-domain hallucination (proxy)"
    licence = "CC BY 4.0; stories: Project Gutenberg"
    source = "Wang et al. 2022 (arXiv 2205.11465); InstructGPT, section 4.2"
    files = (FILE,)
    takes_judge = True
    judged_fields = ("judged",)
    plain = "{prompt}\n\nAnswer:"
    plain_stops = ("\n\nQuestion:", "\n\nText:")
    most_tokens: int = 200
    most_words: int = 800

    def __post_init__(self):
        super().__post_init__()
        require(self.most_words > 0, "most_words", self.most_words, "positive")
        require(self.shots == 0, "shots", self.shots, "0: a passage leaves no room for others")

    def items(self):
        (path,) = self.paths()
        found = []
        for where, record in read_jsonl(path, {"metadata": dict, "document": str,
                                               "questions": list}):  # fmt: skip
            name = checked(f"{where}: metadata", record["metadata"], {"passage_id": str})
            passage = opening(record["document"].strip(), self.most_words)
            for question in record["questions"]:
                kinds = {"question_text": str, "question_number": int}
                asked = checked(f"{where}: questions", question, kinds)
                fields = {
                    "passage": passage,
                    "cut": len(passage) < len(record["document"].strip()),
                    "question": asked["question_text"],
                }
                key = f"{name['passage_id']}/{asked['question_number']}"
                found.append(Item(key, fields, passage))
        return found

    def answered(self, items: Sequence[Item], model, beside: Beside) -> list[Row]:
        prompts = [
            self.prompt(f"Text:\n{item.fields['passage']}\n\n{ONLY}\n\n"
                        f"Question: {item.fields['question']}", model)
            for item in items
        ]  # fmt: skip
        found = self.asked(prompts, model, [item.id for item in items])
        rows = [self._row(item, each.text.strip())
                for item, each in zip(items, found, strict=True)]  # fmt: skip
        if beside.judge is not None:
            asked = [_question(item, row["answer"])
                     for item, row in zip(items, rows, strict=True)]  # fmt: skip
            for row, said in zip(rows, verdicts(beside.judge, asked), strict=True):
                row["judged"] = said
        return rows

    def judge_questions(self, items, answer):
        return [_question(item, answer) for item in items]

    def _row(self, item: Item, answer: str) -> dict:
        found = claims(answer, item.fields["passage"] + " " + item.fields["question"])
        return {
            "id": item.id,
            "prompt": item.fields["question"],
            "answer": answer,
            "absent": ", ".join(found.absent),
            "claims": len(found.names) + len(found.numbers),
            "absent_claims": len(found.absent),
            "any": bool(found.absent),
            "score": -len(found.absent),
            "passage_cut": item.fields["cut"],
        }

    def columns(self):
        lost = "that the passage does not have"
        return {
            "hallucination": Column(
                "absent\nnames", f"share of the answers with a name or number {lost}",
                percent=True, better="lower",
            ),
            "hallucination_claims": Column(
                "of names\nand numbers", f"share of all names and numbers {lost}", percent=True,
                better="lower",
            ),
            "hallucination_stated": Column(
                "names and\nnumbers", "mean number of names and numbers of an answer", 1,
                range=(0, None), drawn=False,
            ),
            "hallucination_judged": Column(
                "not in text\n(judge)", "share of the answers that the judge finds to state "
                "something else than the passage", percent=True, better="lower",
            ),
            "hallucination_cut": Column(
                "cut", "share of the passages of which only the beginning is shown", percent=True,
                shown=False,
            ),
        }  # fmt: skip

    def means(self):
        return {
            "hallucination": "any",
            "hallucination_stated": "claims",
            "hallucination_judged": "judged",
            "hallucination_cut": "passage_cut",
        }

    def summary(self, rows, seed):
        found, stated = super().summary(rows, seed), rows["claims"]
        share = ratio_interval(rows["absent_claims"], stated, seed) if stated.any() else None
        return found | {"hallucination_claims": share}

    def parts(self, rows):
        found = super().parts(rows)
        if rows["claims"].any():
            found["hallucination_claims"] = (rows["absent_claims"], rows["claims"])
        return found


def _question(item: Item, answer: str) -> str:
    """What a judge is asked about an answer to an item."""
    return to_judge(item.fields["passage"], item.fields["question"], answer)
