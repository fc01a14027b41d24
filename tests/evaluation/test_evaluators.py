"""Rows and figures of each evaluator of policies, beside loops over texts and distributions."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.data.records import Text
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.behaviour import Behaviour
from rlhf_jax.evaluation.evaluator import EvaluationConfig, Evaluator, as_json, checked, number
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.policies import Sampler
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.statistics import Interval, bounded_mean, mean_interval, win_rate
from rlhf_jax.evaluation.summary import measured
from rlhf_jax.evaluation.win_rate import HALF, WinRate
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.stage import Need
from tests.evaluation.subject import ASKED, IDS, LETTERS, PROMPTS, RESPONSES, Subject
from tests.stages import tiny

TEXTS = [response.text for response in RESPONSES]


def graded(prompt, response):
    flags = {"followed": None if len(prompt) == 1 else "x" in response, "harmful": None,
             "hallucinated": response.startswith("z")}  # fmt: skip
    return SimpleNamespace(score=(len(prompt) + len(response)) / 10, flags=flags)


def test_a_gold_score_is_the_grade_of_each_response_to_its_own_prompt():
    evaluator = GoldScore()
    rows = evaluator.rows(Subject(evaluator, grade=graded))
    expected = [(len(p) + len(t)) / 10 for p, t in zip(PROMPTS, TEXTS, strict=True)]
    np.testing.assert_array_equal(rows["id"], IDS)
    np.testing.assert_allclose(rows["score"], expected)
    assert evaluator.summary(rows, 7) == {"gold_score": bounded_mean(expected, 7)}
    assert evaluator.summary(rows, 7) != evaluator.summary(rows, 8)
    assert evaluator.notes({"id": 3, "score": 0.625}) == [("gold score 0.62", "")]
    with pytest.raises(UserError, match=r"must be in \[0, 1\]"):
        evaluator.summary({"id": IDS, "score": np.full(5, 1.1)}, 0)


def test_a_source_without_a_grader_is_told_before_any_step():
    def grader():
        raise UserError("data: HumanData has no grader")

    for evaluator in (GoldScore(), Behaviour()):
        with pytest.raises(UserError, match="has no grader"):
            evaluator.check(None, grader)
    KL("sft").check(None, grader)  # asks nobody


def test_behaviour_is_a_share_of_the_prompts_that_ask():
    evaluator = Behaviour()
    rows = evaluator.rows(Subject(evaluator, grade=graded))
    assert list(rows) == ["id", "followed", "hallucinated", "harmful"]
    np.testing.assert_array_equal(rows["followed"], [1, math.nan, 0, math.nan, 0])
    found = evaluator.summary(rows, 3)
    assert found == {
        "followed": bounded_mean([1, 0, 0], 3),
        "hallucinated": bounded_mean([0, 0, 0, 0, 1], 3),
        "harmful": None,
    }
    item = {"id": 0, "followed": 0.0, "hallucinated": 0.0, "harmful": math.nan}
    assert evaluator.notes(item) == [("not followed", "bad"), ("not hallucinated", "good")]
    item |= {"followed": 1.0, "hallucinated": 1.0}
    assert evaluator.notes(item) == [("followed", "good"), ("hallucinated", "bad")]
    assert [c.better for c in evaluator.columns().values()] == ["higher", "lower", "lower"]


def test_a_win_is_a_higher_score_than_the_named_stage_s_on_the_same_prompt():
    evaluator = WinRate("sft", of="reward_score")
    own, other = np.array([1.0, 5, 2, 2, 9]), np.array([0.0, 6, 2, 1, 3])
    others = {("reward_score", None): {"id": IDS, "score": own},
              ("reward_score", "sft"): {"id": IDS, "score": other}}  # fmt: skip
    rows = evaluator.rows(Subject(evaluator, others=others))
    found = evaluator.summary(rows, 5)
    assert found == {"reward_score_wins_vs_sft": win_rate(own, other, 5)}
    assert found["reward_score_wins_vs_sft"].mean == 0.7
    itself = evaluator.rows(Subject(evaluator, stage="sft", others=others))
    assert evaluator.summary(itself, 5) == {"reward_score_wins_vs_sft": HALF}
    others["reward_score", "sft"] = {"id": IDS[::-1], "score": other}
    with pytest.raises(UserError, match="different items"):
        evaluator.rows(Subject(evaluator, others=others))


def kl_loop(policy, reference, temperature, key):
    """Of each prompt: the KL of each token's distribution, by a loop, on the sampled responses."""
    sampler = Sampler(
        tiny.MODEL, LETTERS, SamplingConfig(temperature), tiny.ENDING, **ASKED.shape
    )  # fmt: skip
    found = []
    for batch, rollout in sampler.batches(policy, PROMPTS, key):
        for row in np.flatnonzero(batch["index"] >= 0):
            start = [LETTERS.bos_id, *LETTERS.encode(PROMPTS[batch["index"][row]])]
            ids = start + rollout.tokens[row][rollout.mask[row] > 0].tolist()
            logits = [
                np.asarray(p["tokens"], np.float64)
                @ tiny.sequence_states(p, [ids])[0].T
                / temperature
                for p in (policy, reference)
            ]
            p, q = (np.exp(x - x.max(axis=0)) / np.exp(x - x.max(axis=0)).sum(0) for x in logits)
            found.append((p * np.log(p / q)).sum(axis=0)[len(start) - 1 : -1].sum())
    return found


def test_kl_is_of_the_policy_to_the_reference_on_the_policy_s_own_responses():
    evaluator = KL("sft", temperature=0.7)
    policy, reference = tiny.policy_params(1), tiny.policy_params(2)
    subject = Subject(
        evaluator, policy, models={"to": reference}, logged=({"kl": 3.0}, {"kl": 7.25}),
        needs={"start": Need("ppo", "policy"), "reference": Need("sft", "policy")},
    )  # fmt: skip
    key, asked = subject.key, []
    subject.key = lambda use: asked.append(use) or key(use)
    rows = evaluator.rows(subject)
    assert asked == ["kl"]  # so that every policy has the same noise
    expected = kl_loop(policy, reference, 0.7, key("kl"))
    np.testing.assert_allclose(rows["nats"], expected, rtol=1e-4)
    found = evaluator.summary(rows, 0)
    assert found["kl_to_sft"] == mean_interval(rows["nats"])
    assert found["kl_to_sft"].mean == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["kl_to_sft_in_training"] == 7.25
    assert evaluator.needs() == {"to": Need("sft", "policy")}


@pytest.mark.parametrize("logged", [(), ({"loss": 2.0},), ({"kl": None},)])
def test_kl_to_itself_is_0_and_behind_examples_not_known(logged):
    evaluator = KL("sft")
    found = evaluator.summary(evaluator.rows(Subject(evaluator, stage="sft", logged=logged)), 0)
    assert found == {"kl_to_sft": Interval(0, 0, 0), "kl_to_sft_in_training": None}
    found = evaluator.summary(evaluator.rows(Subject(evaluator, behind="a b\n")), 0)
    assert math.isnan(found["kl_to_sft"])


@pytest.mark.parametrize(
    ("needs", "known"),
    [({"reference": "sft"}, 7.25), ({"start": "sft", "reference": "ppo"}, None),
     ({"start": "sft"}, 7.25), ({"start": "ppo"}, None), ({}, None)],
)  # fmt: skip
def test_the_kl_of_training_is_shown_where_it_was_to_that_policy(needs, known):
    evaluator = KL("sft")
    needs = {role: Need(stage, "policy") for role, stage in needs.items()}
    subject = Subject(evaluator, stage="sft", logged=({"kl": 7.25},), needs=needs)
    found = evaluator.summary(evaluator.rows(subject), 0)
    assert found["kl_to_sft_in_training"] == known


def test_kl_that_diverged_is_no_number():
    rows = {"id": IDS, "nats": np.array([1.0, np.inf, 0, 0, 0]), "in_training": np.full(5, np.nan)}
    assert math.isnan(KL("sft").summary(rows, 0)["kl_to_sft"])


DOCUMENTS = [Text("abcdefghij"), Text("kl"), Text("mnopqrstuv"), Text("w")]


def loss_of(params, text) -> tuple[float, int]:
    ids = [LETTERS.bos_id, *LETTERS.encode(text.text), LETTERS.eos_id]
    log_probs = tiny.sequence_log_probs(params, [ids])[0]
    return -log_probs.sum(), len(log_probs)


def test_the_pretraining_loss_is_of_each_held_out_document():
    evaluator = PretrainingLoss(length=20, batch_size=2, against="sft")
    data = {("text", "valid"): {"all": DOCUMENTS}}
    policy, sft = tiny.policy_params(1), tiny.policy_params(2)
    itself = evaluator.rows(Subject(evaluator, sft, stage="sft", data=data))
    others = {("pretraining_loss", "sft"): itself}
    rows = evaluator.rows(Subject(evaluator, policy, data=data, others=others))
    # 12 + 4 + 4 of the next: the others lie in one row.
    whole = [0, 1, 3]
    for column, params in (("nats", policy), ("against", sft)):
        expected = [loss_of(params, DOCUMENTS[i])[0] for i in whole]
        np.testing.assert_allclose(rows[column][whole], expected, rtol=1e-4)
    np.testing.assert_array_equal(rows["tokens"], [11, 3, 11, 2])
    found = evaluator.summary(rows, 0)
    assert found["pretraining_loss"] == pytest.approx(rows["nats"].sum() / 27)
    difference = mean_interval(rows["nats"] - itself["nats"], rows["tokens"])
    assert found["pretraining_loss_vs_sft"] == difference
    found = evaluator.summary(itself, 0)
    assert found["pretraining_loss_vs_sft"] is None and "against" not in itself
    alone = PretrainingLoss(length=20)
    own = {"pretraining_loss": mean_interval(itself["nats"], itself["tokens"])}
    assert alone.summary(itself, 0) == own and alone.needs() == {}
    early = evaluator.rows(Subject(evaluator, policy, data=data, others=others, before=True))
    assert "against" not in early and evaluator.optional() == ("against",)
    np.testing.assert_array_equal(early["nats"], rows["nats"])
    rows["nats"][1] = np.inf
    found = evaluator.summary(rows, 0)
    assert found["pretraining_loss"] == math.inf and math.isnan(found["pretraining_loss_vs_sft"])


def test_a_reward_score_is_the_scorer_s_and_of_a_missing_end_what_ppo_says():
    evaluator = RewardScore("reward")
    scorer = tiny.score_params(1)
    rows = evaluator.rows(Subject(evaluator, models={"by": scorer}))
    sequences = [[LETTERS.bos_id, *LETTERS.encode(prompt), *response.ids]
                 for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]  # fmt: skip
    last = [row[-1] for row in tiny.sequence_scores(scorer, sequences)]
    expected = [s if r.ended else -1.0 for s, r in zip(last, RESPONSES, strict=True)]
    np.testing.assert_allclose(rows["score"], expected, rtol=1e-4, atol=1e-5)
    assert evaluator.summary(rows, 0) == {"reward_score": mean_interval(rows["score"])}
    read_as_is = dataclasses.replace(tiny.ENDING, missing=None)
    read = evaluator.rows(Subject(evaluator, models={"by": scorer}, ending=read_as_is))
    np.testing.assert_allclose(read["score"], last, rtol=1e-4, atol=1e-5)
    assert evaluator.needs() == {"by": Need("reward", "score")}
    assert evaluator.notes({"id": 0, "score": 1.25}) == [("reward 1.25", "")]


def test_samples_tell_how_many_responses_end_and_how_long_they_are():
    evaluator = Samples()
    rows = evaluator.rows(Subject(evaluator))
    assert rows["response"].tolist() == TEXTS and rows["prompt"].tolist() == list(PROMPTS)
    found = evaluator.summary(rows, 2)
    assert found["ended"] == bounded_mean([1, 0, 1, 1, 0], 2)
    assert found["response_tokens"] == mean_interval([3, 3, 1, 2, 3])


def test_where_few_responses_end_their_score_is_told():
    evaluator = Samples()
    cut = tuple(response._replace(ended=response.text == "q") for response in RESPONSES)
    few, some = (measured(evaluator, evaluator.rows(Subject(evaluator, responses=of)), 0)
                 for of in (cut, RESPONSES))  # fmt: skip
    assert evaluator.findings({"ppo": some}, 0) == []
    assert evaluator.findings({"sft": few, "ppo": some, "dpo": few}, 0) == [
        "Few responses end: 20 % of sft's, 20 % of dpo's responses end; the others have the score "
        "ending.missing_eos_score = -1 in place of the reward model's."
    ]
    base = evaluator.rows(Subject(evaluator, responses=cut, trained_to_end=False))
    assert evaluator.findings({"pretrain": measured(evaluator, base, 0)}, 0) == []
    as_it_is = dataclasses.replace(tiny.ENDING, missing=None)
    rows = evaluator.rows(Subject(evaluator, responses=cut, ending=as_it_is))
    (told,) = evaluator.findings({"sft": measured(evaluator, rows, 0)}, 0)
    expected = ("Few responses end: 20 % of sft's responses end; the others were cut at "
                "evaluation.response_length tokens.")  # fmt: skip
    assert told == expected
    rows = evaluator.rows(Subject(evaluator, responses=cut, scored=False))
    assert evaluator.findings({"sft": measured(evaluator, rows, 0)}, 0) == [expected]


SMALL = dataclasses.replace(tiny.MODEL, context=10, vocab_size=39)


@pytest.mark.parametrize(
    ("evaluator", "shapes", "words"),
    [
        (RewardScore("reward"), {"by": SMALL}, "by = 'reward': must be a scorer of 40 tokens"),
        (
            RewardScore("reward"),
            {"by": dataclasses.replace(tiny.MODEL, context=10)},
            r"evaluation.prompt_length \+ response_length = 11: must be <= the context of reward",
        ),
        (KL("sft"), {"to": SMALL}, "to = 'sft': must be a policy of 40 tokens"),
        (PretrainingLoss(length=33), {}, "length = 33: must be <= a context of 32"),
    ],
)
def test_a_model_of_a_shape_that_does_not_fit_is_refused(evaluator, shapes, words):
    build = dataclasses.replace(Subject(GoldScore()).build, shapes={"subject": tiny.MODEL} | shapes)
    with pytest.raises(ConfigError, match=words):
        evaluator.check_shapes(build, ASKED)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GoldScore(every=0), "every = 0: must be positive"),
        (lambda: KL("sft", temperature=0.0), "temperature"),
        (lambda: PretrainingLoss(length=0), "length"),
        (
            lambda: PretrainingLoss(length=8, tax=("ppo",)),
            "against = None: must be a stage, to comp",
        ),
        (lambda: PretrainingLoss(length=8, against="a", tax=("b", "c", "d")), "tax"),
        (lambda: Samples(0), "count"),
        (lambda: EvaluationConfig(prompt_length=1, response_length=0), "response_length"),
    ],
)
def test_values_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"score": np.zeros(2)}, "must have an id"),
        ({"id": np.arange(2), "score": np.zeros(3)}, "one value per id"),
        ({"id": np.array([1, 1]), "score": np.zeros(2)}, "two of its rows have the same id"),
    ],
)
def test_rows_are_one_an_item(rows, words):
    with pytest.raises(UserError, match=f"^liking: .*{words}"):
        checked("liking", rows)
    fine = {"id": np.array(["a", "b"]), "score": np.zeros(2)}
    assert checked("liking", fine) == fine


@pytest.mark.parametrize("value", [math.nan, math.inf, Interval(math.nan, 0, 1), None])
def test_what_is_not_finite_is_not_known(value):
    assert as_json(value) is None


def test_an_interval_or_a_number_is_what_it_is():
    assert as_json(Interval(0.5, -math.inf, 1)) == {"mean": 0.5, "low": None, "high": 1}
    assert (as_json(0.25), as_json(3)) == (0.25, 3)
    assert (number(Interval(0.5, 0, 1)), number(2), number(None)) == (0.5, 2, None)


def test_an_evaluator_is_named_by_its_class():
    class TwoWords(Evaluator):
        pass

    names = [e.name for e in (TwoWords(), GoldScore(), KL("base"), PretrainingLoss(length=8))]
    assert names == ["two_words", "gold_score", "kl_to_base", "pretraining_loss"]
    assert TwoWords().programs(None, ASKED) == TwoWords().columns() == TwoWords().needs() == {}
