"""What is evaluated in training: its lines, its place among checkpoints, and a resume."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.durable import checkpoint
from rlhf_jax.training import loop
from rlhf_jax.training.loop import LoopConfig, run
from rlhf_jax.training.metrics import SPEED, read_metrics
from tests.training.test_loop import PRINT, _add, _task
from tests.training.test_metrics import scalars_of

CONFIG = LoopConfig(checkpoint_every=4, log_every=1, keep=2)


def task(every=3, measure=lambda total: {"evaluation/total": total}, **fields):
    def evaluate(step, state):
        return measure(float(state["sum"])) if step % every == 0 else {}

    return _task(evaluate=evaluate, evaluated=("evaluation/total",), **fields)


def test_it_is_of_the_state_after_the_step_and_stands_beside_its_metrics(tmp_path):
    run(task(), tmp_path, CONFIG, fingerprint=PRINT)
    lines = read_metrics(tmp_path)
    found = {line["step"]: line["evaluation/total"] for line in lines if "evaluation/total" in line}
    assert found == {3: 6.0, 6: 21.0, 9: 45.0}
    assert all(line["sum"] == line["step"] * (line["step"] + 1) / 2 for line in lines)
    board = [(step, value) for step, name, value in scalars_of(tmp_path / "tensorboard")
             if name == "evaluation/total"]  # fmt: skip
    assert board == list(found.items())


def test_a_step_that_is_evaluated_has_a_line_whatever_log_every_is(tmp_path):
    config = LoopConfig(checkpoint_every=100, log_every=4)
    run(task(), tmp_path, config, fingerprint=PRINT)
    for name in ("metrics.jsonl", SPEED):
        assert [line["step"] for line in read_metrics(tmp_path, name)] == [1, 3, 4, 6, 8, 9, 10]


def test_what_an_evaluation_compiles_is_not_counted_into_the_time_left(tmp_path, monkeypatch):
    """A progress line leaves out the time of a step whose count has changed."""
    told, fresh = [], jax.jit(lambda x: jnp.sum(jnp.tan(x) * 5))
    update = lambda line, step, metrics, compilations: told.append(compilations)
    monkeypatch.setattr(loop.ProgressLine, "update", update)
    measure = lambda total: {"evaluation/total": float(fresh(np.ones(7, np.float32)))}
    run(task(every=4, measure=measure, step=_add), tmp_path, CONFIG, fingerprint=PRINT)
    steps = [line["compilations"] for line in read_metrics(tmp_path, SPEED)]
    assert len(set(steps)) == 1  # of the steps alone, and a step that is evaluated is no step
    assert told == [n + (step >= 4) for step, n in enumerate(steps, 1)]


def test_a_resume_writes_the_same_lines(tmp_path):
    run(task(), tmp_path / "whole", CONFIG, fingerprint=PRINT)
    for stop in (3, 5, None):
        run(task(), tmp_path / "parts", CONFIG, fingerprint=PRINT, stop_after_steps=stop)
    whole, parts = ((tmp_path / n / "metrics.jsonl").read_bytes() for n in ("whole", "parts"))
    assert whole == parts


def test_what_diverged_is_null(tmp_path):
    """Even where every update was finite, so that the step's own metrics counted nothing."""

    def step(state, batch):
        state, _ = _add(state, batch)
        return state, {"loss": batch, "skipped_steps": jnp.int32(0)}

    diverged = task(measure=lambda total: {"evaluation/total": float("nan")}, step=step)
    with pytest.warns(RuntimeWarning, match="step 3: evaluation/total is nan"):
        run(diverged, tmp_path, CONFIG, fingerprint=PRINT)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if "evaluation/total" in line] == [3, 6, 9]
    assert lines[2]["evaluation/total"] is None


@pytest.mark.parametrize(
    ("best", "evaluated", "kept", "words"),
    [
        # |total - 21|: 15, 0 and 24 at steps 3, 6 and 9.
        ("-evaluation/total", True, [6, 10], "evaluation/total 0"),
        ("evaluation/total", True, [9, 10], "evaluation/total 24"),
        (None, True, [1, 10], "batch 1"),
        ("evaluation/total", False, [1, 10], "batch 1"),  # a stage that is not measured
    ],
)
def test_the_best_checkpoint_may_be_by_what_was_evaluated(tmp_path, best, evaluated, kept, words):
    measure = lambda total: {"evaluation/total": abs(total - 21)}
    made = task(measure=measure, best="-batch") if evaluated else _task(best="-batch")
    config = LoopConfig(checkpoint_every=1, keep=1, keep_best=1, best=best)
    run(made, tmp_path, config, fingerprint=PRINT)
    assert checkpoint.steps(tmp_path) == kept
    assert checkpoint.ranked(tmp_path)[0] == (kept[0], words)


def test_checkpoints_by_another_metric_than_now_are_not_compared_with_these(tmp_path):
    """A batch is 10 at most, a total 55."""
    config = LoopConfig(checkpoint_every=1, keep=1, keep_best=1, best="evaluation/total")
    made = lambda: task(best="batch")
    run(made(), tmp_path, config, fingerprint=PRINT, stop_after_steps=7)
    assert checkpoint.ranked(tmp_path)[0] == (6, "evaluation/total 21")
    run(made(), tmp_path, dataclasses.replace(config, best=None), fingerprint=PRINT,
        stop_after_steps=8)  # fmt: skip
    assert checkpoint.ranked(tmp_path) == [(8, "batch 8")]
    run(made(), tmp_path, config, fingerprint=PRINT)
    assert checkpoint.ranked(tmp_path)[0] == (9, "evaluation/total 45")
