"""MT-Bench with judges made by hand, and HumanEval."""

import dataclasses
import gzip
import json
import os
import re
from pathlib import Path

import pytest

from rlhf_jax.data.messages import Message
from rlhf_jax.errors import ConfigError, RecordError, UserError
from rlhf_jax.evaluation.benchmarks import humaneval, mt_bench
from rlhf_jax.evaluation.graders import confined
from rlhf_jax.evaluation.graders.generated_code import Outcome
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval
from tests.evaluation.benchmarks.by_hand import ByHand, mean, results, write
from tests.evaluation.graders.test_generated_code import confined_here

DATA = os.environ.get("RLHF_JAX_DATA", "")


class Judge:
    """Answers each prompt by a function, and keeps the prompts."""

    def __init__(self, says):
        self.says, self.asked = says, []

    def answers(self, prompts):
        self.asked += prompts
        return [self.says(prompt) for prompt in prompts]


QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Tell {answer}.", "Shorter."]},
    {"question_id": 111, "category": "math", "turns": ["6 x 7?", "Twice that?"]},
]
PROMPTS = [
    {"name": "single-v1", "system_prompt": "S", "prompt_template": "Q {question} A {answer}"},
    {"name": "single-math-v1", "system_prompt": "S",
     "prompt_template": "Q {question} R {ref_answer_1} A {answer}"},
    {"name": "single-v1-multi-turn", "system_prompt": "M",
     "prompt_template": "Q1 {question_1} A1 {answer_1} Q2 {question_2} A2 {answer_2}"},
    {"name": "single-math-v1-multi-turn", "system_prompt": "M",
     "prompt_template": "Q2 {question_2} R {ref_answer_1} {ref_answer_2} A2 {answer_2} {x}"},
]  # fmt: skip
REFERENCES = [{"question_id": 111, "choices": [{"index": 0, "turns": ["42", "84"]}]}]


@pytest.fixture
def bench(tmp_path):
    for name, content in (("question", QUESTIONS), ("judge_prompts", PROMPTS),
                          ("reference_answer/gpt-4", REFERENCES)):  # fmt: skip
        write(tmp_path, f"mt_bench/{name}.jsonl", content)
    return mt_bench.MTBench(data=str(tmp_path))


def test_mt_bench_asks_twice_and_the_judge_reads_each_turn(bench):
    model = ByHand(says=lambda prompt: f" a{prompt.count('Assistant:')}\n\nHuman: b")
    judge = Judge(lambda prompt: f"Fine. Rating: [[{9 if prompt.startswith('S') else 4}]]")
    rows, summary = results(bench, model, judge)
    assert [prompt for prompt, _ in model.asked] == [
        "Human: Tell {answer}.\n\nAssistant:",
        "Human: 6 x 7?\n\nAssistant:",
        "Human: Tell {answer}.\n\nAssistant: a1\n\nHuman: Shorter.\n\nAssistant:",
        "Human: 6 x 7?\n\nAssistant: a1\n\nHuman: Twice that?\n\nAssistant:",
    ]
    assert judge.asked == [
        "S\n\nQ Tell {answer}. A a1",
        "M\n\nQ1 Tell {answer}. A1 a1 Q2 Shorter. A2 a2",
        "S\n\nQ 6 x 7? R 42 A a1",
        "M\n\nQ2 Twice that? R 42 84 A2 a2 {x}",
    ]
    assert [text.replace("xyz", "a2") for text in bench.judge_questions(bench.items(), "xyz")] == [
        text.replace("a1", "a2") for text in judge.asked
    ]
    assert mean(summary["mt_bench"]) == 6.5 and mean(summary["mt_bench_unrated"]) == 0
    assert mean(summary["mt_bench_first"]) == 9 and mean(summary["mt_bench_second"]) == 4
    assert rows["group"].tolist() == ["writing", "math"] and rows["answer"][0] == "a1\n\na2"


def test_mt_bench_leaves_out_what_the_judge_does_not_rate(bench):
    says = {"S": {"Tell": "[[8]]", "6 x": None}, "M": {"Tell": "It is good.", "Twice": "[[11]]"}}
    judge = Judge(lambda prompt: next(reply for part, reply in says[prompt[0]].items()
                                      if part in prompt))  # fmt: skip
    _, summary = results(bench, ByHand(says=lambda prompt: "yes", has_chat=True), judge)
    assert summary["mt_bench"] == summary["mt_bench_first"] == mean_interval([8])
    assert summary["mt_bench_second"] is None
    assert summary["mt_bench_unrated"] == bounded_mean([0.5, 1])


def test_mt_bench_s_second_turn_in_a_chat_template(bench):
    model = ByHand(says=lambda prompt: " yes\n", has_chat=True)
    results(bench, model, Judge(lambda prompt: "[[1]]"))
    assert model.asked[2][0] == (
        Message("user", "Tell {answer}."),
        Message("assistant", "yes"),
        Message("user", "Shorter."),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "question",
            [QUESTIONS[0] | {"turns": ["a"]}],
            "question.jsonl:1: field 'turns'",
        ),
        (
            "reference_answer/gpt-4",
            [],
            r"question.jsonl:2: .*two reference answers to .* 111",
        ),
        ("reference_answer/gpt-4", [{"question_id": 1, "choices": []}], "gpt-4.jsonl:1: expected"),
        ("judge_prompts", PROMPTS[:3], "expected a prompt named single-math-v1-multi-turn"),
    ],
)
def test_mt_bench_names_what_is_wrong(bench, name, content, message):
    write(Path(bench.data), f"mt_bench/{name}.jsonl", content)
    with pytest.raises(RecordError, match=message):
        bench.items()
        bench.templates()


# HumanEval

ADD = {
    "task_id": "HumanEval/0",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "prompt": "def add(a, b):\n",
    "test": "def check(f):\n    assert f(1, 2) == 3\n",
}
NEG = {"task_id": "HumanEval/1", "entry_point": "neg", "canonical_solution": "    return -a\n",
       "prompt": "def neg(a):\n", "test": "def check(f):\n    assert f(1) == -1\n"}  # fmt: skip


@pytest.fixture
def code(tmp_path):
    path = tmp_path / humaneval.FILE
    path.parent.mkdir()
    path.write_bytes(gzip.compress("".join(json.dumps(x) + "\n" for x in (ADD, NEG)).encode()))
    return str(tmp_path)


@pytest.fixture
def by_rule(monkeypatch):
    """Programs pass where they return the right value, without a process; all that were asked."""
    asked = []

    def passes(source, seconds=0):
        asked.append((source, seconds))
        right = source == "pass" or "return a + b" in source or "return -a" in source
        return Outcome(right, "" if right else "AssertionError:")

    monkeypatch.setattr(humaneval, "passes", passes)
    return asked


@confined_here
def test_humaneval_of_an_oracle_and_of_a_model_that_is_wrong(code):
    test = humaneval.HumanEval(data=code)
    says = lambda prompt: (
        "    return a + b\n\ndef f():\n    1" if "add" in prompt else "    return 1"
    )
    rows, summary = results(test, ByHand(says=says))
    assert summary == {"humaneval": bounded_mean([1, 0])}
    assert rows["why"].tolist() == ["", "AssertionError:"]
    assert rows["id"].tolist() == ["HumanEval/0", "HumanEval/1"]


def test_humaneval_counts_samples(code, by_rule):
    test = humaneval.HumanEval(data=code, samples=12, temperature=0.8, seconds=3.0)
    said = iter(["    return a + b"] * 3 + ["    pass"] * 9 + ["    return 1"] * 12)
    rows, summary = results(test, ByHand(says=lambda prompt: next(said)))
    assert rows["passed"].tolist() == [3, 0] and rows["score"].tolist() == [0.25, 0]
    assert rows["ten"] == pytest.approx([1, 0]) and mean(summary["humaneval_10"]) == 0.5
    assert by_rule[0][0] == "pass" and {seconds for _, seconds in by_rule[1:]} == {3.0}
    with pytest.raises(ConfigError, match="samples = 2: must be 1 with temperature 0"):
        humaneval.HumanEval(samples=2)


def test_humaneval_asks_a_chat_model_for_a_block(code, by_rule):
    model = ByHand(says=lambda prompt: "Here:\n```python\ndef add(a, b):\n    return a + b\n```",
                   has_chat=True)  # fmt: skip
    _, summary = results(humaneval.HumanEval(data=code), model)
    assert model.asked[0][0] == (
        Message("user", f"{humaneval.ASKED}```python\ndef add(a, b):\n```"),
    )
    assert mean(summary["humaneval"]) == 0.5


def test_humaneval_asks_nothing_where_programs_cannot_be_confined(code, monkeypatch):
    monkeypatch.setattr(confined, "ALLOWED", {})
    model = ByHand()
    with pytest.raises(UserError, match="generated programs run only on Linux"):
        results(humaneval.HumanEval(data=code), model)
    assert model.asked == [] and not humaneval.HumanEval.by_default


def test_humaneval_names_a_prompt_without_its_function(code):
    path = Path(code) / humaneval.FILE
    path.write_bytes(gzip.compress(json.dumps(ADD | {"entry_point": "sub"}).encode()))
    with pytest.raises(RecordError, match=r"gz:1: field 'prompt': expected a function 'sub'"):
        humaneval.HumanEval(data=code).items()


@pytest.mark.skipif(not Path(DATA, "mt_bench").is_dir(), reason="no RLHF_JAX_DATA")
def test_the_published_files_are_read():
    bench = mt_bench.MTBench(data=DATA)
    items = bench.items()
    assert len(items) == 80 and sum(item.fields["reference"] is not None for item in items) == 30
    used = {slot for prompt in bench.templates().values()
            for slot in re.findall(r"\{(\w+)\}", prompt["prompt_template"])
            if prompt["name"] in mt_bench.NAMES.values()}  # fmt: skip
    assert all(mt_bench.SLOT.fullmatch(f"{{{slot}}}") for slot in used) and len(used) == 8
    assert len(humaneval.HumanEval(data=DATA).items()) == 164


@pytest.mark.slow
@confined_here
@pytest.mark.skipif(not Path(DATA, "humaneval").is_dir(), reason="no RLHF_JAX_DATA")
def test_the_published_solutions_pass_and_empty_functions_fail():
    test = humaneval.HumanEval(data=DATA)
    right = {item.fields["prompt"]: item.fields["canonical_solution"] for item in test.items()}
    _, summary = results(test, ByHand(says=right.get))
    assert mean(summary["humaneval"]) == 1
    _, summary = results(dataclasses.replace(test, most_items=20),
                         ByHand(says=lambda prompt: "    pass"))  # fmt: skip
    assert mean(summary["humaneval"]) == 0
