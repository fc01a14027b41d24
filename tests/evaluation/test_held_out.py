"""Losses and preferences of a policy on held-out records, beside loops over tokens and pairs."""

import dataclasses
import math

import numpy as np
import pytest

from rlhf_jax.data import buckets
from rlhf_jax.data.records import Demonstration, Ranking, Scored
from rlhf_jax.errors import ConfigError
from rlhf_jax.evaluation.evaluator import number
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.score_error import ScoreError
from rlhf_jax.evaluation.sft_loss import SFTLoss
from rlhf_jax.evaluation.statistics import mean_interval, ratio_interval
from rlhf_jax.stages.dpo import DPO, SimPO
from rlhf_jax.stages.stage import Need
from tests.evaluation.subject import LETTERS, Subject
from tests.stages import tiny

RANKINGS = [
    Ranking("ab", ("xyz", "q"), (0, 1)),
    Ranking("d", ("aaaaaaaaaaaaaaaaaa", "b"), (0, 1)),  # too long
    Ranking("c", ("a", "bb", "ccc"), (1, 0, 2), (True, False, True)),
    Ranking("ab", ("k", "lm", "n"), (0, 1, 1)),
    Ranking("e", ("f", "g"), (0, 0)),  # says nothing
]
PAIRS = PreferenceAccuracy(
    length=12, outputs=3, batch_size=2, rankings="feedback", reference="sft", objective=DPO(0.3)
)
DATA = {("rankings", "valid"): {"feedback": RANKINGS}}


def response_log_probs(params, ranking) -> list[np.ndarray]:
    """Of each response, its tokens' log-probabilities; its end's where it ended."""
    start = [LETTERS.bos_id, *LETTERS.encode(ranking.prompt)]
    ids = [[*start, *LETTERS.encode(text), *[LETTERS.eos_id] * ended]
           for text, ended in zip(ranking.responses, ranking.ended, strict=True)]  # fmt: skip
    return [row[len(start) - 1 :] for row in tiny.sequence_log_probs(params, ids)]


def figures_by_loop(rewards, ranks, loss):
    """Right and all untied pairs, mean margin of these, loss over C(K, 2)."""
    pairs = [(a, b) for a, i in zip(rewards, ranks, strict=True)
             for b, j in zip(rewards, ranks, strict=True) if i < j]  # fmt: skip
    if not pairs:
        return np.zeros(5)
    right = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
    margin = np.mean([a - b for a, b in pairs])
    return np.array([right, len(pairs), margin,
                     sum(loss(a - b) for a, b in pairs) / math.comb(len(ranks), 2), 1])  # fmt: skip


def rows_by_loop(reward, loss):
    found = {"ab": np.zeros(5), "c": np.zeros(5), "d": np.zeros(5), "e": np.zeros(5)}
    for ranking in (RANKINGS[0], *RANKINGS[2:]):
        found[ranking.prompt] += figures_by_loop(reward(ranking), ranking.ranks, loss)
    return np.array(list(found.values())).T


def assert_parts(evaluator, rows, summary):
    """Of totals and weights the ratio of sums is what the report tells."""
    for column, (totals, weights) in evaluator.parts(rows).items():
        assert summary[column].mean == pytest.approx(totals.sum() / weights.sum()), column


def assert_figures(rows, expected):
    for name, values in zip(PAIRS.counted, expected, strict=True):
        np.testing.assert_allclose(rows[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_policy_orders_held_out_pairs_by_its_log_ratio_to_the_reference():
    policy, reference = tiny.policy_params(1), tiny.policy_params(2)
    rows = PAIRS.rows(Subject(PAIRS, policy, models={"reference": reference}, data=DATA))

    def log_ratios(ranking):
        both = (response_log_probs(params, ranking) for params in (policy, reference))
        return [p.sum() - q.sum() for p, q in zip(*both, strict=True)]

    assert_figures(rows, rows_by_loop(log_ratios, lambda h: np.log1p(np.exp(-0.3 * h))))
    assert rows["over_long"].tolist() == [0, 0, 1, 0] and "group" not in rows
    found, some = PAIRS.summary(rows, 3), [0, 1]
    assert found == {
        "preference_accuracy_on_feedback": ratio_interval(rows["correct"], rows["pairs"], 3),
        "preference_margin_on_feedback": mean_interval(rows["margin"][some], [2, 1]),
        "preference_loss_on_feedback": mean_interval(rows["loss"][some], [2, 1]),
        "preference_pairs_on_feedback": 6,
        "preference_over_long_on_feedback": 1,
    }
    assert found.keys() == PAIRS.columns().keys()
    assert_parts(PAIRS, rows, found)
    assert len(PAIRS.parts(rows)) == 3
    assert 0 < rows["correct"].sum() < 6


def test_an_objective_without_a_reference_orders_them_by_its_log_prob_a_token():
    evaluator = dataclasses.replace(PAIRS, reference=None, objective=SimPO(2.0, 0.5))
    policy = tiny.policy_params(1)
    rows = evaluator.rows(Subject(evaluator, policy, data=DATA))
    reward = lambda ranking: [row.mean() for row in response_log_probs(policy, ranking)]
    assert_figures(rows, rows_by_loop(reward, lambda h: np.log1p(np.exp(-(2 * h - 0.5)))))
    assert evaluator.needs() == {"rankings": Need("feedback", "rankings")}
    assert PAIRS.needs() == evaluator.needs() | {"reference": Need("sft", "policy")}
    assert dataclasses.replace(PAIRS, rankings=None).name == "preference_accuracy"


def test_what_contradicts_the_objective_is_refused():
    for change, words in (
        ({"reference": None}, "reference = None: must be a stage, the reference of DPO"),
        ({"objective": SimPO()}, "reference = 'sft': must be None: no reference SimPO"),
        ({"divide_by": "pairs"}, "divide_by = 'pairs': must be one of"),
        ({"outputs": 1}, "outputs = 1: must be at least 2"),
    ):
        with pytest.raises(ConfigError) as told:
            dataclasses.replace(PAIRS, **change)
        assert str(told.value).startswith(words)


def test_without_a_pair_nothing_is_known():
    none = {name: np.zeros(2) for name in (*PAIRS.counted, "over_long")}
    found = PAIRS.summary(none, 0)
    assert [found[f"preference_{name}_on_feedback"] for name in ("accuracy", "margin", "loss")] == [
        None, None, None,
    ]  # fmt: skip


DEMONSTRATIONS = [
    Demonstration("ab", "cdef"), Demonstration("q", "r" * 20), Demonstration("xyz", "ab"),
    Demonstration("k", ""),
]  # fmt: skip
LOSS = SFTLoss(length=10, batch_size=2)


def test_the_sft_loss_is_of_the_responses_of_held_out_demonstrations():
    policy = tiny.policy_params(1)
    data = {("demonstrations", "valid"): {"all": DEMONSTRATIONS}}
    rows = LOSS.rows(Subject(LOSS, policy, data=data))
    expected = []
    for record in (DEMONSTRATIONS[i] for i in (0, 2, 3)):
        start = [LETTERS.bos_id, *LETTERS.encode(record.prompt)]
        ids = [*start, *LETTERS.encode(record.response), LETTERS.eos_id]
        (row,) = tiny.sequence_log_probs(policy, [ids])
        expected.append(-row[len(start) - 1 :].sum())
    np.testing.assert_allclose(rows["nats"], expected, rtol=1e-4)
    np.testing.assert_array_equal(rows["tokens"], [5, 3, 1])
    assert rows["id"].tolist() == ["demonstration 0", "demonstration 2", "demonstration 3"]
    found = LOSS.summary(rows, 0)
    assert found == {"sft_loss": mean_interval(rows["nats"], rows["tokens"])}
    assert found["sft_loss"].mean == pytest.approx(sum(expected) / 9, rel=1e-4)
    assert_parts(LOSS, rows, found)
    assert LOSS.parts(rows).keys() == {"sft_loss"}
    behind = LOSS.rows(Subject(LOSS, policy, data=data, behind="an example\n"))
    assert math.isnan(number(LOSS.summary(behind, 0)["sft_loss"])) and not LOSS.parts(behind)


def test_rows_have_the_tokens_of_the_longest_record(monkeypatch):
    """Of at most 7, 4 and 7 tokens, in batches that are cut to 3, 5, 8 or 10 tokens."""
    monkeypatch.setattr(buckets, "SHORT", 4)
    scores = ScoreError(length=10, batch_size=2)
    ranked = RewardAccuracy(length=10, outputs=3, batch_size=2)
    scored = [Scored("a", "b", 1.0), Scored("q", "r" * 20, 2.0)]
    records = {"demonstrations": DEMONSTRATIONS, "scored": scored, "rankings": RANKINGS}
    data = {(kind, "valid"): {"all": of} for kind, of in records.items()}
    for evaluator, params, width in (
        (LOSS, tiny.policy_params(1), 8), (scores, tiny.score_params(1), 5),
        (ranked, tiny.score_params(1), 8),
    ):  # fmt: skip
        subject = Subject(evaluator, params, data=data)
        evaluator.rows(subject)
        (program,) = subject.programs.values()
        last = [each["tokens"] if isinstance(each, dict) else each for each in program.seen]
        assert {shape[-1] for shape in last} == {width}


def test_held_out_demonstrations_that_are_too_long_are_told():
    asked = []

    class Facts:
        def some(self, *arguments):
            asked.append(arguments)

    LOSS.check(Facts(), None)
    assert asked == [("demonstrations", "valid", "length", 10)]
