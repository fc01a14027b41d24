"""A run of the loop in a process of its own, as the command line would run it.

    python -m tests.training.signalled DIRECTORY [hang | fill]

It prints "step N" before each step. hang: the second step never returns. fill: between the steps
the disk fills up.
"""

import contextlib
import ctypes
import os
import sys
import time
from pathlib import Path

import jax

from rlhf_jax.durable.signals import SIGNALS
from rlhf_jax.errors import UserError
from rlhf_jax.training.loop import LoopConfig, Task, run


class Numbers:
    position = 0

    def __next__(self):
        self.position += 1
        return self.position

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def main(directory: Path, how: str) -> None:
    @jax.jit
    def add(state, batch):
        return {"w": state["w"] + batch}, {"mean": state["w"].mean()}

    def step(state, batch):
        print(f"step {batch}", flush=True)
        if how == "hang" and batch == 2:
            print("hanging", flush=True)
            mutex = ctypes.create_string_buffer(64)
            for _ in range(2):  # the second waits for ever, in C, as a compiler would
                ctypes.CDLL(None).pthread_mutex_lock(mutex)
        if how == "fill" and batch > 4:
            with contextlib.suppress(OSError):
                (directory / f"more{batch}").write_bytes(os.urandom(500_000))
        time.sleep(0.1)
        return add(state, batch)

    state = {"w": jax.random.normal(jax.random.key(0), (300, 500))}  # 600 kB, hard to compress
    every = 2 if how == "fill" else 1000
    task = Task("small", state, step, Numbers(), 40, 1)
    with SIGNALS.handled():
        run(task, directory, LoopConfig(checkpoint_every=every), fingerprint={})
    if SIGNALS.received:
        print(f"{SIGNALS.received}: saved at step {task.batches.position} of 40")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
    except UserError as mistake:
        print(f"rlhf-jax: {mistake}", file=sys.stderr)
        sys.exit(2)
