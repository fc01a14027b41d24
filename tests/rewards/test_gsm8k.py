"""The answers of grade-school problems."""

import json
from pathlib import Path

import pytest

from rlhf_jax.data.convert import Reading, read_file
from rlhf_jax.data.records import to_json
from rlhf_jax.errors import RecordError
from rlhf_jax.rewards.gsm8k import correct

FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl"


@pytest.mark.parametrize(
    ("answer", "response", "score"),
    [
        ("so 6 x 7\n#### 42", "#### 42", 1),
        ("42", "six times seven\n#### 42", 1),
        (42, "#### 42.", 1),
        ("#### 1,000", "#### 1000", 1),
        ("#### 1000", "#### $1,000.00 in all", 1),
        ("#### 2.5", "####2.50", 1),
        ("#### -3", "#### -3", 1),
        ("#### -3", "#### -$3", 1),
        ("#### 3", "#### -3", 0),
        ("#### 42", "#### 4 2", 0),
        ("#### 42", "the answer is 42", 0),  # no mark: it solves nothing
        ("#### 42", "", 0),
        ("#### 42", "####", 0),
        ("#### 42", "#### forty-two", 0),
        ("#### 42", "#### 1.2.3", 0),
        ("#### 42", "#### 41\n#### 42", 0),  # the first answer counts
        ("#### 42", "#### 42\n\nHuman: another?\n#### 7", 1),
    ],
)
def test_the_number_behind_the_mark_counts(answer, response, score):
    assert correct("q", response, {"prompt": "q", "answer": answer}) == score


@pytest.mark.parametrize("answer", ["none", "#### none", "nan", ""])
def test_an_answer_without_a_number_is_an_error(answer):
    with pytest.raises(ValueError, match="the record's answer holds no number"):
        correct("q", "#### 1", {"prompt": "q", "answer": answer})


def test_its_problems_are_prompts_with_answers_and_demonstrations(tmp_path):
    line = {"question": "6 x 7?", "answer": "It is 42.\n#### 42"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    found = read_file(str(tmp_path / "a.jsonl"), Reading(template="human"))
    (prompt,), (demonstration,) = found.records("prompts"), found.records("demonstrations")
    record = to_json(prompt)
    assert record == {"prompt": "\n\nHuman: 6 x 7?\n\nAssistant:", "answer": line["answer"]}
    assert demonstration.prompt == prompt.prompt
    assert demonstration.response == " It is 42.\n#### 42"
    assert correct(prompt.prompt, demonstration.response, record) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question": "a"}, "field 'answer' is missing: there are question"),
        ({"question": 1, "answer": "a"}, "field 'question': expected str, got 1"),
        ({"question": "a", "answer": "\0"}, "field 'response': expected text without NUL"),
    ],
)
def test_a_malformed_problem_is_named(line, message, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(RecordError) as refused:
        read_file(str(tmp_path / "a.jsonl"), Reading(format="GSM8K"))
    assert str(refused.value).startswith(f"{tmp_path / 'a.jsonl'}:1: {message}")


@pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not here")
def test_the_reference_solutions_are_right_and_those_of_others_wrong():
    records = [to_json(prompt) for prompt in read_file(str(FILE)).records("prompts")]
    solutions = [record["answer"] for record in records]
    assert len(records) == 1319
    assert all(correct("", s, r) == 1 for s, r in zip(solutions, records, strict=True))
    ends = [solution.split("#### ")[1].replace(",", "") for solution in solutions]
    others, other_ends = solutions[1:] + solutions[:1], ends[1:] + ends[:1]
    found = [correct("", s, r) for s, r in zip(others, records, strict=True)]
    assert found == [float(a == b) for a, b in zip(ends, other_ends, strict=True)]
    assert sum(found) < 30
