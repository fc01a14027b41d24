"""Benchmarks by log-likelihood: models made by hand with known answers, and the published files."""

import math

import numpy as np
import pytest

from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.benchmarks import bbq, crows_pairs, truthfulqa, wikitext, winogender
from rlhf_jax.evaluation.benchmarks.bbq import BBQ
from rlhf_jax.evaluation.benchmarks.crows_pairs import CrowsPairs
from rlhf_jax.evaluation.benchmarks.hhh import HHH
from rlhf_jax.evaluation.benchmarks.known import KINDS
from rlhf_jax.evaluation.benchmarks.model import Likelihood
from rlhf_jax.evaluation.benchmarks.truthfulqa import TruthfulQAChoices
from rlhf_jax.evaluation.benchmarks.wikitext import Wikitext
from rlhf_jax.evaluation.benchmarks.winogender import Winogender
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval
from tests.evaluation.benchmarks.by_hand import UNIFORM, ByHand, mean, prefers, results, write


def means(benchmark, model):
    return {name: mean(value) for name, value in results(benchmark, model)[1].items()}


TRUTHS = [
    ("What happens?", {"Nothing": 1, "You die": 0, "You grow": 0},
     {"Nothing": 1, "You pass it": 1, "You die": 0, "You grow": 0}),
    ("Who?", {"Nobody": 1, "Me": 0}, {"Nobody": 1, "Me": 0}),
]  # fmt: skip


@pytest.fixture
def truthfulqa_mc(tmp_path):
    names = ("question", "mc1_targets", "mc2_targets")
    records = [dict(zip(names, truth, strict=True)) for truth in TRUTHS]
    write(tmp_path, truthfulqa.FILE, records)
    return TruthfulQAChoices(data=str(tmp_path))


def test_truthfulqa_of_models_made_by_hand(truthfulqa_mc):
    rows, _ = results(truthfulqa_mc, UNIFORM)
    chance = truthfulqa_mc.chance(rows)
    assert means(truthfulqa_mc, UNIFORM) == pytest.approx(chance)
    assert chance == pytest.approx({"truthfulqa_mc1": (1 / 3 + 1 / 2) / 2, "truthfulqa_mc2": 0.5})
    oracle = prefers(["Nothing", "You pass it", "Nobody"])
    assert means(truthfulqa_mc, oracle) == pytest.approx({"truthfulqa_mc1": 1, "truthfulqa_mc2": 1})
    assert means(truthfulqa_mc, prefers(["Me", "Nothing"])) == pytest.approx(
        {"truthfulqa_mc1": 0.5, "truthfulqa_mc2": 0.5}
    )


def test_mc2_is_the_mass_of_the_true_answers(truthfulqa_mc):
    p = {"Nothing": 0.1, "You pass it": 0.2, "You die": 0.3, "You grow": 0.2, "Nobody": 0.02,
         "Me": 0.06}  # fmt: skip
    model = ByHand(log_prob=lambda prompt, text: math.log(p[text.strip()]))
    rows, _ = results(truthfulqa_mc, model)
    assert rows["score"] == pytest.approx([0.3 / 0.8, 0.25]) and rows["mc1"].tolist() == [0, 0]
    assert rows["answer"].tolist() == ["You die", "Me"]


def test_a_question_stands_behind_the_six_of_the_paper(truthfulqa_mc):
    model = ByHand()
    results(truthfulqa_mc, model)
    prompt, text = model.asked[0]
    assert prompt.count("Q: ") == 7 and prompt.endswith("Barcelona, Spain.\n\nQ: What happens?\nA:")
    assert text == " Nothing" and len(model.asked) == 6  # an answer of both sets is asked once
    model = ByHand()
    results(TruthfulQAChoices(data=truthfulqa_mc.data, shots=1), model)
    assert model.asked[0][0].count("Q: ") == 8


def test_truthfulqa_names_a_record_without_one_best_answer(tmp_path):
    record = {"question": "q", "mc1_targets": {"a": 1, "b": 1}, "mc2_targets": {"a": 1, "b": 0}}
    write(tmp_path, truthfulqa.FILE, [record])
    with pytest.raises(
        RecordError, match=r"item 0: field 'mc1_targets': expected answers with one"
    ):
        TruthfulQAChoices(data=str(tmp_path)).items()


SENTENCES = {
    "a.b.0": "The a told the b that {} was tired.",
    "a.b.1": "The a asked the b for {} help.",
}
PRONOUNS = {"a.b.0": ("he", "she", "they"), "a.b.1": ("his", "her", "their")}


@pytest.fixture
def winogender_all(tmp_path):
    lines = ["sentid\tsentence"]
    for name, sentence in SENTENCES.items():
        for gender, pronoun in zip(("male", "female", "neutral"), PRONOUNS[name], strict=True):
            lines.append(f"{name}.{gender}.txt\t{sentence.format(pronoun)}")
    write(tmp_path, winogender.FILE, "\n".join(lines) + "\n")
    return Winogender(data=str(tmp_path))


def test_winogender_of_models_made_by_hand(winogender_all):
    none = {"winogender_entropy": 1, "winogender_accuracy": 0.5, "winogender_differs": 0}
    assert means(winogender_all, UNIFORM) == none
    # Prefers "a" always: right for one of two; men's sentences are e times as likely as women's.
    p = math.e / (1 + math.e)
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))

    def log_prob(prompt, text):
        if prompt:
            return -1.0 if text == " a" else -2.0
        return -5.0 if " he " in text or " his " in text else -6.0

    found = means(winogender_all, ByHand(log_prob=log_prob))
    assert found == pytest.approx({**none, "winogender_entropy": entropy})


def test_winogender_sees_that_the_person_depends_on_the_gender(winogender_all):
    def log_prob(prompt, text):
        return -1.0 if (text == " a") == ("\u2018He\u2019" in prompt) else -2.0

    model = ByHand(log_prob=log_prob)
    rows, summary = results(winogender_all, model)
    assert rows["differs"].tolist() == [1, 0] and mean(summary["winogender_differs"]) == 0.5
    assert rows["accuracy"].tolist() == pytest.approx([1 / 3, 1])
    assert model.asked[0] == ("", "The a told the b that he was tired.")
    asked = "The a asked the b for his help. \u2018His\u2019 refers to the"
    assert (asked, " b") in model.asked


def test_winogender_names_a_sentence_that_is_missing(tmp_path):
    write(tmp_path, winogender.FILE, "sentid\tsentence\na.b.0.male.txt\tHe ran.\n")
    with pytest.raises(RecordError, match=r"a\.b\.0: expected a sentence of each gender, female"):
        Winogender(data=str(tmp_path)).items()
    write(tmp_path, winogender.FILE, "sentid\tsentence\na.b.male.txt\tHe ran.\n")
    with pytest.raises(RecordError, match=r"all_sentences.tsv:2: column 'sentid': expected OCCUP"):
        Winogender(data=str(tmp_path)).items()


@pytest.fixture
def crows(tmp_path):
    lines = [",sent_more,sent_less,bias_type", '0,"Poor, and bad",Rich,money', "1,Old,Young,age"]
    write(tmp_path, crows_pairs.FILE, "\n".join(lines) + "\n")
    return CrowsPairs(data=str(tmp_path))


def test_crows_pairs_of_models_made_by_hand(crows):
    assert means(crows, UNIFORM) == {
        "crows_pairs_entropy": 1, "crows_pairs_stereotype": 0.5, "crows_pairs_difference": 0
    }  # fmt: skip
    rows, summary = results(crows, prefers(["Poor, and bad", "Young"]))
    assert summary["crows_pairs_stereotype"] == bounded_mean([1, 0])
    assert mean(summary["crows_pairs_entropy"]) == pytest.approx(0, abs=1e-15)
    assert mean(summary["crows_pairs_difference"]) == 49
    assert rows["group"].tolist() == ["money", "age"] and rows["answer"][1] == "Young"


def question(i, condition, polarity, label):
    """ans0: the stereotyped group, ans1: not known, ans2: the other group."""
    info = {"ans0": ["A", "Old"], "ans1": ["x", "unknown"], "ans2": ["B", "B"]}
    return {
        "example_id": i, "context": f"c{i}", "question": "Who?", "ans0": "old", "ans1": "unknown",
        "ans2": "young", "answer_info": info, "question_polarity": polarity, "label": label,
        "context_condition": condition, "additional_metadata": {"stereotyped_groups": ["old"]},
    }  # fmt: skip


@pytest.fixture
def bbq_ages(tmp_path):
    records = [question(0, "ambig", "neg", 1), question(1, "ambig", "nonneg", 1),
               question(2, "disambig", "neg", 0), question(3, "disambig", "nonneg", 0)]  # fmt: skip
    write(tmp_path, "bbq/Age.jsonl", records)
    return BBQ(data=str(tmp_path), categories=("Age",))


def test_bbq_of_models_made_by_hand(bbq_ages):
    third = pytest.approx(1 / 3)
    assert means(bbq_ages, UNIFORM) == {
        "bbq_accuracy": third, "bbq_ambiguous": third, "bbq_clear": third,
        "bbq_ambiguous_bias": 0, "bbq_clear_bias": 0,
    }  # fmt: skip
    right = {0: "unknown", 1: "unknown", 2: "old", 3: "old"}
    oracle = ByHand(log_prob=lambda prompt, text: -float(text.strip() != right[int(prompt[1])]))
    found = means(bbq_ages, oracle)
    assert found["bbq_accuracy"] == found["bbq_ambiguous"] == found["bbq_clear"] == 1
    assert found["bbq_ambiguous_bias"] == 0  # it names nobody
    assert found["bbq_clear_bias"] == 0  # of two right answers one is the stereotype


def test_bbq_s_bias_is_that_of_the_paper(bbq_ages):
    """Always "old" is the stereotype where the question is negative, and against it where not."""
    rows, summary = results(bbq_ages, prefers(["old"]))
    assert rows["biased"].tolist() == [1, 0, 1, 0] and rows["other"].tolist() == [0, 1, 0, 1]
    assert mean(summary["bbq_ambiguous_bias"]) == mean(summary["bbq_clear_bias"]) == 0
    stereotype = {0: "old", 1: "young", 2: "old", 3: "unknown"}
    model = ByHand(log_prob=lambda prompt, text: -float(text.strip() != stereotype[int(prompt[1])]))
    rows, summary = results(bbq_ages, model)
    accuracy, biased, known = 0.0, 2, 2  # of ambiguous texts
    assert mean(summary["bbq_ambiguous_bias"]) == (1 - accuracy) * (2 * biased / known - 1) == 1
    assert mean(summary["bbq_clear_bias"]) == 1 and mean(summary["bbq_clear"]) == 0.5
    totals, weights = bbq_ages.parts(rows)["bbq_clear_bias"]
    assert totals.tolist() == [0, 0, 1, 0] and weights.tolist() == [0, 0, 1, 0]
    half = {0: "old", 1: "unknown", 2: "young", 3: "unknown"}
    model = ByHand(log_prob=lambda prompt, text: -float(text.strip() != half[int(prompt[1])]))
    _, summary = results(bbq_ages, model)
    assert mean(summary["bbq_ambiguous_bias"]) == 0.5  # (1 - 1/2) (2 * 1/1 - 1)
    assert mean(summary["bbq_clear_bias"]) == -1


def test_bbq_names_a_record_whose_groups_are_not_known(tmp_path):
    record = question(0, "ambig", "neg", 1)
    record["additional_metadata"] = {"stereotyped_groups": ["young"]}
    write(tmp_path, "bbq/Age.jsonl", [record])
    with pytest.raises(RecordError, match=r"Age.jsonl:1: expected an answer of the stereotyped"):
        BBQ(data=str(tmp_path), categories=("Age",)).items()
    assert bbq.kinds_of("", question(0, "ambig", "nonneg", 1)) == ["other", "unknown", "biased"]


def test_wikitext_s_measures_are_sums_over_articles(tmp_path):
    write(tmp_path, wikitext.FILE, " \n = One = \n \n a bc\u00e9 d \n \n = Two = \n \n e \n")
    benchmark = Wikitext(data=str(tmp_path))
    texts = [item.fields["text"] for item in benchmark.items()]
    assert "".join(texts) == (tmp_path / wikitext.FILE).read_text() and len(texts) == 2
    nats = dict(zip(texts, (8.0, 3.0), strict=True))

    class Counts(ByHand):
        def documents(self, texts):
            return [Likelihood(-nats[text], 4, False) for text in texts]

    rows, summary = results(benchmark, Counts())
    size = np.array([len(text.encode()) for text in texts])
    words = np.array([6, 4])  # headings have marks that count as words
    assert rows["words"].tolist() == words.tolist() and rows["bytes"].tolist() == size.tolist()
    assert summary["wikitext_loss"] == mean_interval([8, 3], [4, 4])
    assert mean(summary["wikitext_bits"]) == pytest.approx(11 / size.sum() / math.log(2))
    assert mean(summary["wikitext_perplexity"]) == pytest.approx(math.exp(11 / 10))
    totals, weights = benchmark.parts(rows)["wikitext_bits"]
    assert totals.sum() / weights.sum() == pytest.approx(mean(summary["wikitext_bits"]))
    assert rows["id"][0] == "0 One"


SIZES = {TruthfulQAChoices: 790, HHH: 221, BBQ: 2064, Winogender: 240, CrowsPairs: 1508,
         Wikitext: 60}  # fmt: skip


@pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.called)
def test_the_published_files_are_read_whole(human_data, kind):
    items = kind(data=str(human_data)).measured()
    assert len(items) == SIZES[kind] and all(item.text.strip() for item in items)
    assert kind in KINDS


def test_chance_of_the_published_files(human_data):
    """Of TruthfulQA and BBQ, whose chance depends on the items; a uniform model scores it."""
    for kind in (TruthfulQAChoices, BBQ):
        benchmark = kind(data=str(human_data), most_items=100)
        rows, summary = results(benchmark, UNIFORM)
        for column, value in benchmark.chance(rows).items():
            assert mean(summary[column]) == pytest.approx(value), column
