"""Held-out pairs of a reward model, beside a loop over pairs; and what the findings say of them."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import ConfigError
from rlhf_jax.evaluation.evaluator import Measured
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy, pair_accuracy
from rlhf_jax.evaluation.statistics import mean_interval
from rlhf_jax.evaluation.summary import measured
from rlhf_jax.stages.facts import Expected, Facts
from rlhf_jax.stages.facts import Measured as Fact
from tests.evaluation.subject import LETTERS, Subject
from tests.stages import tiny

PROMPTS = 200
RANKINGS = {
    "hh": [
        Ranking("ab", ("xyz", "q"), (0, 1)),
        Ranking("d", ("aaaaaaaaaaaaaaaaaa", "b"), (0, 1)),  # too long
        Ranking("c", ("a", "bb", "ccc"), (1, 0, 2), (True, False, True)),
        Ranking("ab", ("m", "nn"), (1, 0)),
    ],
    "web": [
        Ranking("ab", ("k", "lm", "n", "op"), (0, 1, 1, 2)),
        Ranking("e", ("f", "g"), (0, 0)),  # says nothing
    ],
}
EVALUATOR = RewardAccuracy(length=12, outputs=4, batch_size=2)


def by_loop(params, rankings, score) -> np.ndarray:
    """Right, and all untied pairs; -log sigmoid of their differences over C(K, 2)."""
    right = pairs = loss = 0
    for r in rankings:
        ids = [[LETTERS.bos_id, *LETTERS.encode(r.prompt), *LETTERS.encode(x)]
               + [LETTERS.eos_id] * (r.ended is None or r.ended[k])
               for k, x in enumerate(r.responses)]  # fmt: skip
        values = score(params, ids)
        for i, a in enumerate(r.ranks):
            for j, b in enumerate(r.ranks):
                if a < b:
                    pairs += 1
                    right += (values[i] > values[j]) + 0.5 * (values[i] == values[j])
                    loss += np.log1p(np.exp(values[j] - values[i])) / math.comb(len(r.ranks), 2)
    return np.array([right, pairs, loss])


def last_scores(params, sequences):
    return [row[-1] for row in tiny.sequence_scores(params, sequences)]


@pytest.fixture(scope="module")
def rows():
    subject = Subject(EVALUATOR, tiny.score_params(1), data={("rankings", "valid"): RANKINGS})
    return EVALUATOR.rows(subject)


def test_a_row_is_a_prompt_of_a_source_with_its_pairs(rows):
    assert rows["group"].tolist() == ["hh"] * 3 + ["web"] * 2
    assert len(set(rows["id"].tolist())) == 5
    groups = [["hh", "ab"], ["hh", "c"], ["hh", "d"], ["web", "ab"], ["web", "e"]]
    params = tiny.score_params(1)
    for row, (source, prompt) in enumerate(groups):
        kept = [
            r for r in RANKINGS[source] if r.prompt == prompt and max(map(len, r.responses)) < 9
        ]
        right, pairs, loss = by_loop(params, kept, last_scores)
        longer, *_ = by_loop(params, kept, lambda _, ids: [len(x) for x in ids])
        found = [rows[name][row] for name in ("correct", "longer", "pairs")]
        assert found == [right, longer, pairs]
        assert rows["loss"][row] == pytest.approx(loss, rel=1e-4)
    assert rows["rankings"].tolist() == [2, 1, 0, 1, 0]
    assert rows["pairs"].tolist() == [2, 3, 0, 5, 0]
    assert rows["over_long"].tolist() == [0, 0, 1, 0, 0]


def test_the_pairs_of_the_sources_are_those_of_the_whole(rows):
    found = measured(EVALUATOR, rows, 0)
    assert list(found.groups) == ["hh", "web"]
    for name, whole, parts in (
        ("pairs", 10, [5, 5]),
        ("prompts", 3, [2, 1]),
        ("over_long", 1, [1, 0]),
    ):
        assert found.summary[f"accuracy_{name}"] == whole
        assert [of[f"accuracy_{name}"] for of in found.groups.values()] == parts
    columns = [rows[name] for name in ("correct", "longer", "pairs")]
    assert found.summary["accuracy"] == pair_accuracy(*columns, 0)["accuracy"]
    assert found.summary["accuracy"].mean == rows["correct"].sum() / 10
    totals, weights = EVALUATOR.parts(rows)["loss"]
    assert found.summary["loss"].mean == pytest.approx(totals.sum() / weights.sum())
    some = [0, 1, 3]  # prompts with a pair
    of_rankings = mean_interval(rows["loss"][some], rows["rankings"][some])
    assert of_rankings.low < 0 and of_rankings.mean == rows["loss"].sum() / 4
    assert found.summary["loss"] == of_rankings._replace(low=0)  # a loss is not negative
    one = measured(EVALUATOR, {name: x[:3] for name, x in rows.items()}, 0)
    assert one.groups == {}  # a single source is the whole


@pytest.mark.parametrize(
    ("length", "tokens", "fits", "cut"),
    [
        (256, [3, 70, 300], [True, True, False], 128),
        (256, [193, 256], [True, True], 256),
        (256, [300], [False], 64),
        (64, [3], [True], 64),
    ],
)
def test_rows_are_cut_to_the_longest_record_that_fits(length, tokens, fits, cut):
    found, rows = RewardAccuracy(length=length).fitting(tokens)
    assert (found.tolist(), rows) == (fits, cut)


def test_a_batch_has_room_for_the_outputs_of_the_largest_ranking_of_its_source():
    evaluator = dataclasses.replace(EVALUATOR, outputs=9)
    subject = Subject(evaluator, tiny.score_params(1), data={("rankings", "valid"): RANKINGS})
    evaluator.rows(subject)
    shapes = [batch["tokens"] for batch in subject.programs["measure"].seen]
    assert shapes == [(2, 3, 12), (2, 3, 12), (2, 4, 12)]


def test_a_source_that_is_too_long_as_a_whole_has_no_pair():
    data = {("rankings", "valid"): {"hh": RANKINGS["hh"][1:2]}}
    found = EVALUATOR.rows(Subject(EVALUATOR, tiny.score_params(1), data=data))
    assert found["over_long"].tolist() == [1] and found["pairs"].tolist() == [0]
    summary = EVALUATOR.summary(found, 0)
    assert summary["accuracy"] is None and summary["loss"] is None


def test_the_loss_is_divided_as_the_stage_s_and_of_a_model_that_diverged_no_number(rows):
    ranked = {"web": RANKINGS["web"][:1]}  # five untied pairs of six
    subject = lambda e: Subject(e, tiny.score_params(1), data={("rankings", "valid"): ranked})
    evaluator = dataclasses.replace(EVALUATOR, divide_by="untied_pairs")
    one, other = (e.rows(subject(e))["loss"][0] for e in (EVALUATOR, evaluator))
    assert one * 6 == pytest.approx(other * 5)
    diverged = rows | {"loss": np.full(5, np.inf)}
    assert math.isnan(EVALUATOR.summary(diverged, 0)["loss"])


def test_rankings_are_those_of_the_named_stage():
    named = RewardAccuracy(length=12, rankings="feedback")
    assert named.needs() == {"rankings": ("feedback", "rankings")} and EVALUATOR.needs() == {}
    assert (named.name, EVALUATOR.name) == ("accuracy_on_feedback", "accuracy")
    assert {"accuracy_on_feedback_pairs", "loss_on_feedback"} <= named.columns().keys()


def facts(expected=None, outputs=3):
    some = lambda *arguments: asked.append(arguments)
    asked: list = []
    made = SimpleNamespace(
        expected=expected, some=some, asked=asked, measured=lambda *_: [Fact(8, outputs)],
        where=lambda *_: "data set rankings.valid",
    )  # fmt: skip
    made.rankings = functools.partial(Facts.rankings, made)
    return made


def test_records_are_checked_before_any_step():
    there = facts()
    EVALUATOR.check(there, None)
    assert there.asked == [("rankings", "valid", "length", 12)]
    words = "outputs = 4: must be at least 5, the longest ranking of data set rankings.valid"
    with pytest.raises(ConfigError, match=words):
        EVALUATOR.check(facts(outputs=5), None)
    named = RewardAccuracy(length=12, outputs=4, rankings="feedback")
    named.check(facts(Expected(20, 12, 4)), None)
    with pytest.raises(ConfigError, match="outputs = 4: must be at least 5, the largest K of feed"):
        named.check(facts(Expected(20, 12, 5)), None)
    with pytest.raises(ConfigError, match="length = 12: must be at least 13"):
        named.check(facts(Expected(20, 13, 4)), None)


# What the figures are and say.


def part(right: float, longer: float, over_long: int = 0, prompts: int = PROMPTS) -> dict:
    """Prompts of one pair each, of which a share is right, the first ones."""
    ones = lambda share: (np.arange(prompts) < round(share * prompts)).astype(float)
    accuracy = pair_accuracy(ones(right), ones(longer), np.ones(prompts), seed=0)
    return accuracy | {"over_long": over_long}


def named(parts: dict) -> dict:
    """By the columns of the evaluator."""
    names = {"accuracy": "accuracy"}
    return {names.get(part, f"accuracy_{part}"): value for part, value in parts.items()}


def findings(whole: dict, **groups: dict) -> list[str]:
    found = Measured({}, named(whole), {name: named(of) for name, of in groups.items()})
    return EVALUATOR.findings({"reward": found}, 0)


def sentence(words: str, whole: dict) -> str:
    (only,) = [text for text in findings(whole) if words in text]
    return only


def test_accuracy_and_its_difference_are_of_pairs_and_over_prompts():
    correct, longer, pairs = np.array([[3.0, 1, 0], [1, 0.5, 0], [3, 1, 0]])
    found = pair_accuracy(correct, longer, pairs, seed=0)
    assert found["accuracy"].mean == 1
    assert found["longer_is_better"].mean == pytest.approx(1.5 / 4)
    assert found["difference"].mean == pytest.approx(2.5 / 4)
    assert (found["pairs"], found["prompts"]) == (4, 2)  # the third prompt has ties only
    # Of two prompts with 2 more of 3 and .5 more of 1 right; the third, not seen, has two pairs
    # that may both be of either sign. By simulation.
    g = np.random.default_rng(1).exponential(size=(3, 400_000))
    for side, end, quantile in ((-1, "low", 0.025), (1, "high", 0.975)):
        drawn = (2 * g[0] + 0.5 * g[1] + side * 2 * g[2]) / (3 * g[0] + g[1] + 2 * g[2])
        bound = found["difference"]._asdict()[end]
        assert bound == pytest.approx(np.quantile(drawn, quantile), abs=0.02)


def test_the_difference_is_paired():
    right = (np.arange(PROMPTS) % 2).astype(float)
    same = pair_accuracy(right, right, np.ones(PROMPTS), seed=0)["difference"]
    # Only the prompt that was not seen may differ; its weight is Beta(1, 200).
    edge = 1 - 0.025 ** (1 / PROMPTS)
    assert same.mean == 0
    assert [same.low, same.high] == pytest.approx([-edge, edge], abs=2e-3)


@pytest.mark.parametrize(("prompts", "low"), [(1, 0.025), (2, 0.025**0.5), (3, 0.025 ** (1 / 3))])
def test_a_few_pairs_ranked_right_are_not_surely_better_than_chance(prompts, low):
    whole = part(1, 1, prompts=prompts)
    assert whole["accuracy"] == (1, pytest.approx(low, abs=0.01), 1)
    assert "not clearly better or worse than chance" in sentence("Reward model reward", whole)
    assert sentence("no sign of", whole)


def test_a_source_without_a_pair_says_so():
    none = pair_accuracy(np.zeros(2), np.zeros(2), np.zeros(2), seed=0) | {"over_long": 0}
    assert (none["accuracy"], none["pairs"], none["prompts"]) == (None, 0, 0)
    assert "no held-out pair" in sentence("Reward model reward", none)
    assert sentence("no sign of", none)


@pytest.mark.parametrize(
    ("right", "verdict"),
    [(0.7, "better than chance"), (0.3, "worse than chance"), (0.52, "interval contains 0.5")],
)
def test_chance(right, verdict):
    text = sentence("Reward model reward", part(right, 0.5))
    assert verdict in text
    assert f"{right:.3f} [" in text and "200 held-out pairs of 200 prompts" in text
    unsure = [t for t in findings(part(right, 0.5)) if "no sign of" in t]
    assert len(unsure) == (right < 0.6)


@pytest.mark.parametrize(
    ("right", "longer", "verdict"),
    [
        (0.8, 0.6, "the reward model is better ("),
        (0.6, 0.8, "the reward model is worse ("),
        (0.6, 0.6, "not clearly better or worse"),
    ],
)
def test_longer_is_better(right, longer, verdict):
    text = sentence("longer output", part(right, longer))
    assert verdict in text
    assert f"{longer:.3f} [" in text


def test_every_source_has_its_sentence_and_what_is_left_out_its_number():
    sources = {"hh": part(0.4, 0.5, 4), "pandalm": part(0.7, 0.5, 5)}
    found = findings(part(0.7, 0.5, 9), **sources)
    starts = [text.split(":")[0] for text in found[:3]]
    assert starts == [f"Reward model reward, {source}" for source in ("all", *sources)]
    assert "9 held-out rankings are longer than 12 tokens and are not counted." in found
    assert not any("are longer than" in text for text in findings(part(0.7, 0.5)))
