"""IFEval: whether a policy follows instructions that a program can check."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.benchmarks.benchmark import Answers, Beside, Item, Row
from rlhf_jax.evaluation.benchmarks.files import checked, read_jsonl
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.graders import constraints
from rlhf_jax.evaluation.statistics import ratio_interval

FILE = "ifeval/input_data.jsonl"
KINDS = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IFEval(Answers):
    """541 prompts with 834 instructions that can be checked.

    The share of prompts of which all instructions are followed, and the share of instructions, each
    by the answer as it stands ("strict") and by the best of eight forms of it ("loose").
    """

    called = "ifeval"
    title = "IFEval"
    licence = "Apache-2.0"
    source = "Zhou et al. 2023 (arXiv 2311.07911)"
    files = (FILE,)
    most_tokens: int = 1280

    def items(self):
        (path,) = self.paths()
        found = []
        for where, record in read_jsonl(path, KINDS):
            names, arguments = record["instruction_id_list"], record["kwargs"]
            if not names or len(names) != len(arguments):
                raise RecordError(f"{where}: field 'kwargs': expected one for each of the "
                                  f"{len(names)} instructions, got {len(arguments)}")  # fmt: skip
            for name, given in zip(names, arguments, strict=True):
                checked(f"{where}: kwargs", given, {})
                try:
                    constraints.checked(name, given)
                except RecordError as error:
                    raise RecordError(f"{where}: {error}") from None
            found.append(Item(str(record["key"]), record, record["prompt"]))
        return found

    def answered(self, items: Sequence[Item], model, beside: Beside) -> list[Row]:
        prompts = [self.prompt(item.fields["prompt"], model) for item in items]
        found = self.asked(prompts, model, [item.id for item in items])
        rows = []
        for item, each in zip(items, found, strict=True):
            names, arguments = item.fields["instruction_id_list"], item.fields["kwargs"]
            strict = constraints.strict(names, arguments, each.text)
            loose = constraints.loose(names, arguments, each.text)
            missed = [name for name, ok in zip(names, strict, strict=True) if not ok]
            rows.append({
                "id": item.id,
                "prompt": item.fields["prompt"],
                "expected": ", ".join(names),
                "answer": each.text,
                "missed": ", ".join(missed),
                "instructions": len(names),
                "strict": sum(strict),
                "loose": sum(loose),
                "score": all(strict),
                "loose_all": all(loose),
            })  # fmt: skip
        return rows

    def columns(self):
        whole, each = "share of the prompts with all instructions followed", "share of instructions"
        kinds = {
            "ifeval": ("IFEval\nprompts", f"{whole}, strict"),
            "ifeval_loose": ("prompts\nloose", f"{whole}, loose"),
            "ifeval_instructions": ("instruc-\ntions", f"{each} followed, strict"),
            "ifeval_instructions_loose": ("instruc-\ntions\nloose", f"{each} followed, loose"),
        }
        return {name: Column(title, about, percent=True, better="higher")
                for name, (title, about) in kinds.items()}  # fmt: skip

    def means(self):
        return {"ifeval": "score", "ifeval_loose": "loose_all"}

    def summary(self, rows, seed):
        of = lambda name: ratio_interval(rows[name], rows["instructions"], seed)
        both = {"ifeval_instructions": of("strict"), "ifeval_instructions_loose": of("loose")}
        return super().summary(rows, seed) | both

    def parts(self, rows):
        weights = np.asarray(rows["instructions"], np.float64)
        both = {"ifeval_instructions": (rows["strict"], weights),
                "ifeval_instructions_loose": (rows["loose"], weights)}  # fmt: skip
        return super().parts(rows) | both
