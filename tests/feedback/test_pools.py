"""Labelers who differ, and their division into groups."""

import dataclasses
import math
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.data.records import Prompt
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.feedback.agreement import Ratings, raw_agreement
from rlhf_jax.feedback.labelers import SimulatedLabeler, pairwise_agreement
from rlhf_jax.feedback.pools import LabelerPool, folds
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback

TEXTS = tuple(f" answer {i}" for i in range(4))


def ranked(pool: LabelerPool, labeler: str, noise: float = 0.0, prompts: int = 200) -> list:
    rng = random.Random(0)
    scores = [[rng.random() for _ in TEXTS] for _ in range(prompts)]
    texts = [[f" answer{n} {i}{n}" for i in range(len(TEXTS))] for n in range(prompts)]
    return [pool.rank(labeler, f"p{n}", texts[n], row, noise, seed=1, levels=None)
            for n, row in enumerate(scores)]  # fmt: skip


def test_a_pool_without_differences_is_one_labeler():
    pool = LabelerPool(size=4, groups=2)
    assert pool.names == ("0.0", "1.0", "0.1", "1.1")
    same = ranked(pool, "0.0")
    assert all(ranked(pool, name) == same for name in pool.names)
    scores = [0.1, 0.9, 0.5, 0.5]
    assert pool.rank("1.1", "p", TEXTS, scores, 0.0, 3) == SimulatedLabeler(0.0).rank(
        "p", TEXTS, scores
    )
    noisy = [ranked(pool, name, noise=0.5) for name in ("0.0", "1.0")]
    assert noisy[0] != noisy[1]  # noise is each labeler's own


def test_labelers_of_one_group_agree_more_than_those_of_two():
    """With tastes far above the scores, a group's order is its own: another group agrees by chance,
    half of the pairs."""
    pool = LabelerPool(size=4, groups=2, taste=100.0)
    own, same, other = (ranked(pool, name) for name in ("0.0", "0.1", "1.0"))
    assert own == same
    rows = [(n, name, ranks) for name, made in (("a", own), ("b", other))
            for n, ranks in enumerate(made)]  # fmt: skip
    found = raw_agreement(Ratings.of_rankings(rows))
    assert found.value == pytest.approx(0.5, abs=0.05)
    assert found.value == pairwise_agreement(own, other)


def test_a_group_likes_the_same_words_in_every_response():
    """z has mean 0 and variance 1 over groups, and is the same for each labeler of a group, in any
    order of the words; responses that share half of their words have a correlation of one half."""
    pool = LabelerPool(size=800, groups=400, taste=2.0)
    texts = ("a b", "b a a", "b c", "")
    found = np.array([pool.seen(f"{g}.0", texts, [0.0] * 4, seed=1) for g in range(400)]) / 2
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_array_equal(found[:, 3], 0)
    assert pool.seen("7.1", texts, [0.0] * 4, seed=1) == pytest.approx(2 * found[7])
    moments = np.cov(found[:, 0], found[:, 2])
    np.testing.assert_allclose(moments, [[1, 0.5], [0.5, 1]], atol=0.2)
    assert abs(found[:, 0].mean()) < 0.15


def test_lenience_moves_ratings_and_length_moves_ranks():
    lenient = LabelerPool(size=3, groups=3, lenience=0.5)
    scores = [0.2, 0.9, 0.4, 0.6]
    seen = {name: lenient.seen(name, TEXTS, scores, seed=1) for name in lenient.names}
    shifts = {name: np.subtract(values, scores) for name, values in seen.items()}
    for shift in shifts.values():
        np.testing.assert_allclose(shift, shift[0], atol=1e-12)
    assert len({round(shift[0], 6) for shift in shifts.values()}) == 3
    texts = ("a", "a b c", "a b c d e f g")
    long = LabelerPool(size=60, groups=1, length=2.0)
    weights = []
    for name in long.names:
        one, other, most = long.seen(name, texts, [0.0] * 3, seed=1)
        weights.append((most - one) / (math.log(8) - math.log(2)))
        assert other == pytest.approx(one + weights[-1] * (math.log(4) - math.log(2)))
    assert np.std(weights) == pytest.approx(2.0, rel=0.25)


def test_a_careless_labeler_answers_at_random():
    scores = [0.0, 0.3, 0.6, 1.0]
    for careless, share in ((0.0, 0.0), (0.5, 0.5 * 23 / 24), (1.0, 23 / 24)):
        pool = LabelerPool(size=1, groups=1, careless=careless)
        made = [pool.rank("0.0", f"p{n}", TEXTS, scores, 0.0, 1, None) for n in range(1000)]
        wrong = np.mean([ranks != (3, 2, 1, 0) for ranks in made])
        assert wrong == pytest.approx(share, abs=0.05)


def test_a_prompt_keeps_its_labeler_when_there_are_more():
    pool = LabelerPool(size=7, groups=3)
    assigned = pool.assigned(2000, seed=2)
    assert pool.assigned(20, seed=2) == assigned[:20] != pool.assigned(20, seed=3)
    counts = Counter(assigned)
    assert set(counts) == set(pool.names) and min(counts.values()) > 200


def test_feedback_by_a_pool_names_the_labeler_of_each_ranking():
    """Each prompt's outputs are ranked by the labeler who is named, with the calibrated noise."""
    pool, told = LabelerPool(size=6, groups=3, taste=0.5), {}
    stage = SimulatedFeedback(prompt_length=8, response_length=8, outputs=(4, 4), policy="sft",
                              pool=pool)  # fmt: skip
    score = lambda prompt, text: (len(prompt) * 7 + len(text) * 3) % 11 / 10
    prompts = [Prompt(f"p{'x' * n}") for n in range(30)]
    texts = [["y" * k, True] for _ in prompts for k in (1, 2, 3, 4)]
    inputs = SimpleNamespace(
        records=lambda kind, split: prompts, shuffle={"counts": 1, "labelers": 2}.get,
        host_results=lambda name: [texts], build=SimpleNamespace(name="feedback"),
        grader=lambda: lambda prompt, text: SimpleNamespace(score=score(prompt, text)),
        tell=lambda **found: told.update(found), directory="",
    )  # fmt: skip
    parts = stage.finish(None, inputs)
    found = [*parts["valid"], *parts["train"]]
    assert [r.labeler for r in found] == pool.assigned(30, seed=2)
    assert len(parts["valid"]) == 3 and len({r.labeler for r in found}) == 6
    for r in found:
        scores = [score(r.prompt, text) for text in r.responses]
        assert r.ranks == pool.rank(r.labeler, r.prompt, r.responses, scores, told["noise"], 2)
    alone = dataclasses.replace(stage, pool=None).finish(None, inputs)["train"]
    assert all(r.labeler is None for r in alone)
    assert [r.ranks for r in alone] != [r.ranks for r in parts["train"]]


def test_folds_divide_labelers_evenly_by_records():
    sizes = {"a": 60, "b": 40, "c": 30, "d": 30, "e": 10, "f": 10}
    labelers = [name for name, count in sizes.items() for _ in range(count)]
    found = folds(labelers, 3)
    assert set(found) == set(sizes)
    totals = Counter()
    for name, fold in found.items():
        totals[fold] += sizes[name]
    assert sorted(totals.values()) == [60, 60, 60]
    assert folds(labelers[::-1], 3) == found
    alike = list("abcdefgh")
    assert len({tuple(folds(alike, 4, seed).items()) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"size": 2}, "size = 2: must be at least groups = 5"),
        ({"taste": -1.0}, "taste = -1.0: must be 0 or more"),
        ({"careless": 1.5}, r"careless = 1.5: must be in \[0, 1\]"),
    ],
)
def test_a_pool_says_what_is_wrong(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        LabelerPool(**kwargs)


def test_there_are_as_many_labelers_as_folds():
    with pytest.raises(UserError, match="2 labelers: 3 folds need as many at least"):
        folds(["a", "b", "a"], 3)
    with pytest.raises(UserError, match=r"labeler '9.9': must be one of 0.0"):
        LabelerPool().rank("9.9", "p", TEXTS, [0.0] * 4, 0.1, 0)
