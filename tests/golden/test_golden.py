"""Fifty updates of each stage, under every setting that must not change them, against a file."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest

from tests.golden import trajectories
from tests.golden.record import FILE
from tests.golden.trajectories import STAGES, STEPS, Setting, trajectory

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
TOLERANCE = 1e-4  # of the largest value of a trajectory; another jax, device or order of sums
ONE_SIDED = 1e-6  # the same for the mean of all differences, signs kept
FEW = 16  # updates, where the setting is slow to run

# Every setting and every stage once or more; all that can meet where there is time.
QUICK = [
    *((stage, Setting(), STEPS) for stage in STAGES),
    ("pretrain", Setting("fsdp 2, tensor 2", micro_batches=2, remat="dots"), FEW),
    ("sft", Setting(packed=True, scan_layers=False, logit_chunk=5), STEPS),
    ("reward", Setting("pmap", remat="full"), FEW),
    ("reward", Setting(packed=True, micro_batches=4), STEPS),
    ("dpo", Setting("data 8", packed=True, logit_chunk=3), FEW),
    ("ppo_ptx", Setting(micro_batches=2, remat="full", scan_layers=False, logit_chunk=4), FEW),
    ("ppo_ptx", Setting(shared_rows=True), 4),
]
COMPUTATIONS = [("off", True, 4), ("dots", True, None), ("full", True, 3), ("off", False, None),
                ("dots", False, 4)]  # fmt: skip
ALL = [
    (stage, Setting(layout, n, packed, *computation), FEW)
    for stage in STAGES
    for layout, n, packed, computation in itertools.product(
        ("one device", "data 8", "fsdp 2, tensor 2", "pmap"), (1, 2), (False, True), COMPUTATIONS
    )
    if not packed or stage in ("sft", "reward", "dpo")
    if not (layout == "pmap" and packed and n > 1)  # eight packed rows are a row a device
] + [("ppo_ptx", Setting(micro_batches=2, logit_chunk=4, shared_rows=True), FEW)]
CASES = QUICK + [pytest.param(*case, marks=pytest.mark.slow) for case in ALL]


@functools.cache
def residuals(stage: str, setting: Setting, steps: int) -> dict[str, np.ndarray]:
    """(found - golden) / the largest golden value, one an update, of each metric."""
    found = trajectory(stage, setting, steps, GOLDEN["responses"])
    return {name: relative(values, stage, name) for name, values in found.items()}


def relative(values, stage, name) -> np.ndarray:
    golden = np.array(GOLDEN["trajectories"][stage][name])
    return (np.array(values) - golden[: len(values)]) / np.abs(golden).max()


@pytest.mark.parametrize("stage, setting, steps", CASES)
def test_losses_and_gradient_norms_are_the_golden_ones(stage, setting, steps):
    for name, differences in residuals(stage, setting, steps).items():
        assert len(differences) == (steps // 2 if stage == "ppo_ptx" else steps)
        worst = int(np.abs(differences).argmax())
        assert abs(differences[worst]) < TOLERANCE, (name, worst, differences[worst])


def one_sided(parts: list[dict[str, np.ndarray]]) -> float:
    """The mean over trajectories of their mean residuals: rounding goes both ways."""
    return float(np.mean([values.mean() for part in parts for values in part.values()]))


def test_the_differences_of_all_settings_lean_to_no_side():
    assert abs(one_sided([residuals(*case) for case in QUICK])) < ONE_SIDED


def test_a_lean_that_every_single_tolerance_lets_pass_is_noticed():
    """Every figure larger by a twentieth of what a single one may differ by."""
    leaning = [
        {name: values + 0.05 * TOLERANCE for name, values in residuals(*case).items()}
        for case in QUICK
    ]
    largest = max(np.abs(values).max() for part in leaning for values in part.values())
    assert largest < TOLERANCE and one_sided(leaning) > ONE_SIDED


def test_a_learning_rate_off_by_one_in_five_thousand_is_noticed_by_its_lean_alone(monkeypatch):
    rate = dataclasses.replace(trajectories.RATE, learning_rate=3e-3 * 1.0002)
    monkeypatch.setattr(trajectories, "RATE", rate)
    found = trajectories.trajectory("pretrain", Setting(), STEPS, [])
    leaning = {name: relative(values, "pretrain", name) for name, values in found.items()}
    assert max(np.abs(values).max() for values in leaning.values()) < TOLERANCE
    assert abs(one_sided([leaning])) > ONE_SIDED
