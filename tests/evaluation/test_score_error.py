"""The distance of scores from held-out absolute scores."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Scored
from rlhf_jax.errors import ConfigError
from rlhf_jax.evaluation.score_error import ScoreError
from rlhf_jax.stages.stage import Build
from tests.data.conftest import Letters
from tests.fed import ENDING
from tests.stages import tiny

SCORED = [Scored(a, a + "bc" * (i % 3), i / 2 - 1) for i, a in enumerate("efghi")]
SCORED.insert(2, Scored("k", "l" * 20, 9.0))  # too long
EVALUATOR = ScoreError(length=12, batch_size=4)
BUILD = Build("report", tiny.MODEL, {"subject": tiny.MODEL}, ENDING)


def test_errors_are_those_of_each_response_alone():
    (program,) = EVALUATOR.programs(BUILD, None).values()
    params = tiny.score_params(1)
    subject = SimpleNamespace(
        build=BUILD, tokenizer=Letters(), params=params, records=lambda kind, split: SCORED,
        programs={"scores": jax.jit(program.function)},
    )  # fmt: skip
    rows = EVALUATOR.rows(subject)
    kept = [record for record in SCORED if record.score < 9]
    letters = Letters()
    sequences = [[1, *letters.encode(r.prompt + r.response), 2] for r in kept]
    scores = np.array([row[-1] for row in tiny.sequence_scores(params, sequences)])
    targets = np.array([record.score for record in kept])
    assert rows["id"].tolist() == [f"response {i}" for i in (0, 1, 3, 4, 5)]
    np.testing.assert_allclose(rows["error"], abs(scores - targets), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(rows["deviation"], [1, 0.5, 0, 0.5, 1])
    summary = EVALUATOR.summary(rows, 0)
    assert summary.keys() == EVALUATOR.columns().keys() == EVALUATOR.parts(rows).keys()
    np.testing.assert_allclose(summary["score_error"].mean, rows["error"].mean())
    np.testing.assert_allclose(summary["score_error_of_median"].mean, 0.6)
    diverged = rows | {"error": np.full(5, np.nan)}
    assert np.isnan(EVALUATOR.summary(diverged, 0)["score_error"])
    assert EVALUATOR.parts(diverged) == {}


def test_a_length_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="batch_size = 0: must be positive"):
        ScoreError(length=12, batch_size=0)
    with pytest.raises(ConfigError, match="length = 33: must be <= a context of 32"):
        ScoreError(length=33).check_shapes(BUILD, None)
