"""What `rlhf-jax eval` keeps and tells of a judge's answers, with a judge made by hand."""

import pytest

from rlhf_jax.evaluation.benchmarks.truthfulqa_generation import TruthfulQA
from rlhf_jax.runs import benchmarking
from rlhf_jax.runs.benchmarking import Measuring
from rlhf_jax.runs.measured import Named
from tests.evaluation.benchmarks.by_hand import ByHand, write

HEAD = "Type,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"


class Judge:
    """Gives no verdict on question 4, and none on whether the answer to question 2 is informative.

    asked: the questions so far.
    """

    def __init__(self, **identity):
        self.identity, self.asked = identity, []

    def expect(self, prompts):
        pass

    def answers(self, prompts):
        self.asked += prompts
        return [None if "Is 4 odd" in prompt
                else "Hm." if "Is 2 odd" in prompt and "bears on" in prompt
                else "yes" for prompt in prompts]  # fmt: skip


@pytest.fixture
def truth(tmp_path):
    questions = "".join(f"Adversarial,Is {i} odd?,No,No,Yes {i},x\n" for i in range(8))
    write(tmp_path, "truthfulqa/TruthfulQA.csv", HEAD + questions)
    return TruthfulQA(data=str(tmp_path), batch_size=1)


def measure(to, benchmark, judge):
    model = ByHand(says=lambda prompt: "No")
    one = Named("one", "policy", "d", "runs/one", 64, lambda: lambda batch_size: model)
    return Measuring(to, [one], {benchmark.called: benchmark}, judge).run()


def test_answers_without_a_verdict_are_counted_once_a_benchmark_and_model(truth, tmp_path, capsys):
    told = lambda: [line for line in capsys.readouterr().out.splitlines() if "verdict" in line]
    expected = ["eval: truthfulqa of one: judge: 3 of 16 answers hold no verdict"]
    judge = Judge(model="j")
    measure(tmp_path / "to", truth, judge)
    assert told() == expected and len(judge.asked) == 16
    measure(tmp_path / "to", truth, judge)  # of rows that are kept
    assert told() == expected and len(judge.asked) == 16
    measure(tmp_path / "to", truth, None)
    assert told() == []


def test_rows_are_of_a_judge_s_identity(truth, tmp_path):
    measure(tmp_path / "to", truth, Judge(model="j"))
    same, other = Judge(model="j"), Judge(model="k")
    for judge in (same, other):
        measure(tmp_path / "to", truth, judge)
    assert (len(same.asked), len(other.asked)) == (0, 16)


def test_a_judge_on_this_machine_is_known_by_its_weights(truth, tmp_path, monkeypatch):
    """Not by its path: a folder that has moved is the same judge, other weights in it are not."""
    asked, digest = [], {"a": "d1", "b": "d1", "c": "d2"}

    def of_folder(name, context=None):
        model = ByHand(says=lambda prompt: asked.append(prompt) or "yes")
        open_ = lambda: lambda batch_size: model
        return Named("one", "policy", digest.get(name[-1], "d"), name, 64, open_)

    monkeypatch.setattr("rlhf_jax.runs.measured.of_folder", of_folder)
    monkeypatch.setattr(benchmarking, "of_folder", of_folder)
    counts = []
    for name in digest:
        (tmp_path / name).mkdir()
        options = benchmarking.EvalOptions(judge=str(tmp_path / name), to=tmp_path / "to")
        asked.clear()
        benchmarking.evaluate(None, ["one"], options, {"truthfulqa": truth})
        counts.append(sum("Reply with yes or no only" in prompt for prompt in asked))
    assert counts == [16, 0, 16]
