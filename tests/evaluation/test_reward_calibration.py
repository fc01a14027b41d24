"""Calibration of a reward model on held-out rankings, beside a loop over their pairs."""

import math

import numpy as np
import pytest

from rlhf_jax.evaluation.calibration import calibration_curve, calibration_error
from rlhf_jax.evaluation.reward_calibration import RewardCalibration, pair_sums
from rlhf_jax.evaluation.summary import measured
from tests.evaluation.subject import LETTERS, Subject
from tests.evaluation.test_reward_accuracy import RANKINGS, last_scores
from tests.stages import tiny

EVALUATOR = RewardCalibration(length=12, outputs=4, batch_size=2)


def test_the_sums_of_a_ranking_are_those_of_its_pairs():
    scores, ranks = np.array([2.0, -1.0, 0.5, 9.0]), np.array([0, 1, 1, -1])
    found = pair_sums(scores, ranks)
    p = [1 / (1 + math.exp(-m)) for m in (3.0, 1.5)]
    assert found["pairs"] == 2 and found["brier"] == pytest.approx(sum((1 - q) ** 2 for q in p))
    assert (found["pairs_9"], found["right_9"], found["pairs_6"]) == (1, 1, 1)
    assert found["sure_9"] == pytest.approx(p[0]) and found["sure_6"] == pytest.approx(p[1])
    wrong = pair_sums(-scores, ranks)
    assert (wrong["right_9"], wrong["pairs_9"]) == (0, 1)
    assert pair_sums(np.zeros(2), np.array([0, 0]))["pairs"] == 0


def test_figures_are_of_the_untied_pairs_of_the_rankings_that_fit():
    params = tiny.score_params(1)
    margins = []
    for r in [r for of in RANKINGS.values() for r in of if max(map(len, r.responses)) < 9]:
        ids = [[LETTERS.bos_id, *LETTERS.encode(r.prompt), *LETTERS.encode(x)]
               + [LETTERS.eos_id] * (r.ended is None or r.ended[k])
               for k, x in enumerate(r.responses)]  # fmt: skip
        values = last_scores(params, ids)
        margins += [values[i] - values[j] for i, a in enumerate(r.ranks)
                    for j, b in enumerate(r.ranks) if a < b]  # fmt: skip
    rows = EVALUATOR.rows(Subject(EVALUATOR, params, data={("rankings", "valid"): RANKINGS}))
    found = EVALUATOR.summary(rows, 0)
    squares = [(1 - 1 / (1 + math.exp(-m))) ** 2 for m in margins]
    assert rows["pairs"].sum() == len(margins) == 10
    assert found["brier"].mean == pytest.approx(np.mean(squares), rel=1e-4)
    error = calibration_error(calibration_curve(np.array(margins)))
    assert found["calibration_error"] == pytest.approx(error, abs=1e-4)
    page = EVALUATOR.section({"reward <1>": measured(EVALUATOR, rows, 0)}, [])
    assert "reward &lt;1&gt;" in page and page.count("<tr>") > 1
