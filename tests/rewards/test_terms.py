"""Every term against a loop in float64, and their sum."""

import dataclasses
from collections import namedtuple

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.rewards.checked import CheckedReward
from rlhf_jax.rewards.ensemble import EnsembleReward
from rlhf_jax.rewards.graded import GradedReward
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.rewards.penalties import MissingEnd, OverLong
from rlhf_jax.rewards.reward import Judged, Reward, total

ROWS, LENGTH = 7, 12
DRAW = np.random.default_rng(3)
SCORES = {name: DRAW.normal(size=ROWS).astype(np.float32) for name in ("one", "two", "three")}
LENGTHS = [0, 1, 5, 8, 9, 11, 12]
ENDED = np.array([True, False, True, True, False, True, False])
FOUND = DRAW.normal(size=ROWS).astype(np.float32)
MASK = (np.arange(LENGTH) < np.array(LENGTHS)[:, None]).astype(np.float32)


def judged(term: Reward, found=None) -> Judged:
    scores = {stage: jnp.asarray(SCORES[stage]) for stage in term.scorers()}
    return Judged(scores, found, jnp.asarray(MASK), jnp.asarray(ENDED))


def rows(*stages):
    return [[float(SCORES[stage][i]) for stage in stages] for i in range(ROWS)]


def variance(values):
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


ALL = ("one", "two", "three")
TERMS = {
    "learned": (LearnedReward("two"), [row[0] for row in rows("two")]),
    "mean": (EnsembleReward(ALL), [sum(row) / 3 for row in rows(*ALL)]),
    "worst": (EnsembleReward(ALL, "worst"), [min(row) for row in rows(*ALL)]),
    "uncertainty": (
        EnsembleReward(ALL, "uncertainty", 0.3),
        [sum(row) / 3 - 0.3 * variance(row) for row in rows(*ALL)],
    ),
    "of two": (EnsembleReward(("three", "one")), [sum(row) / 2 for row in rows("one", "three")]),
    "missing end": (MissingEnd(), [0.0 if ended else -1.0 for ended in ENDED]),
    "over-long": (  # from 9 tokens on, by a third a token
        OverLong(longest=11, soft=3),
        [-min(max((n - (11 - 3)) / 3, 0), 1) for n in LENGTHS],
    ),
    "graded": (GradedReward(), [float(x) for x in FOUND]),
    "checked": (CheckedReward("a:b"), [float(x) for x in FOUND]),
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_the_loop_s(name):
    term, expected = TERMS[name]
    found = FOUND if term.on_host else None
    np.testing.assert_allclose(term.of(judged(term, found)), expected, rtol=1e-5, atol=1e-6)
    assert len(set(expected)) > 1


def test_over_long_at_its_corners():
    """DAPO's figures: nothing up to longest - soft, everything from longest on."""
    found = OverLong(longest=11, soft=3).of(judged(MissingEnd()))
    by_length = dict(zip(LENGTHS, np.asarray(found).tolist(), strict=True))
    assert by_length == pytest.approx({0: 0, 1: 0, 5: 0, 8: 0, 9: -1 / 3, 11: -1, 12: -1})
    whole = OverLong(longest=12, soft=12).of(judged(MissingEnd()))
    np.testing.assert_allclose(whole, [-n / 12 for n in LENGTHS], rtol=1e-6)


def test_the_reward_is_the_weighted_sum():
    weights = {"learned": 2.0, "uncertainty": -0.5, "missing end": 0.25, "graded": 1.0}
    terms = [dataclasses.replace(TERMS[name][0], weight=w) for name, w in weights.items()]
    found = total(terms, [term.of(judged(term, FOUND)) for term in terms])
    expected = [sum(w * TERMS[n][1][i] for n, w in weights.items()) for i in range(ROWS)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    (alone,) = [dataclasses.replace(LearnedReward("one"), weight=3.0)]
    np.testing.assert_allclose(
        total([alone], [alone.of(judged(alone))]), 3 * SCORES["one"], rtol=1e-6
    )


def test_a_grade_is_of_each_response_to_its_own_prompt():
    class Host:
        def grader(self):
            grade = namedtuple("Grade", "score")
            return lambda prompt, response: grade(len(prompt) + 10 * len(response))

    function = GradedReward().function(Host())
    found = function([{"prompt": "abc", "answer": "9"}, {"prompt": "a"}], ["x", "yy"])
    assert found == [13.0, 21.0]
    assert GradedReward.on_host and not LearnedReward.on_host


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: LearnedReward("one", weight=float("inf")), "weight"),
        (lambda: EnsembleReward(("one",)), "stages"),
        (lambda: EnsembleReward(("one", "two", "one")), "stages"),
        (lambda: EnsembleReward(ALL, "best"), "way"),
        (lambda: EnsembleReward(ALL, "uncertainty"), "coefficient"),
        (lambda: EnsembleReward(ALL, "uncertainty", -1.0), "coefficient"),
        (lambda: EnsembleReward(ALL, "worst", 0.5), "coefficient"),
        (lambda: OverLong(10, 0), "soft"),
        (lambda: OverLong(10, 11), "soft"),
    ],
)
def test_what_contradicts_itself_is_refused(make, field):
    with pytest.raises(ConfigError) as refused:
        make()
    assert refused.value.field == field
