"""The command, its files and their schema, on a small task."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.cli import command
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.estimators.lab import LabConfig, Row
from rlhf_jax.estimators.measure import Measurement
from rlhf_jax.estimators.rows import Rollouts, RowsConfig, all_estimators

ROWS = all_estimators(RowsConfig(), 0.3)
SMALL = "--samples 8000 --task.vocabulary 3 --task.length 2 --drift.epochs 3 --drift.batches 4"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("estimators") / "new"
    assert command(["estimators", "--out", str(out), *SMALL.split()]) == 0
    return out


def test_files(written):
    assert {file.name for file in written.iterdir()} == {"estimators.json", "estimators.png"}
    assert (written / "estimators.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_schema(written):
    result = json.loads((written / "estimators.json").read_text())
    assert set(result) == {"estimators", "checks", "drift", "config"}
    assert set(result["estimators"]) == set(ROWS) and len(ROWS) >= 10
    for name, row in result["estimators"].items():
        keys = {"bias_norm", "variance", "cosine", "samples", "flops", "unbiased_in_theory"}
        assert set(row) == keys
        bias = row["bias_norm"]
        assert set(bias) == {"mean", "low", "high"}
        assert 0 <= bias["low"] <= bias["mean"] <= bias["high"]
        assert row["variance"] > 0 and -1 <= row["cosine"] <= 1 and row["flops"] > 0
        assert (
            row["samples"] == 8000 + {"none": 0, "baseline": 2000, "values": 64}[ROWS[name].pilot]
        )
        assert row["unbiased_in_theory"] is (ROWS[name].bias is None)
    assert result["config"]["samples"] == 8000
    assert len(result["drift"]["PPO clip"]["kl"]) == 4


def test_every_row_is_where_theory_has_it(written):
    """8000 responses cannot tell every bias from 0, but each row's ball holds its own theory."""
    result = json.loads((written / "estimators.json").read_text())
    for name, check in result["checks"].items():
        assert check["contains_theory"], name
        if result["estimators"][name]["unbiased_in_theory"]:
            assert check["contains_exact"] and check["as_theory_says"], name
    found = {name for name, check in result["checks"].items() if not check["contains_exact"]}
    assert {"dr_grpo", "grpo_per_sequence", "ppo_clip"} <= found


def row(name, error, theory, radius=0.1):
    measured = Measurement(np.array(error), radius, 1.0, 1.0, 1.0)
    return Row(ROWS[name], measured, np.array(theory), 1, 1)


def test_verdicts():
    assert row("rloo", [0.05, 0.0], [0.0, 0.0]).as_theory_says
    assert not row("rloo", [0.2, 0.0], [0.0, 0.0]).as_theory_says
    assert row("grpo", [0.5, 0.0], [0.55, 0.0]).as_theory_says
    assert not row("grpo", [0.05, 0.0], [0.1, 0.0]).as_theory_says  # not shown biased
    assert not row("grpo", [0.5, 0.0], [0.8, 0.0]).as_theory_says  # by another amount
    assert not row("grpo", [0.12, 0.0], [0.12, 0.09]).as_theory_says  # another direction


@pytest.mark.parametrize(
    "field, value",
    [
        ("samples", 10),
        ("pilot", 1),
        ("critic", 0),
        ("average_decay", 1.0),
        ("level", 1.0),
        ("seed", -1),
    ],
)
def test_config_names_the_field(field, value):
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(LabConfig(), **{field: value})


def test_a_row_reads_what_its_advantage_carries():
    """No baseline shows in the mean of the gradient."""
    zeros, ones = np.zeros((4, 3)), np.ones((4, 3))
    rewards = np.arange(12.0).reshape(4, 3)
    rollouts = Rollouts(
        np.arange(4), ones, zeros[:, 0], rewards, zeros, zeros, zeros, zeros, zeros,
        baseline=np.full(4, 2.0), average=np.full(4, 5.0),
    )  # fmt: skip
    returns = rewards.sum(axis=1, keepdims=True)
    for name, baseline in (
        ("reinforce", 0.0), ("reinforce_moving_average", 5.0), ("reinforce_optimal_baseline", 2.0),
    ):  # fmt: skip
        found = ROWS[name].advantages(rollouts)
        np.testing.assert_allclose(found, np.broadcast_to(returns - baseline, (4, 3)))


def test_the_readme_counts_the_rows():
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"{len(ROWS)} gradient estimators" in readme


def test_the_experiment_is_the_command_s_default():
    from experiments.estimators import config

    assert config == LabConfig()


def test_an_occupied_path_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        command(["estimators", "--out", str(tmp_path / "file")])
