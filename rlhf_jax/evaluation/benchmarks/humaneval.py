"""HumanEval: whether Python functions that a policy writes pass their tests."""

import dataclasses
from collections.abc import Sequence

from rlhf_jax.errors import RecordError, require
from rlhf_jax.evaluation.benchmarks.benchmark import CHAT, Answers, Beside, Item, Row
from rlhf_jax.evaluation.benchmarks.files import read_jsonl
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.graders.generated_code import STOPS, pass_at_k, passes, program

FILE = "humaneval/HumanEval.jsonl.gz"
KINDS = dict.fromkeys(("task_id", "prompt", "entry_point", "test", "canonical_solution"), str)
ASKED = "Complete this Python function. Reply with the whole function in a block of code.\n\n"
TEN = 10  # pass@10 is measured from so many samples on


@dataclasses.dataclass(frozen=True, kw_only=True)
class HumanEval(Answers):
    """pass@1 of 164 functions, and pass@10 where there are 10 samples or more.

    It runs what the policy writes, so `--on all` leaves it out. Each program runs in a process
    without network, without files to write and with bounded time and memory
    (graders/generated_code.py); where the machine cannot do that, nothing runs.

    samples  solutions of each item; several need a temperature
    seconds  of CPU time for a program
    """

    called = "humaneval"
    title = "HumanEval"
    licence = "MIT"
    source = "Chen et al. 2021 (arXiv 2107.03374)"
    files = (FILE,)
    by_default = False
    most_tokens: int = 512
    plain_stops = STOPS
    samples: int = 1
    seconds: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        require(self.samples > 0, "samples", self.samples, "positive")
        alike = self.samples > 1 and self.temperature == 0
        require(not alike, "samples", self.samples, "1 with temperature 0, where all are alike")
        require(self.seconds > 0, "seconds", self.seconds, "positive")
        require(self.shots == 0, "shots", self.shots, "0: a prompt is a function's beginning")

    def items(self):
        (path,) = self.paths()
        found = []
        for where, record in read_jsonl(path, KINDS):
            if f"def {record['entry_point']}" not in record["prompt"]:
                raise RecordError(f"{where}: field 'prompt': expected a function "
                                  f"{record['entry_point']!r:.60}")  # fmt: skip
            found.append(Item(record["task_id"], record, record["prompt"]))
        return found

    def answered(self, items: Sequence[Item], model, beside: Beside) -> list[Row]:
        passes("pass")  # raises here, before anything is sampled, if programs cannot be confined
        chat = self.form_for(model) == CHAT
        prompts, ids = [], []
        for item in items:
            code = item.fields["prompt"]
            asked = f"{ASKED}```python\n{code}```" if chat else code
            prompts += self.samples * [self.prompt(asked, model)]
            ids += [f"{item.id}/{k}" for k in range(self.samples)]
        texts = [answer.text for answer in self.asked(prompts, model, ids)]
        return [self._row(item, texts[i * self.samples : (i + 1) * self.samples])
                for i, item in enumerate(items)]  # fmt: skip

    def _row(self, item: Item, texts: Sequence[str]) -> Row:
        of = [item.fields[name] for name in ("test", "entry_point")]
        found = [passes(program(item.fields["prompt"], text, *of), self.seconds) for text in texts]
        passed, count = sum(each.passed for each in found), len(texts)
        row = {
            "id": item.id,
            "prompt": item.fields["prompt"],
            "expected": item.fields["canonical_solution"],
            "answer": texts[0],
            "why": found[0].why,
            "passed": passed,
            "score": pass_at_k(count, passed, 1),
        }
        return row | ({"ten": pass_at_k(count, passed, TEN)} if count >= TEN else {})

    def columns(self):
        share = "probability that one of {} solutions passes the tests".format
        return {
            "humaneval": Column("HumanEval\npass@1", share(1), percent=True, better="higher"),
            "humaneval_10": Column("pass@10", share(10), percent=True, better="higher"),
        }

    def means(self):
        return {"humaneval": "score", "humaneval_10": "ten"}
