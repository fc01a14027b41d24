"""Sick steps are counted, spikes logged, and n in a row end a run with the batch on disk."""

import dataclasses
import logging
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.durable import checkpoint
from rlhf_jax.durable.batch_file import read_batch, write_batch
from rlhf_jax.errors import UserError
from rlhf_jax.training.gradients import all_finite, keep_if
from rlhf_jax.training.health import Health
from rlhf_jax.training.loop import LoopConfig, SickError, Task, run
from rlhf_jax.training.metrics import read_metrics

CONFIG = LoopConfig(checkpoint_every=4, log_every=1, keep=2, max_skipped=3)


class _Counting:
    position = 0

    def __next__(self):
        self.position += 1
        return {"x": {"y": np.float32(self.position)}}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def _task(sick, total_steps=12):
    @jax.jit
    def step(state, batch):
        number = batch["x"]["y"]
        loss = jnp.where(jnp.isin(number, jnp.asarray(sick, jnp.float32)), jnp.nan, number)
        ok = all_finite(loss)
        new = keep_if(ok, state["sum"] + loss, state["sum"])
        return {"sum": new}, {"loss": loss, "skipped_steps": (~ok).astype(jnp.int32)}

    return Task("toy", {"sum": jnp.zeros(())}, step, _Counting(), total_steps, 1)


@pytest.mark.filterwarnings("ignore:step")
def test_what_is_not_finite_is_left_out_and_counted(tmp_path):
    state = run(_task([3, 4, 7]), tmp_path, CONFIG, fingerprint={})
    assert state["sum"] == 78 - 3 - 4 - 7
    counts = [line["skipped_steps"] for line in read_metrics(tmp_path)]
    assert counts == [0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert [line["loss"] for line in read_metrics(tmp_path)][2:4] == [None, None]


@pytest.mark.filterwarnings("ignore:step")
@pytest.mark.parametrize("most, stops", [(1, 3), (2, 6), (3, 7)])
def test_so_many_in_a_row_stop_the_run_before_one_more(tmp_path, most, stops):
    """The state is that of the last sick step, no matter how far fetching lags behind."""
    config = dataclasses.replace(CONFIG, max_skipped=most)
    task = _task([3, 5, 6, 7])
    with pytest.raises(SickError, match=f"toy: {most} steps in a row .* step {stops};") as error:
        run(task, tmp_path, config, fingerprint={})
    assert f"step_{stops}.npz" in str(error.value) and "\n" not in str(error.value)
    assert task.batches.position == stops and checkpoint.steps(tmp_path)[-1] == stops
    healthy = sum(n for n in range(1, stops) if n not in (3, 5, 6, 7))
    kept = checkpoint.restore(tmp_path / "sick", {"sum": jnp.zeros(())})
    assert (kept[0], kept[1]["sum"]) == (stops, healthy)
    batch, about = read_batch(tmp_path / "sick" / f"step_{stops}.npz")
    assert batch["x"]["y"] == stops and about == {"stage": "toy", "step": stops}


@pytest.mark.filterwarnings("ignore:step")
def test_the_same_call_goes_on_after_it_and_the_count_goes_on_through_a_stop(tmp_path):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for stop in (3, 4):
        run(_task([3, 4, 5]), parts, CONFIG, fingerprint={}, stop_after_steps=stop)
    for directory in (parts, whole):
        with pytest.raises(SickError, match="step 5"):
            run(_task([3, 4, 5]), directory, CONFIG, fingerprint={})
    state = run(_task([3, 4, 5]), parts, CONFIG, fingerprint={})
    assert state["sum"] == 78 - 12
    assert read_metrics(parts)[:5] == read_metrics(whole)
    assert read_metrics(parts)[-1]["skipped_steps"] == 3


def _empty_task(empty, sick=(), total_steps=3, updates=1):
    """A step whose batch has no weight, or is sick, where its number is among these."""

    def step(state, batch):
        number = int(batch["x"]["y"])
        counts = {"empty_steps": updates * (number in empty), "skipped_steps": number in sick}
        loss = np.nan if number in empty or number in sick else 0.5
        return {"sum": state["sum"] + 1}, {"loss": loss} | counts

    return Task("toy", {"sum": jnp.zeros(())}, step, _Counting(), total_steps, 1, updates=updates)


@pytest.mark.filterwarnings("ignore:step")
@pytest.mark.parametrize(
    "empty, sick, told",
    [
        ((1, 2, 3), (), "none of 3 updates was applied: 3 had a batch without a token or a pair"),
        ((), (1, 2, 3), "none of 3 updates was applied: 3 were not finite"),
        ((2,), (1, 3), "none of 3 updates was applied: 2 were not finite, 1 had a batch without"),
    ],
    ids=["empty", "sick", "both"],
)
def test_a_stage_without_one_update_is_not_done(tmp_path, empty, sick, told):
    """Nor is it at the next call; fewer sick steps than would stop it stop it at its end."""
    config = dataclasses.replace(CONFIG, max_skipped=10)
    for _ in range(2):
        with pytest.raises(SickError, match=f"^toy: {told}"):
            run(_empty_task(empty, sick), tmp_path, config, fingerprint={})
    last_is_sick = 3 in sick
    assert (tmp_path / "sick" / "step_3.npz").exists() == last_is_sick
    state = run(_empty_task(empty, sick, total_steps=4), tmp_path, config, fingerprint={})
    assert state["sum"] == 4  # with one more step it has learnt something


@pytest.mark.filterwarnings("ignore:step")
def test_one_update_of_many_is_enough_to_be_done(tmp_path):
    assert run(_empty_task((1, 3)), tmp_path / "a", CONFIG, fingerprint={})["sum"] == 3
    counts = [line["empty_steps"] for line in read_metrics(tmp_path / "a")]
    assert counts == [1, 1, 2]
    # Of a step's four minibatches one is sick: the other three are updates.
    state = run(_empty_task((), (1, 2), 2, updates=4), tmp_path / "b", CONFIG, fingerprint={})
    assert state["sum"] == 2
    with pytest.raises(SickError, match="none of 12 updates"):
        run(_empty_task((1, 2, 3), updates=4), tmp_path / "c", CONFIG, fingerprint={})


def test_what_counted_nothing_is_null_and_says_so(tmp_path):
    with pytest.warns(RuntimeWarning, match="step 2: loss is not defined: no token or pair has"):
        run(_empty_task((2,)), tmp_path / "a", CONFIG, fingerprint={})
    assert [line["loss"] for line in read_metrics(tmp_path / "a")] == [0.5, None, 0.5]
    with pytest.warns(RuntimeWarning, match="step 2: loss is nan; written as null"):
        run(_empty_task((), (2,)), tmp_path / "b", CONFIG, fingerprint={})


def test_a_norm_far_above_the_running_mean_is_a_spike(caplog):
    health = Health("toy")
    norms = [1.0, 1.2, 0.8] * 10 + [30.0, 1.0, float("inf")]
    for step, norm in enumerate(norms, 1):
        if step == 15:  # what a checkpoint holds is all there is to it
            health = Health("toy", health.state)
        with caplog.at_level(logging.WARNING):
            numbers = health.count(step, {"value_grad_norm": norm})
    assert numbers["grad_norm_spikes"] == 1
    assert [r.getMessage() for r in caplog.records] == [
        "toy: step 31: value_grad_norm 30 is 30 times its running mean"
    ]


def test_a_warning_says_how_many_minibatches_changed_nothing(caplog):
    for updates, count in ((1, 1), (4, 1), (4, 3)):
        health = Health("toy", updates=updates)
        health.count(1, {"skipped_steps": count, "loss": float("nan")})
        health.count(2, {"skipped_steps": 0, "empty_steps": count})
    where = ["", " in 1 of 4 minibatches", " in 3 of 4 minibatches"]
    assert [r.getMessage() for r in caplog.records] == [
        line
        for place in where
        for line in (
            f"toy: step 1 changed nothing{place}: not finite: loss",
            f"toy: step 2 changed nothing{place}: no token or pair has weight",
        )
    ]


def test_a_step_that_reports_nothing_of_it_keeps_its_metrics():
    assert Health("toy").count(1, {"a": 1.0}) == {"a": 1.0}


def test_keep_if_gives_the_bits_of_either():
    new, old = {"a": jnp.asarray([1.5, -0.0])}, {"a": jnp.asarray([jnp.nan, 2.0])}
    for ok, wanted in ((True, new), (False, old)):
        found = keep_if(jnp.asarray(ok), new, old)["a"]
        assert np.asarray(found).tobytes() == np.asarray(wanted["a"]).tobytes()
    assert not all_finite(jnp.ones(()), jnp.asarray(jnp.inf))


def test_a_batch_comes_back(tmp_path):
    batch = {"prompts": {"tokens": np.arange(6).reshape(2, 3)}, "text": np.ones(2, np.float32)}
    write_batch(tmp_path / "a" / "b.npz", batch, {"step": 1})
    found, about = read_batch(tmp_path / "a" / "b.npz")
    assert about == {"step": 1} and found.keys() == batch.keys()
    jax.tree.map(np.testing.assert_array_equal, found, batch)
    assert os.listdir(tmp_path / "a") == ["b.npz"]


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_planted_pickle_is_refused_and_never_loaded(tmp_path):
    """As an object array inside a .npz, as a .npy, and as a plain pickle."""
    sign = tmp_path / "exploded"
    objects = np.array([_Bomb(sign)], dtype=object)
    np.savez(tmp_path / "a.npz", x=objects, **{"about.json": np.zeros(2, np.uint8)})
    np.save(tmp_path / "b.npz", objects, allow_pickle=True)
    os.replace(tmp_path / "b.npz.npy", tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(pickle.dumps(_Bomb(sign)))
    for name in "abc":
        with pytest.raises(UserError, match=f"{name}.npz: expected a batch saved.*damaged one$"):
            read_batch(tmp_path / f"{name}.npz")
    assert not sign.exists()
