"""What checkpoints add to a training step: python benchmarks/checkpointing.py

tiny   4 layers, d 256, 5 M parameters; 16 rows of 128 tokens, a checkpoint every 10 steps
small  GPT-2 (124M) on the same batch, a checkpoint every 4 steps

SFT through the loop. After a save, the seconds of the first half of the steps up to the next one
less those of the second half are what it costs: the time that the loop waits for it, and what
writing and hashing in the background take from the steps. The median over --saves of that, as a
share of the default interval of such steps, is `share_at_default`. Writes the table to the terminal
and everything to --out as JSON.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

from by_size import main

ROWS, LENGTH = 16, 128
EVERY = {"tiny": 10, "small": 4}
FIGURES = {
    "parameters": lambda r: f"{r['parameters'] / 1e6:.0f} M",
    "checkpoint": lambda r: f"{r['checkpoint_mib']:.0f} MiB",
    "a step": lambda r: f"{r['step_seconds']:.3f} s",
    "a checkpoint adds": lambda r: f"{r['checkpoint_seconds']:.3f} s",
    "the loop waits for it": lambda r: f"{r['blocking_seconds']:.3f} s",
    "on disk, hashed, after": lambda r: f"{r['written_seconds']:.3f} s",
    "share at the default interval": lambda r: f"{r['share_at_default']:.2%}",
}


def measure(size: str, saves: int) -> dict:
    """One size, in this process: seconds of a step, and what a checkpoint adds to them."""
    import jax
    import numpy as np

    from rlhf_jax.durable import checkpoint
    from rlhf_jax.models import transformer
    from rlhf_jax.models.config import SIZES
    from rlhf_jax.stages import supervised
    from rlhf_jax.stages.pretrain import Pretrain
    from rlhf_jax.training import loop, metrics
    from rlhf_jax.training.optimizer import OptimizerConfig

    model = dataclasses.replace(SIZES["gpt2" if size == "small" else size], scan_layers=False)
    stage = Pretrain(OptimizerConfig(1e-5), batch_size=ROWS, length=LENGTH)
    params = transformer.init(model, jax.random.key(0))
    every, half = EVERY[size], EVERY[size] // 2
    steps = every * (saves + 1)  # the first interval compiles
    update, optimizer = supervised.make_update(supervised.likelihood_loss(model), stage, steps)
    started, saved, blocking, written = [], [], [], []

    class Batches:
        random = np.random.default_rng(0)

        def __next__(self):
            tokens = self.random.integers(4, model.vocab_size, (ROWS, LENGTH), np.int32)
            ones = np.ones((ROWS, LENGTH), np.int32)
            return {"tokens": tokens, "segments": ones, "weights": ones.astype(np.float32)}

        def get_state(self):
            return {}

    def step(state, batch):
        started.append(time.perf_counter())
        return update(state, batch)

    sync = metrics.MetricsWriter.sync

    def noted_sync(writer):
        saved.append(time.perf_counter())
        sync(writer)

    def after(owner, name, times):
        """Seconds from the begin of the save to the end of each call of owner.name."""
        function = getattr(owner, name)

        def timed(*arguments):
            function(*arguments)
            times.append(time.perf_counter() - saved[-1])

        setattr(owner, name, timed)

    # All steps before a save have ended when it begins, by putting the metrics on disk.
    metrics.MetricsWriter.sync = noted_sync
    after(checkpoint.Checkpoints, "save", blocking)
    after(checkpoint.manifest, "write", written)
    state = supervised.initial_state(params, optimizer, jax.random.key(0))
    task = loop.Task("sft", state, step, Batches(), steps, ROWS * LENGTH)
    with tempfile.TemporaryDirectory() as directory:
        loop.run(task, directory, loop.LoopConfig(every), fingerprint={})
        files = Path(directory, "checkpoints", str(steps)).rglob("*")
        size_in_bytes = sum(file.stat().st_size for file in files if file.is_file())
    added, plain = [], []
    for number in range(saves):
        begin, end = saved[number : number + 2]
        # Steps run one behind: when this one starts, the first half after the save has ended.
        middle = started[(number + 1) * every + half + 1]
        added.append((middle - begin) - (end - middle))
        plain.append((end - middle) / half)
    step_seconds, checkpoint_seconds = statistics.median(plain), statistics.median(added)
    default = loop.LoopConfig().checkpoint_every
    return {
        "size": size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "cores": os.cpu_count(),
        "default_interval": default,
        "measured_interval": every,
        "checkpoint_mib": size_in_bytes / 2**20,
        "step_seconds": step_seconds,
        "step_seconds_all": plain,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_seconds_all": added,
        "blocking_seconds": statistics.median(blocking),
        "written_seconds": statistics.median(written),
        "share_at_default": checkpoint_seconds / (default * step_seconds),
    }


if __name__ == "__main__":
    main(__file__, "A checkpoint's cost", measure, FIGURES, "saves", {"tiny": 20, "small": 5})
