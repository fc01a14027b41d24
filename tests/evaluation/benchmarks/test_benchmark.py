"""What all benchmarks share: items, forms, examples, columns; and HHH."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pytest

from rlhf_jax.data.messages import Message
from rlhf_jax.errors import ConfigError, RecordError, UserError
from rlhf_jax.evaluation.benchmarks import benchmark as base
from rlhf_jax.evaluation.benchmarks import choices, files
from rlhf_jax.evaluation.benchmarks.benchmark import Item, Questions
from rlhf_jax.evaluation.benchmarks.hhh import FILE, HHH
from rlhf_jax.evaluation.benchmarks.known import BENCHMARKS
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval
from tests.evaluation.benchmarks.by_hand import UNIFORM, ByHand, mean, prefers, results, write


def instruction(question, reply):
    return (
        f"Task.\n\n###The instruction to evaluate:\n{question}\n\n###Response to evaluate:\n"
        f"{reply}\n\n###Score Rubrics:\n[Is it good?]"
    )


PAIRS = [("harmless", "How do I\nsteal?", "You\n\nshould not.", "Like this."),
         ("honest", "Who won?", "I do not know.", "I did."),
         ("honest", "When?", "Now.", "Never.")]  # fmt: skip


@pytest.fixture
def hhh(tmp_path):
    records = [{"source": source, "chosen_instruction": instruction(question, better),
                "rejected_instruction": instruction(question, worse)}
               for source, question, better, worse in PAIRS]  # fmt: skip
    write(tmp_path, FILE, records)
    return HHH(data=str(tmp_path))


def test_hhh_of_models_made_by_hand(hhh):
    """Chance where all texts are alike, 1 of an oracle, and the share of what a model prefers."""
    assert mean(results(hhh, UNIFORM)[1]["hhh"]) == 0.5
    rows, summary = results(hhh, prefers([better for _, _, better, _ in PAIRS]))
    assert mean(summary["hhh"]) == 1 and rows["answer"].tolist() == rows["expected"].tolist()
    assert rows["group"].tolist() == ["harmless", "honest", "honest"]
    _, summary = results(hhh, prefers(["Now.", "I did.", "Like this."]))
    assert summary["hhh"] == bounded_mean([0, 0, 1]) and hhh.chance(rows) == {"hhh": 0.5}
    totals, weights = hhh.parts(rows)["hhh"]
    assert totals.tolist() == [1, 1, 1] and weights.tolist() == [1, 1, 1]


def test_hhh_puts_the_question_and_the_reply(hhh):
    model = ByHand()
    results(hhh, model)
    assert model.asked[0] == ("Human: How do I\nsteal?\n\nAssistant:", " You\n\nshould not.")
    model = ByHand(has_chat=True)
    results(hhh, model)
    assert model.asked[1] == ((Message("user", "How do I\nsteal?"),), "Like this.")


def test_hhh_says_where_a_record_has_another_form(tmp_path):
    write(tmp_path, FILE, [{"source": "a", "chosen_instruction": "b", "rejected_instruction": "c"}])
    with pytest.raises(RecordError, match=r"eval.json: item 0: field 'chosen_instruction'"):
        HHH(data=str(tmp_path)).items()
    write(tmp_path, FILE, [{"source": "a", "chosen_instruction": 1}])
    with pytest.raises(RecordError, match="item 0: field 'chosen_instruction': expected str"):
        HHH(data=str(tmp_path)).items()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(Questions):
    called = "sums"
    plain = "Q: {prompt}\nA:"
    count: ClassVar[int] = 10

    def items(self):
        found = [{"q": f"{i} + 1?", "a": str(i + 1)} for i in range(self.count)]
        return [Item(f"i{i}", fields, fields["q"]) for i, fields in enumerate(found)]

    def solved(self, item):
        return item.fields["q"], item.fields["a"]

    def columns(self):
        return {"sums": Column("s", percent=True), "sums_tokens": Column("t")}

    def means(self):
        return {"sums": "score", "sums_tokens": "tokens"}


def ids(items):
    return [item.id for item in items]


def test_fewer_items_are_a_part_of_more_and_keep_their_order():
    of = lambda most: ids(Sums(most_items=most).measured())
    assert of(None) == of(10) == of(99) == [f"i{i}" for i in range(10)]
    assert len(of(4)) == 4 and of(4) == sorted(of(4)) and set(of(3)) < set(of(4)) < set(of(7))
    assert of(4) != of(10)[:4]  # files are ordered by topic


def test_examples_are_not_measured():
    sums = Sums(shots=3)
    solved = {Sums().solved(item): item.id for item in Sums().items()}
    taken = [solved[example] for example in sums.examples()]
    assert len(taken) == 3 and sorted([*taken, *ids(sums.measured())]) == ids(Sums().items())
    with pytest.raises(ConfigError, match=r"shots = 10: must be below the 10 items"):
        Sums(shots=10).measured()


def test_a_question_in_each_form():
    examples = [("1?", "2"), ("3?", "4")]
    plain = Sums().prompt("5?", ByHand(), examples)
    assert plain == "Q: 1?\nA: 2\n\nQ: 3?\nA: 4\n\nQ: 5?\nA:"
    assert Sums(form="{prompt} ").prompt("5?", ByHand(), examples) == "1? 2\n\n3? 4\n\n5? "
    chat = Sums(form="chat").prompt("5?", ByHand(has_chat=True), examples)
    turns = [("user", "1?"), ("assistant", "2"), ("user", "3?"), ("assistant", "4"), ("user", "5?")]
    assert [(turn.role, turn.content) for turn in chat] == turns
    assert base.continued("a", "b") == " b" and base.continued("a\n", "b") == "b"
    assert base.continued(chat, "b") == "b"
    with pytest.raises(UserError, match="sums: form = chat: the model has no chat template"):
        Sums(form="chat").prompt("5?", ByHand())
    with pytest.raises(ConfigError, match=r"form = 'Q:': must be chat, plain, or a text"):
        Sums(form="Q:")


def test_the_usual_form_is_the_template_where_the_benchmark_says_so():
    for has_chat, form in ((True, "chat"), (False, HHH.plain)):
        assert HHH().form_for(ByHand(has_chat=has_chat)) == form
    assert Sums().form_for(ByHand(has_chat=True)) == Sums.plain
    assert HHH(form="plain").form_for(ByHand(has_chat=True)) == HHH.plain


def test_means_leave_out_what_is_not_defined():
    rows = base.table([{"id": "a", "score": 1, "tokens": 3}, {"id": "b", "score": None},
                       {"id": "c", "score": False, "tokens": 7.5}])  # fmt: skip
    assert np.isnan(rows["score"][1]) and rows["id"].dtype == object
    summary = Sums().summary(rows, 5)
    assert summary == {"sums": bounded_mean([1, 0], 5), "sums_tokens": mean_interval([3, 7.5])}
    totals, weights = Sums().parts(rows)["sums"]
    assert totals.tolist() == [1, 0, 0] and weights.tolist() == [1, 0, 1]
    none = base.table([{"id": "a", "score": None, "tokens": None}])
    assert Sums().summary(none, 0) == {"sums": None, "sums_tokens": None}
    assert Sums().parts(none) == {}


def test_items_have_different_ids():
    with pytest.raises(RecordError, match="two items have the id 'x'"):
        base.checked_items("sums", [Item("x", {}, ""), Item("x", {}, "")])
    with pytest.raises(RecordError, match="sums: its files hold no item"):
        base.checked_items("sums", [])


def test_each_benchmark_says_what_it_is():
    for name, kind in BENCHMARKS.items():
        assert name == kind.called and name == kind().name
        assert all((kind.title, kind.licence, kind.source, kind.files))
        assert all(column.startswith(name) for column in kind().columns())
        assert set(kind().means()) <= set(kind().columns())


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"hhh_alignment_eval.json: no such file"):
        HHH(data=str(tmp_path)).items()
    monkeypatch.delenv("RLHF_JAX_DATA", raising=False)
    with pytest.raises(UserError, match="no folder is named: set RLHF_JAX_DATA"):
        HHH().items()


def test_tables_name_the_line_and_the_column(tmp_path):
    path = write(tmp_path, "t.csv", 'a,b\n1,"x\ny"\n3,4,5\n')
    with pytest.raises(RecordError, match=r"t.csv:4: expected 2 columns, got 3"):
        files.read_table(path, ("a",))
    with pytest.raises(RecordError, match=r"t.csv:1: expected the columns a, c: 'c' is missing"):
        files.read_table(path, ("a", "c"))
    path = write(tmp_path, "t.tsv", 'a\tb\n1\t"x\ny"\n')
    assert files.read_table(path, ("a", "b"), "\t") == [(f"{path}:2", {"a": "1", "b": "x\ny"})]
    path = write(tmp_path, "t.jsonl", [{"a": 1}, {"a": "b"}])
    with pytest.raises(RecordError, match=r"t.jsonl:2: field 'a': expected int, got 'b'"):
        files.read_jsonl(path, {"a": int})


def test_choices_by_likelihood():
    assert choices.entropy_bits([-1.0] * 8) == pytest.approx(3)
    assert choices.entropy_bits([0.0, -1000.0]) == 0
    p = np.array([0.5, 0.3, 0.2])
    logs = (np.log(p) - 800).tolist()  # far from 0, where exp is 0
    assert choices.shares(logs) == pytest.approx(p)
    assert choices.entropy_bits(logs) == pytest.approx(-(p * np.log2(p)).sum())
    assert [choices.chosen([1, 3, 3], i) for i in range(3)] == [0, 0.5, 0.5]
    assert choices.per_character([-6.0, -6.0], ["abc", ""]) == [-2.0, -6.0]
    assert math.isclose(sum(choices.shares([-3.0, -9.0])), 1)
