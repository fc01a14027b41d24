"""LLMBar: pairs of outputs of which one follows the instruction."""

import dataclasses

from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.benchmarks.benchmark import Item
from rlhf_jax.evaluation.benchmarks.files import checked, read_json
from rlhf_jax.evaluation.benchmarks.pairs import ScoredPairs

PARTS = ("Natural", "Adversarial/Neighbor", "Adversarial/GPTInst", "Adversarial/GPTOut",
         "Adversarial/Manual")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class LLMBar(ScoredPairs):
    """The share of LLMBar's 419 pairs of outputs of which a reward model scores the one higher that
    follows the instruction; in the 319 adversarial ones, the other looks better."""

    called = "llmbar"
    title = "LLMBar"
    licence = "MIT"
    source = "Zeng et al. 2024 (arXiv 2310.07641)"
    files = tuple(f"llmbar/LLMBar/{part}/dataset.json" for part in PARTS)

    def items(self):
        found = []
        for part, path in zip(PARTS, self.paths(), strict=True):
            group = part.rpartition("/")[2]
            for i, record in enumerate(read_json(path)):
                where = f"{path}: item {i}"
                fields = {"input": str, "output_1": str, "output_2": str, "label": int}
                record = checked(where, record, fields)
                label = record["label"]
                if label not in (1, 2):
                    raise RecordError(f"{where}: field 'label': expected 1 or 2, got {label}")
                pair = {"prompt": record["input"], "better": record[f"output_{label}"],
                        "worse": record[f"output_{3 - label}"], "group": group}  # fmt: skip
                found.append(Item(f"{group} {i}", pair, record["input"]))
        return found
