"""Simulated labelers: what they see, how they rank, and the noise at which they agree."""

import itertools
import os
import random
import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.feedback.labelers import (
    SimulatedLabeler,
    calibrate_noise,
    expected_agreement,
    pairwise_agreement,
)

RESPONSES = [f" answer {i}" for i in range(6)]


def random_scores(prompts: int, outputs: int = 5) -> list[list[float]]:
    """Scores in [0, 1], of which many are equal, as a grader's are."""
    rng = random.Random(0)
    values = (0.2, 0.4, 0.4, 0.5, 0.7, 0.85, 1.0, 1.0)
    return [[rng.choice(values) for _ in range(outputs)] for _ in range(prompts)]


def ranked(labeler: SimulatedLabeler, scores: list[list[float]]) -> list[tuple[int, ...]]:
    return [labeler.rank(f"prompt {n}", RESPONSES[: len(row)], row) for n, row in enumerate(scores)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_without_noise_and_rounding_ranks_are_the_order_of_scores(scores):
    ranks = SimulatedLabeler(noise=0.0, levels=None).rank("p", RESPONSES[: len(scores)], scores)
    assert min(ranks) == 0 and sorted(set(ranks)) == list(range(max(ranks) + 1))
    for (a, x), (b, y) in itertools.product(zip(ranks, scores, strict=True), repeat=2):
        assert (a < b) == (x > y)


def test_likert_levels_split_the_range_evenly_and_tie():
    labeler = SimulatedLabeler(noise=0.0, levels=7)
    scores = [0.0, 0.08, 0.09, 0.5, 0.99, 1.0]
    assert labeler.ratings("p", RESPONSES, scores) == (1, 1, 2, 4, 7, 7)
    assert labeler.rank("p", RESPONSES, scores) == (3, 3, 2, 1, 0, 0)
    assert SimulatedLabeler(0.0, levels=2).ratings("p", RESPONSES[:2], [0.4, 0.6]) == (1, 2)


def test_noise_is_normal_with_the_stated_deviation():
    labeler = SimulatedLabeler(noise=0.3, levels=None)
    responses = [f" {i}" for i in range(4000)]
    seen = labeler.ratings("p", responses, [0.5] * 4000)
    assert statistics.mean(seen) == pytest.approx(0.5, abs=0.02)
    assert statistics.stdev(seen) == pytest.approx(0.3, abs=0.015)
    within = sum(abs(x - 0.5) < 0.3 for x in seen) / 4000
    assert within == pytest.approx(0.683, abs=0.03)


def test_noise_depends_on_seed_prompt_and_response_only():
    scores = [0.5] * 6
    labeler = SimulatedLabeler(noise=0.3, levels=None, seed=1)
    seen = labeler.ratings("p", RESPONSES, scores)
    assert labeler.ratings("p", RESPONSES[::-1], scores) == seen[::-1]
    assert SimulatedLabeler(noise=0.3, levels=None, seed=2).ratings("p", RESPONSES, scores) != seen
    assert labeler.ratings("q", RESPONSES, scores) != seen
    assert labeler.rank("p", ["same", "same"], [0.5, 0.5]) == (0, 0)


def test_another_process_ranks_the_same():
    labeler = SimulatedLabeler(noise=0.3, levels=None, seed=1)
    code = (
        "from rlhf_jax.feedback.labelers import SimulatedLabeler\n"
        "labeler = SimulatedLabeler(noise=0.3, levels=None, seed=1)\n"
        f"print(labeler.ratings('p', {RESPONSES}, [0.5] * 6))"
    )
    env = os.environ | {"PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    )
    assert run.stdout.strip() == str(labeler.ratings("p", RESPONSES, [0.5] * 6))


@pytest.mark.parametrize(("agreement", "levels"), [(0.726, 7), (0.65, 3)])
def test_calibrated_labelers_of_different_seeds_agree_as_asked(agreement, levels):
    scores = random_scores(6000)
    noise = calibrate_noise(scores, agreement, levels)
    rows = [ranked(SimulatedLabeler(noise, levels, seed), scores) for seed in range(4)]
    measured = [pairwise_agreement(a, b) for a, b in itertools.combinations(rows, 2)]
    assert statistics.mean(measured) == pytest.approx(agreement, abs=0.005)


def test_the_papers_labelers_are_the_default():
    scores = random_scores(50)
    assert calibrate_noise(scores) == calibrate_noise(scores, 0.726, levels=7)
    assert expected_agreement(scores, calibrate_noise(scores), 7) == pytest.approx(0.726, abs=1e-3)


def test_expected_agreement_of_two_scores_by_hand():
    # Two levels: a score on the threshold is seen as either with chance a half, whatever the noise.
    assert expected_agreement([[0.5, 0.5]], 0.3, levels=2) == pytest.approx(0.25**2 * 2 + 0.5**2)
    assert expected_agreement([[0.0, 1.0]], 1e-3) == pytest.approx(1.0)


def test_agreement_falls_with_noise():
    scores = random_scores(50)
    agreements = [expected_agreement(scores, noise) for noise in (0.05, 0.1, 0.2, 0.4, 1.0)]
    assert agreements == sorted(agreements, reverse=True)


def test_calibration_refuses_what_no_noise_gives():
    with pytest.raises(UserError, match="no noise gives an agreement"):
        calibrate_noise(random_scores(20), agreement=0.3)
    with pytest.raises(UserError, match="no noise"):
        calibrate_noise([[0.5 / 6, 1.5 / 6]], agreement=0.95)
    with pytest.raises(UserError, match="no prompt has two scores"):
        calibrate_noise([[0.5]])
    with pytest.raises(ConfigError, match="agreement"):
        calibrate_noise(random_scores(20), agreement=1.2)


def test_pairwise_agreement_counts_pairs_ties_included():
    assert pairwise_agreement([(0, 1, 2)], [(0, 1, 2)]) == 1
    assert pairwise_agreement([(0, 1, 2)], [(2, 1, 0)]) == 0
    assert pairwise_agreement([(0, 0, 1)], [(0, 1, 2)]) == pytest.approx(2 / 3)
    assert pairwise_agreement([(0, 0)], [(3, 3)]) == 1
    assert pairwise_agreement([(0, 0)], [(1, 0)]) == pairwise_agreement([(1, 0)], [(0, 0)]) == 0
    # One pair of the first prompt and three of the second, not a mean of prompts.
    assert pairwise_agreement([(0, 1), (0, 1, 2)], [(1, 0), (0, 1, 2)]) == pytest.approx(3 / 4)
    assert pairwise_agreement([(0, 1, -1)], [(0, 1, -1)]) == 1


def test_pairwise_agreement_refuses_rows_that_do_not_match():
    with pytest.raises(UserError, match="same outputs"):
        pairwise_agreement([(0, 1)], [(0, 1, 2)])
    with pytest.raises(UserError, match="same outputs"):
        pairwise_agreement([(0, 1, -1)], [(0, -1, 1)])
    with pytest.raises(UserError, match="no prompt"):
        pairwise_agreement([(0,)], [(0,)])


def test_bad_labelers_are_refused():
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="noise"):
            SimulatedLabeler(noise)
    with pytest.raises(ConfigError, match="levels"):
        SimulatedLabeler(0.1, levels=1)
    with pytest.raises(UserError, match="2 responses but 1 scores"):
        SimulatedLabeler(0.1).rank("p", [" a", " b"], [0.5])
