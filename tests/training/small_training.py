"""A small real training through the loop, and a driver that kills it where it is told to.

    python -m tests.training.small_training DIRECTORY KILL KILL ...

Each KILL, "place:step", is one process that ends in a SIGKILL; one more, without, then finishes.
All are forked from here before jax starts its devices, so that it is imported once.
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from rlhf_jax.durable import checkpoint
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.training.gradients import accumulate_gradients, means
from rlhf_jax.training.loop import LoopConfig, Task, run
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer
from tests import bucket

STEPS, ROWS, WIDTH = 12, 8, 16
LOOP = LoopConfig(checkpoint_every=4, log_every=1, keep=1)


class Rows:
    """Batches of an endless shuffle; its position is the state of its generator."""

    def __init__(self):
        self.random = np.random.default_rng(3)

    def __next__(self):
        x = self.random.normal(size=(ROWS, WIDTH)).astype(np.float32)
        weights = self.random.integers(0, 2, ROWS).astype(np.float32)
        return {"x": x, "y": np.sin(x).sum(1), "weights": weights}

    def get_state(self):
        return self.random.bit_generator.state

    def set_state(self, state):
        self.random.bit_generator.state = state


def make_task(steps=STEPS) -> Task:
    """An MLP with dropout, Adam on a schedule, a key that moves and an average of the weights."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, schedule="cosine"), steps)

    def init(key):
        first, second = jax.random.split(key)
        params = {
            "in": jax.random.normal(first, (WIDTH, 64)) / 4,
            "out": jax.random.normal(second, (64,)) / 8,
        }
        ema = jax.tree.map(jnp.copy, params)
        moments, step = optimizer.init(params), jnp.zeros((), jnp.int32)
        return {"params": params, "ema": ema, "optimizer": moments, "key": key, "step": step}

    def loss(params, batch, key):
        hidden = jnp.tanh(batch["x"] @ params["in"])
        hidden = hidden * jax.random.bernoulli(key, 0.8, hidden.shape) / 0.8
        return WeightedMean.of((hidden @ params["out"] - batch["y"]) ** 2, batch["weights"]), {}

    def step(state, batch):
        key, dropout = jax.random.split(state["key"])
        gradients, metrics = accumulate_gradients(loss, state["params"], batch, 2, dropout)
        updates, moments = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        ema = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state["ema"], params)
        new = {"params": params, "ema": ema, "optimizer": moments, "key": key}
        return new | {"step": state["step"] + 1}, means(metrics)

    state = jax.jit(init)(jax.random.key(0))
    return Task("small", state, jax.jit(step, donate_argnums=0), Rows(), steps, ROWS)


def digest(state) -> str:
    """One hash of all bits of a state."""
    state = {**state, "key": jax.random.key_data(state["key"])}
    leaves = [np.asarray(x) for x in jax.tree.leaves(state)]
    return hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()


def _with_kill(task: Task, place: str, at: int) -> Task:
    """The task of a process that ends itself: in step `at`, or around its save."""
    save = checkpoint.Checkpoints.save

    def end_at(here: str, step: int):
        if (here, step) == (place, at):
            os.kill(os.getpid(), signal.SIGKILL)

    def saving(self, step, *items):
        end_at("before_save", step)
        save(self, step, *items)
        end_at("save_begun", step)
        if (place, step) == ("while_writing", at):
            time.sleep(0.03)
        end_at("while_writing", step)

    def stepping(state, batch):
        end_at("step", int(state["step"]) + 1)
        return task.step(state, batch)

    checkpoint.Checkpoints.save = saving
    return dataclasses.replace(task, step=stepping)


def _train(directory: epath.Path, kill: str | None) -> None:
    task = make_task()
    if kill:
        place, at = kill.split(":")
        task = _with_kill(task, place, int(at))
    state = run(task, directory, LOOP, fingerprint={"steps": STEPS})
    result = {"digest": digest(state), "data": task.batches.get_state()}
    write_atomically(directory / "result.json", json.dumps(result).encode())


def main(directory: epath.Path, kills: list[str]) -> None:
    for kill in [*kills, None]:
        child = os.fork()
        if child == 0:
            _train(directory, kill)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print("ended", kill, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    if bucket.URL in os.environ:
        bucket.use()
    main(epath.Path(sys.argv[1]), sys.argv[2:])
