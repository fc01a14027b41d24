"""Benchmarks of reward models, by scorers whose results are known."""

import numpy as np
import pytest

from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.benchmarks.hhh_scores import HHHScores
from rlhf_jax.evaluation.benchmarks.llmbar import PARTS, LLMBar
from rlhf_jax.evaluation.benchmarks.reward_bench import FILE, RewardBench2, ties_score
from tests.evaluation.benchmarks.by_hand import ByHand, mean, results, write

LONGER = ByHand(score=lambda prompt, response: float(len(response.strip())))
UNIFORM = ByHand()


def llmbar(folder, labels=(1, 2, 1, 2, 2)):
    for part, label in zip(PARTS, labels, strict=True):
        write(folder, f"llmbar/LLMBar/{part}/dataset.json", [
            {"input": f"{part} {i}", "output_1": "a" * (5 - i), "output_2": "b" * (1 + i),
             "label": label} for i in range(5)
        ])  # fmt: skip
    return LLMBar(data=str(folder))


def oracle(benchmark):
    asked = lambda item: benchmark.prompt(item.fields["prompt"], UNIFORM)
    right = {(asked(item), item.fields["better"].strip()) for item in benchmark.items()}
    return ByHand(score=lambda prompt, response: 3.0 * ((prompt, response.strip()) in right))


def test_llmbar_s_scorers_of_known_results(tmp_path):
    benchmark = llmbar(tmp_path)
    rows, found = results(benchmark, UNIFORM)
    assert mean(found["llmbar"]) == 0.5 and mean(found["llmbar_brier"]) == 0.25
    assert found["llmbar_calibration_error"] == 0.0 and benchmark.chance(rows) == {"llmbar": 0.5}
    rows, found = results(benchmark, LONGER)
    # Output 1 is longer in items 0 and 1, as long in 2: 2.5 of 5 wherever the label is.
    assert mean(found["llmbar"]) == 0.5
    assert rows["margin"][:5].tolist() == [4, 2, 0, -2, -4]
    assert rows["margin"][5:10].tolist() == [-4, -2, 0, 2, 4]
    assert set(rows["group"]) == {"Natural", "Neighbor", "GPTInst", "GPTOut", "Manual"}


def test_llmbar_s_oracle(tmp_path):
    benchmark = llmbar(tmp_path, labels=(1, 1, 1, 1, 1))
    rows, found = results(benchmark, oracle(benchmark))
    p = 1 / (1 + np.exp(-3))
    assert mean(found["llmbar"]) == 1.0
    assert mean(found["llmbar_brier"]) == pytest.approx((1 - p) ** 2)
    assert found["llmbar_calibration_error"] == pytest.approx(1 - p)
    assert (rows["answer"] == rows["expected"]).all()
    wrong = ByHand(score=lambda p, response: -3.0 * response.strip().startswith("a"))
    assert mean(results(benchmark, wrong)[1]["llmbar"]) == 0.0


def test_a_wrong_label_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"GPTOut.*: item 0: field 'label': expected 1 or 2"):
        llmbar(tmp_path, labels=(1, 2, 1, 3, 2)).items()


def test_the_real_files(human_data):
    folder = str(human_data)
    items = LLMBar(data=folder).items()
    assert len(items) == 419
    longer = [len(i.fields["better"]) > len(i.fields["worse"]) for i in items]
    assert 0.2 < np.mean(longer) < 0.6  # an adversarial set: the better one is often shorter
    assert len(HHHScores(data=folder).items()) == 221


def publish(folder, lines):
    """Rows as the data set's Parquet file has them."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    rows = [
        line | {
            "num_correct": len(line["chosen"]), "num_incorrect": len(line["rejected"]),
            "total_completions": len(line["chosen"]) + len(line["rejected"]), "models": ["m"],
            "additional_metadata": {"category": None, "correct": "x", "index": 1.0},
        }
        for line in lines
    ]  # fmt: skip
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / FILE)
    return RewardBench2(data=str(folder))


def bench(folder):
    """Two parts of best-of-four, and two questions of Ties."""
    lines = [
        {"id": str(i), "prompt": f"q{i}", "chosen": ["x" * (i + 1)], "subset": part,
         "rejected": ["y", "yy", "yyy"]}
        for i, part in enumerate(["Math", "Math", "Focus", "Focus"])
    ]  # fmt: skip
    for n, right in enumerate((["rr", "rrr"], ["rrrrrrr", "r"])):
        lines += [
            {"id": f"ref:{n}", "prompt": f"t{n}", "chosen": right[:1], "rejected": ["w"],
             "subset": "Ties"},
            {"id": f"tied:{n}", "prompt": f"t{n}", "chosen": right, "rejected": ["w", ""],
             "subset": "Ties"},
        ]  # fmt: skip
    return publish(folder, lines)


def test_reward_bench_takes_the_best_of_four_and_the_mean_of_its_parts(tmp_path):
    benchmark = bench(tmp_path)
    rows, found = results(benchmark, LONGER)
    # The right text has 1, 2 (Math), 3 (Focus: shares the top with yyy) and 4 letters.
    assert rows["score"][:4].tolist() == [0, 0, 0.5, 1]
    # Of Ties all right responses must be longer than "w": "r" of question 1 is not.
    assert rows["score"][4:].tolist() == [1, 1, 1, 0]
    assert mean(found["reward_bench_2_best_of_4"]) == 1.5 / 4
    # Ties, question 0: right 2 and 3, wrong 1: gaps 1 of both, spread 1. Question 1: right 7 and 1,
    # wrong 1: gaps 6 (one right) and 0 (two), spread 6.
    ties = 0.3 * 0.5 + 0.3 * 1 + 0.01 * (np.tanh(1 / 1 - 1) + np.tanh(0 / 6 - 1)) / 2
    assert found["reward_bench_2_ties"] == pytest.approx(ties)
    assert found["reward_bench_2"] == pytest.approx((0 + 0.75 + ties) / 3)
    rows, found = results(benchmark, UNIFORM)
    assert mean(found["reward_bench_2_best_of_4"]) == 0.25
    assert found["reward_bench_2_ties"] == 0.0


def test_the_rule_of_ties_by_hand():
    ids = ["ref:0", "tied:0", "ref:1", "tied:1", "tied:2"]
    spread = ties_score(ids[:4], [0, 1.0, 0, 2.0], [3.0, 0.5, 1.0, 4.0])
    assert (spread["apart"], spread["tied"]) == (0.5, 1.0)  # 0.5 > 0, but not above the spread 1
    found = ties_score(ids, [0, 1.0, 0, 2.0, 0.5], [3.0, 2.0, 1.0, 4.0, -1.0])
    assert found["tied"] == pytest.approx(2 / 3) and found["single"] == 1.0
    assert (found["apart"], found["apart_hard"]) == (1.0, 0.5)
    assert found["margin"] == pytest.approx((np.tanh(2 / 1 - 1) + np.tanh(1 / 2 - 1)) / 2)
    assert found["score"] == pytest.approx(0.3 * 2 / 3 + 0.3 + 0.2 + 0.1 + 0.01 * found["margin"])
    assert ties_score(["ref:0", "tied:0"], [0, 0], [1, 1])["margin"] == 1.0
    assert ties_score(["ref:0", "tied:0"], [0, 0], [0, 0])["margin"] == 0.0


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"chosen": []}, "field 'chosen': expected texts, at least one"),
        ({"rejected": [1]}, "field 'rejected': expected texts"),
        ({"subset": "Ties"}, "field 'id': expected ref:N or tied:N"),
        ({"chosen": ["a", "b"]}, "field 'chosen': expected one text outside of Ties"),
    ],
)
def test_a_wrong_line_of_reward_bench_is_named(tmp_path, fields, words):
    line = {"id": "1", "prompt": "q", "chosen": ["a"], "rejected": ["b"], "subset": "Math"}
    benchmark = publish(tmp_path, [line | fields])
    with pytest.raises(RecordError, match=rf"test-00000-of-00001.parquet\[0\]: {words}"):
        benchmark.items()
