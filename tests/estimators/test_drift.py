"""Several steps on one batch: where the surrogates agree, and what the clip holds back."""

import jax
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.estimators.drift import FRESH, DriftConfig, measure_drift
from rlhf_jax.estimators.task import TaskConfig, all_log_probs, make_task, objective

CONFIG = DriftConfig(batch=16, epochs=30, batches=40)


@pytest.fixture(scope="module")
def task():
    return make_task(TaskConfig())


@pytest.fixture(scope="module")
def curves(task):
    return measure_drift(task, CONFIG, seed=0)


def test_all_start_at_the_old_policy_and_share_the_first_step(task, curves):
    start = jax.jit(lambda x: objective(task, all_log_probs(task, x)))(task.old)
    first = curves["PPO clip"].objective[:, 1]
    for name, curve in curves.items():
        assert curve.objective.shape == curve.kl.shape == (40, 31)
        np.testing.assert_allclose(curve.objective[:, 0], start, rtol=1e-5)
        np.testing.assert_allclose(curve.kl[:, 0], 0, atol=1e-6)
        if name != FRESH:
            np.testing.assert_allclose(curve.objective[:, 1], first, atol=1e-5)
    assert first.std() > 0.001  # 40 different batches


def test_the_clip_holds_the_policy_near_and_keeps_what_was_gained(curves):
    """Without it the true objective rises, and falls again as the batch is over-trusted."""
    mean = {name: c.objective.mean(0) for name, c in curves.items()}
    kl = {name: c.kl[:, -1].mean() for name, c in curves.items()}
    for name in ("ratio of responses", "ratio of tokens"):
        assert mean[name][-1] < mean[name].max() - 0.1
        assert mean[name][-1] < mean["no ratio"][-1]
        assert kl["PPO clip"] < 0.2 * kl[name]
    assert mean["PPO clip"][-1] > mean["PPO clip"].max() - 0.02
    assert mean["PPO clip"][-1] > mean["PPO clip"][0] + 0.1
    assert mean[FRESH][-1] > max(curve[-1] for name, curve in mean.items() if name != FRESH)


@pytest.mark.parametrize("field", ["batch", "epochs", "batches", "learning_rate", "clip"])
def test_config_names_the_field(field):
    with pytest.raises(ConfigError, match=field):
        DriftConfig(**{field: 0})
