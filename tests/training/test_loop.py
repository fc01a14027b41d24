"""The loop: what it writes, when it stops, and where it goes on."""

import dataclasses
import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.durable import checkpoint
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.training import loop, progress
from rlhf_jax.training.loop import LoopConfig, Task, run
from rlhf_jax.training.metrics import SPEED, read_metrics

CONFIG = LoopConfig(checkpoint_every=4, log_every=1, keep=2)
PRINT = {"seed": 0}


class _Counting:
    """Batches 1, 2, 3, ...; counts how often it was read."""

    def __init__(self):
        self.position, self.read = 0, 0

    def __next__(self):
        self.position += 1
        self.read += 1
        return np.float32(self.position)

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


@jax.jit
def _add(state, batch):
    return {"sum": state["sum"] + batch}, {"sum": state["sum"] + batch, "batch": batch}


def _task(step=_add, total_steps=10, **fields):
    state = {"sum": jnp.zeros(())}
    return Task("toy", state, step, _Counting(), total_steps, tokens_per_step=5, **fields)


def test_a_run_writes_every_step_and_keeps_the_last_checkpoints(tmp_path):
    state = run(_task(), tmp_path, CONFIG, fingerprint=PRINT)
    assert state["sum"] == 55
    assert checkpoint.steps(tmp_path) == [8, 10]
    expected = [{"step": n, "batch": float(n), "sum": n * (n + 1) / 2} for n in range(1, 11)]
    assert read_metrics(tmp_path) == expected
    speed = read_metrics(tmp_path, SPEED)
    assert [line["tokens"] for line in speed] == [5 * n for n in range(1, 11)]
    assert all(line["tokens_per_second"] > 0 for line in speed)


@pytest.mark.parametrize("best, steps", [("-far", [6, 8, 9, 10]), ("far", [2, 4, 9, 10])])
def test_the_best_checkpoints_stay_beside_the_newest(tmp_path, best, steps):
    """By the mean of |step - 7| since the checkpoint before."""

    def step(state, batch):
        far = jnp.where(batch == 5, jnp.nan, jnp.abs(batch - 7))  # no number: left out
        return _add(state, batch)[0], {"far": far}

    config = LoopConfig(checkpoint_every=2, keep=2, keep_best=2)
    with pytest.warns(RuntimeWarning, match="far is nan"):
        for stop in (9, None):
            run(_task(step, best=best), tmp_path, config, fingerprint=PRINT, stop_after_steps=stop)
    assert checkpoint.steps(tmp_path) == steps
    assert checkpoint.ranked(tmp_path)[0] == ((8, "far 0.5") if best == "-far" else (2, "far 5.5"))


def test_stopping_and_going_on_equals_going_through(tmp_path):
    whole = run(_task(), tmp_path / "whole", CONFIG, fingerprint=PRINT)
    for stop, steps in ((3, 3), (6, 3), (None, 4)):
        task = _task()
        state = run(task, tmp_path / "parts", CONFIG, fingerprint=PRINT, stop_after_steps=stop)
        assert task.batches.read == steps and int(task.batches.position) == (stop or 10)
    assert state["sum"] == whole["sum"]
    both = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert both[0] == both[1]
    _, _, data, progress = checkpoint.restore(tmp_path / "parts", state)
    assert data == {"position": 10} and progress["tokens"] == 50
    speed = read_metrics(tmp_path / "parts", SPEED)
    seconds = [line["seconds"] for line in speed]
    assert seconds == sorted(seconds) and progress["seconds"] >= seconds[-1] > 0


def test_a_finished_stage_returns_at_once(tmp_path):
    run(_task(), tmp_path, CONFIG, fingerprint=PRINT)
    before = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    task = _task()
    for stop in (None, 2):
        state = run(task, tmp_path, CONFIG, fingerprint=PRINT, stop_after_steps=stop)
        assert state["sum"] == 55 and task.batches.read == 0
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_config_is_refused_before_anything_is_touched(tmp_path):
    run(_task(), tmp_path, CONFIG, fingerprint=PRINT, stop_after_steps=3)
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        run(_task(), tmp_path, CONFIG, fingerprint={"seed": 1})
    assert len(read_metrics(tmp_path)) == 3


def test_log_every_thins_the_lines_and_keeps_first_and_last(tmp_path):
    config = dataclasses.replace(CONFIG, log_every=4)
    run(_task(), tmp_path, config, fingerprint=PRINT)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 4, 8, 10]


def test_metrics_are_fetched_while_the_next_step_runs(tmp_path, monkeypatch):
    order = []
    real = jax.device_get

    def step(state, batch):
        order.append(f"step {int(batch)}")
        return _add(state, batch)

    def get(metrics):
        order.append(f"fetch {int(metrics['batch'])}")
        return real(metrics)

    monkeypatch.setattr(jax, "device_get", get)
    run(_task(step, 4), tmp_path, LoopConfig(checkpoint_every=3), fingerprint=PRINT)
    assert order == [
        *("step 1", "step 2", "fetch 1", "step 3", "fetch 2", "fetch 3"),  # saves step 3
        *("step 4", "fetch 4"),
    ]


def test_a_step_that_fails_leaves_the_checkpoint_before(tmp_path):
    def step(state, batch):
        if batch == 6:
            raise RuntimeError("no memory")
        return _add(state, batch)

    with pytest.raises(RuntimeError, match="no memory"):
        run(_task(step), tmp_path, CONFIG, fingerprint=PRINT)
    assert checkpoint.steps(tmp_path) == [4]
    assert run(_task(), tmp_path, CONFIG, fingerprint=PRINT)["sum"] == 55
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 11))


def test_compilations_are_counted_and_a_late_one_is_warned_of_once(tmp_path):
    def step(state, batch):
        # New shapes in steps 6 and 8: a fresh function, so that no cache of another test has it.
        size = {6: 3, 8: 4}.get(int(batch), 2)
        return state, {"x": fresh(np.ones(size, np.float32))}

    fresh = jax.jit(lambda x: jnp.sum(jnp.cos(x) * 3))
    with pytest.warns(RuntimeWarning, match="toy: step 6 still compiles") as warned:
        run(_task(step), tmp_path, CONFIG, fingerprint=PRINT)
    assert len(warned) == 1
    counts = [line["compilations"] for line in read_metrics(tmp_path, SPEED)]
    # Metrics of a step are fetched after the next one was dispatched, or before a checkpoint.
    assert counts == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3]


def test_the_seconds_of_compiling_count_once_and_add_up_over_calls(tmp_path):
    def step(state, batch):
        if int(batch) in (1, 3):
            tell = jax.monitoring.record_event_duration_secs
            tell(loop.TRACE_EVENTS[0], 3.0)  # of a function in the next one
            tell(loop.TRACE_EVENTS[0], 5.0)
            tell(loop.TRACE_EVENTS[1], 0.0)
            tell("/jax/other", 7.0)
        return state, {}

    run(_task(step), tmp_path, CONFIG, fingerprint=PRINT, stop_after_steps=2)
    run(_task(step), tmp_path, CONFIG, fingerprint=PRINT)
    seconds = [line["compile_seconds"] for line in read_metrics(tmp_path, SPEED)]
    assert seconds[0] == 5.0 and seconds[3:] == [10.0] * 7


def test_a_step_may_compile_for_each_size_of_its_batch(tmp_path):
    """Steps 6 to 9 have another size; the fourth of them should not compile any more."""
    fresh = jax.jit(lambda x: jnp.sum(jnp.sin(x) * 5))

    def step(state, batch):
        shape = {6: 3, 7: 4, 8: 5, 9: 6}.get(int(batch), 2)
        return state, {"x": fresh(np.ones(shape, np.float32))}

    task = dataclasses.replace(_task(step), size=lambda batch: 5 < batch < 10)
    with pytest.warns(RuntimeWarning, match="toy: step 9 still compiles") as warned:
        run(task, tmp_path, CONFIG, fingerprint=PRINT)
    assert len(warned) == 1
    assert loop.shapes_of({"a": np.ones((2, 3)), "b": 1}) == ((2, 3), ())


def test_a_steady_step_is_not_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(_task(jax.jit(lambda s, b: _add(s, b * 1))), tmp_path, CONFIG, fingerprint=PRINT)


def test_plain_lines_show_stage_step_speed_and_the_named_metrics(tmp_path, capsys, monkeypatch):
    run(_task(show=("sum",)), tmp_path / "a", CONFIG, fingerprint=PRINT)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2  # the start and the last step: the rest came within five seconds
    assert lines[0] == "toy  0/10  compiling"
    assert lines[1].startswith("toy  10/10  0:00:00 left") and lines[1].endswith("sum 55")
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    run(_task(), tmp_path / "b", CONFIG, fingerprint=PRINT)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1].endswith("batch 10  sum 55")


def test_the_time_left_is_told_from_steps_that_compiled_nothing(capsys, monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    line = progress.ProgressLine("toy", 4, 14, 30)
    for step, clock["now"], compilations in (
        (5, 60, 3),  # the first step compiles for a minute
        (6, 70, 3),  # 10 s a step: 8 steps are left
        (7, 100, 4),  # compiles again
        (8, 105, 4),  # 5 s a step: 6 are left
        (9, 130, 4),  # (130 - 100) / 2
        (14, 131, 5),
    ):
        line.update(step, {"loss": step / 2}, compilations)
    assert capsys.readouterr().out.splitlines() == [
        "toy  4/14  compiling",
        "toy  5/14  compiling  loss 2.5",
        "toy  6/14  0:01:20 left  3 tokens/s  loss 3",
        "toy  7/14  compiling  loss 3.5",
        "toy  8/14  0:00:30 left  6 tokens/s  loss 4",
        "toy  9/14  0:01:15 left  2 tokens/s  loss 4.5",
        "toy  14/14  0:00:00 left  loss 7",
    ]


def test_pieces_of_work_are_counted_as_they_are_done(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    with progress.counted("report", 2) as begin:
        begin("kl of sft")
        begin("kl of ppo")
    assert capsys.readouterr().out.splitlines() == [
        "report  0/2  kl of sft", "report  1/2  kl of ppo", "report  2/2",
    ]  # fmt: skip
    monkeypatch.setattr(progress, "is_first", lambda: False)
    with progress.counted("report", 1) as begin:
        begin("kl of sft")
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    screen = io.StringIO()
    console = progress.Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda: console)
    line = progress.ProgressLine("toy", 0, 3, 5)
    for step in (1, 2, 3):
        line.update(step, {"loss": 1.25}, compilations=1)
    line.close()
    told = ("toy", "compiling", "3/3", "0:00:00 left", "tokens/s", "loss 1.25")
    assert all(word in screen.getvalue() for word in told)


@pytest.mark.parametrize("field", ["checkpoint_every", "log_every", "keep"])
def test_bad_settings_are_named(field, tmp_path):
    with pytest.raises(ConfigError, match=f"{field} = 0"):
        LoopConfig(**{field: 0})
    with pytest.raises(ConfigError, match="stop_after_steps = 0"):
        run(_task(), tmp_path / "x", CONFIG, fingerprint=PRINT, stop_after_steps=0)
    assert not (tmp_path / "x").exists()
