"""GSM8K: grade-school mathematics by a chain of thought; the final number counts."""

import dataclasses
from collections.abc import Sequence

from rlhf_jax.errors import RecordError, require
from rlhf_jax.evaluation.benchmarks.benchmark import Answers, Benchmark, Beside, Item, Row
from rlhf_jax.evaluation.benchmarks.files import read_jsonl
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.graders.final_number import grades
from rlhf_jax.rewards.gsm8k import marked

FILE = "gsm8k/test.jsonl"
# Problems of our own, in the form of the data set's solutions.
EXAMPLES = (
    ("A baker makes 24 rolls in the morning and half as many in the afternoon. She sells 30. How "
     "many rolls are left?",
     "In the afternoon she makes 24 / 2 = 12 rolls.\nIn all there are 24 + 12 = 36 rolls.\n"
     "36 - 30 = 6 are left.\n#### 6"),
    ("A ticket costs $7 for an adult and $4 for a child. What do 2 adults and 5 children pay?",
     "The adults pay 2 * 7 = $14.\nThe children pay 5 * 4 = $20.\nTogether they pay 14 + 20 = $34."
     "\n#### 34"),
    ("Tom reads 15 pages a day. His book has 240 pages, and he has read a quarter of it. How many "
     "days does he need for the rest?",
     "He has read 240 / 4 = 60 pages.\n240 - 60 = 180 pages remain.\nHe needs 180 / 15 = 12 days."
     "\n#### 12"),
    ("A tank holds 500 litres. It is 40% full, and 25 litres flow in each minute. After how many "
     "minutes is it full?",
     "There are 500 * 0.4 = 200 litres in it.\n500 - 200 = 300 litres are missing.\nThat takes "
     "300 / 25 = 12 minutes.\n#### 12"),
    ("Ana is three times as old as Ben. In 6 years she will be 30. How old is Ben now?",
     "Ana is 30 - 6 = 24 years old.\nBen is 24 / 3 = 8 years old.\n#### 8"),
    ("A shop sells pens in packs of 8 for $6. How many dollars do 56 pens cost?",
     "56 pens are 56 / 8 = 7 packs.\nThey cost 7 * 6 = $42.\n#### 42"),
    ("A train travels 80 km in the first hour and 15 km more in the second. In the third it "
     "travels 60 km. How many kilometers is that in all?",
     "In the second hour it travels 80 + 15 = 95 km.\nIn all it travels 80 + 95 + 60 = 235 km."
     "\n#### 235"),
    ("Each of 4 friends brings 12 cookies, and 8 cookies break. They share the others with one "
     "more friend. How many does each of them get?",
     "They bring 4 * 12 = 48 cookies.\n48 - 8 = 40 are whole.\nThey are 4 + 1 = 5 friends.\n"
     "Each gets 40 / 5 = 8 cookies.\n#### 8"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class GSM8K(Answers):
    """The share of 1,319 problems whose final number is right: the last number of the answer, and
    the number behind the first "####".

    shots  solved problems before each problem, at most 8, with their chains of thought. They are
           this package's own, so no item is taken for them
    """

    called = "gsm8k"
    title = "GSM8K"
    licence = "MIT"
    source = "Cobbe et al. 2021 (arXiv 2110.14168)"
    files = (FILE,)
    plain = "Question: {prompt}\nAnswer:"
    plain_stops = ("Question:",)
    shots: int = 5

    def __post_init__(self):
        super().__post_init__()
        require(self.shots <= len(EXAMPLES), "shots", self.shots, f"at most {len(EXAMPLES)}")

    def items(self):
        (path,) = self.paths()
        found = []
        for i, (where, record) in enumerate(read_jsonl(path, {"question": str, "answer": str})):
            if marked(record["answer"]) is None:
                raise RecordError(f"{where}: field 'answer': expected a number behind ####, "
                                  f"got {record['answer']!r:.60}")  # fmt: skip
            found.append(Item(str(i), record, record["question"]))
        return found

    def examples(self):
        return list(EXAMPLES[: self.shots])

    def measured(self):
        return Benchmark.measured(self)

    def answered(self, items: Sequence[Item], model, beside: Beside) -> list[Row]:
        before = self.examples()
        prompts = [self.prompt(item.fields["question"], model, before) for item in items]
        found = self.asked(prompts, model, [item.id for item in items])
        rows = []
        for item, each in zip(items, found, strict=True):
            graded = grades(each.text, item.fields["answer"])
            rows.append({
                "id": item.id,
                "prompt": item.fields["question"],
                "expected": item.fields["answer"],
                "answer": each.text.strip(),
                "strict": graded["strict"],
                "score": graded["flexible"],
                "cut": not each.ended,
            })  # fmt: skip
        return rows

    def columns(self):
        return {
            "gsm8k": Column("GSM8K", "share of the problems with the right last number",
                            percent=True, better="higher"),
            "gsm8k_marked": Column("GSM8K\n####", "share with the right number behind ####",
                                   percent=True, better="higher"),
            "gsm8k_cut": Column("cut", "share of the answers cut at most_tokens", percent=True,
                                better="lower", shown=False),
        }  # fmt: skip

    def means(self):
        return {"gsm8k": "score", "gsm8k_marked": "strict", "gsm8k_cut": "cut"}
