"""A judge's win rate by a server on this machine; length control of scores; best-of-n."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation import best_of_n_policy, judged_win_rate
from rlhf_jax.evaluation.best_of_n_policy import BestOfN
from rlhf_jax.evaluation.judged_win_rate import JudgedWinRate, LengthControlledWinRate
from rlhf_jax.evaluation.length_control import length_controlled
from rlhf_jax.evaluation.summary import measured
from rlhf_jax.evaluation.win_rate import HALF
from tests.evaluation.judging.fake_server import says, serving
from tests.evaluation.judging.test_verdicts import parts
from tests.evaluation.subject import IDS, PROMPTS, Subject
from tests.stages import tiny

OWN = ["long answer", "x", "same", "no verdict", "bb"]
OTHER = ["short", "yyyy", "same", "z", "a"]


def samples(texts):
    columns = {"prompt": PROMPTS, "response": texts}
    return {"id": IDS} | {name: np.array(list(x), dtype=object) for name, x in columns.items()}


OTHERS = {("samples", None): samples(OWN), ("samples", "sft"): samples(OTHER)}


def longer(prompt, number):
    a, b = parts(prompt)
    if "no verdict" in (a, b):
        return says("I cannot say.")
    if "bb" in (a, b):  # whatever stands first
        return says("[[A]]")
    return says("[[A]]" if len(a) > len(b) else "[[B]]")


def test_a_judge_s_wins_are_of_pairs_in_both_orders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serving(longer) as fake:
        evaluator = JudgedWinRate("sft", judge=f"{fake.url}#m,tries=1")
        rows = evaluator.rows(Subject(evaluator, others=OTHERS))
        asked = len(fake.requests)
        evaluator.rows(Subject(evaluator, others=OTHERS))
        assert len(fake.requests) == asked == 8  # four pairs twice, one of equal texts unasked
    np.testing.assert_array_equal(rows["win"], [1, 0, 0.5, np.nan, 0.5])
    np.testing.assert_array_equal(rows["consistent"], [1, 1, 1, np.nan, 0])
    found = evaluator.summary(rows, 0)
    assert found["judged_wins_vs_sft"].mean == 0.5
    assert found["judged_wins_vs_sft_consistent"].mean == 0.75
    assert found["judged_wins_vs_sft_unread"] == 1
    assert found["judged_wins_vs_sft_prefers_first"] == (1 + 1 + 0 + 0 + 2) / 8
    control = length_controlled([1, 0, 0.5, 0.5], [11, 1, 4, 2], [5, 4, 4, 1])
    assert found["judged_wins_vs_sft_length_controlled"].mean == control.win_rate
    assert found.keys() == evaluator.columns().keys()
    said, about = evaluator.findings({"ppo": measured(evaluator, rows, 0)}, 0)
    assert "does not clearly prefer the responses of ppo to those of sft: 0.500" in said
    assert "2 decided prompts: p = 1)" in said and "difficulty, is dropped" in about
    itself = evaluator.rows(Subject(evaluator, stage="sft", others=OTHERS))
    assert evaluator.summary(itself, 0) == {"judged_wins_vs_sft": HALF}
    assert evaluator.findings({"sft": measured(evaluator, itself, 0)}, 0) == []


def test_a_judge_is_named_in_the_experiment(monkeypatch):
    with pytest.raises(UserError, match=r"judge.url = 'nowhere'"):
        JudgedWinRate("sft", judge="nowhere")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY must hold its key"):
        JudgedWinRate("sft", judge="https://x#m").check(None, None)


def test_length_control_of_scores_reads_their_wins():
    evaluator = LengthControlledWinRate("sft", of="reward_score")
    own, other = np.array([1.0, 5, 2, 2, 9]), np.array([0.0, 6, 2, 1, 3])
    scores = {("reward_score", None): {"id": IDS, "score": own},
              ("reward_score", "sft"): {"id": IDS, "score": other}}  # fmt: skip
    rows = evaluator.rows(Subject(evaluator, others=OTHERS | scores))
    wins = [1, 0, 0.5, 1, 1]
    expected = length_controlled(wins, [len(x) for x in OWN], [len(x) for x in OTHER]).win_rate
    name = "reward_score_length_controlled_wins_vs_sft"
    assert evaluator.summary(rows, 0)[name].mean == expected
    itself = evaluator.rows(Subject(evaluator, stage="sft", others=OTHERS | scores))
    assert evaluator.summary(itself, 0) == {name: HALF}


def test_best_of_n_is_measured_from_the_same_samples(monkeypatch):
    """The score is the response's length; the grade falls with it."""
    texts = {}

    def lengths(score, params, prompts, responses, tokenizer, **how):
        assert params == "model" and how == {"missing": -1.0, "batch_size": 3, "length": 11}
        for prompt, response in zip(prompts, responses, strict=True):
            texts.setdefault(prompt, []).append(response.text)
        return np.array([len(response.text) for response in responses], np.float32)

    monkeypatch.setattr(best_of_n_policy, "score_responses", lengths)
    evaluator = BestOfN("reward", n=(1, 3), samples=3, only=("ppo",))
    grade = lambda prompt, text: SimpleNamespace(score=1 - len(text) / 10)
    subject = Subject(evaluator, tiny.policy_params(1), models={"by": "model"}, grade=grade)
    rows = evaluator.rows(subject)
    sizes = np.array([[len(text) for text in texts[prompt]] for prompt in PROMPTS])
    assert sizes.shape == (5, 3) and len(np.unique(sizes)) > 1
    np.testing.assert_allclose(rows["score 1"], sizes.mean(axis=1))
    np.testing.assert_allclose(rows["score 3"], sizes.max(axis=1))
    np.testing.assert_allclose(rows["grade 3"], 1 - sizes.max(axis=1) / 10)
    found = evaluator.summary(rows, 0)
    assert found.keys() == evaluator.columns().keys()
    assert found["best_of_3_by_reward_kl"] == pytest.approx(math.log(3) - 2 / 3)
    assert found["best_of_1_by_reward_kl"] == 0
    assert found["best_of_3_by_reward_grade"].mean == pytest.approx(rows["grade 3"].mean())


def test_best_of_n_names_its_stages_and_numbers():
    with pytest.raises(ConfigError, match=r"n = .*: must be numbers from 1 to samples = 4"):
        BestOfN("reward", n=(1, 8), samples=4, only=("ppo",))
    with pytest.raises(ConfigError, match="only = "):
        BestOfN("reward")
    evaluator = BestOfN("reward", only=("ppo",))
    with pytest.raises(UserError, match="ppo is prompted with examples"):
        evaluator.rows(Subject(evaluator, behind="Q: "))
    assert judged_win_rate.SAMPLES in JudgedWinRate("sft", judge="http://x#m").reads()
