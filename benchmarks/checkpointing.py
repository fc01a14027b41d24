"""What checkpoints add to a training step: python benchmarks/checkpointing.py

tiny   4 layers, d 256, 5 M parameters; 16 rows of 128 tokens, a checkpoint every 10 steps
small  GPT-2 (124M) on the same batch, a checkpoint every 3 steps

SFT through the loop, with checkpoints and without, in turns: the median difference of two
neighbours is what a checkpoint costs, saved so often that it stands out. By steps of the length
measured that is a share of the default interval, `share_at_default`. The time that the loop waits
for a save is part of it, and so is what writing and hashing in the background take from the steps.
Writes the table to the terminal and everything to --out as JSON.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, LENGTH = 16, 128
EVERY = {"tiny": 10, "small": 3}
SAVES = {"tiny": 3, "small": 1}  # of a measured stretch
COLUMNS = {
    "parameters": lambda r: f"{r['parameters'] / 1e6:.0f} M",
    "checkpoint": lambda r: f"{r['checkpoint_mib']:.0f} MiB",
    "a step": lambda r: f"{r['step_seconds']:.3f} s",
    "a checkpoint adds": lambda r: f"{r['checkpoint_seconds']:.3f} s",
    "the loop waits for it": lambda r: f"{r['blocking_seconds']:.3f} s",
    "share at the default interval": lambda r: f"{r['share_at_default']:.2%}",
}


def measure(size: str, pairs: int) -> dict:
    """One size, in this process: seconds of a step, and what a checkpoint adds to them."""
    from rlhf_jax.parallel.host import keep_pages

    keep_pages()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rlhf_jax.models import transformer
    from rlhf_jax.models.config import SIZES
    from rlhf_jax.stages import supervised
    from rlhf_jax.training import checkpoint, loop
    from rlhf_jax.training.optimizer import OptimizerConfig

    model = dataclasses.replace(SIZES["gpt2" if size == "small" else size], scan_layers=False)
    config = supervised.SupervisedConfig(OptimizerConfig(1e-5), batch_size=ROWS, length=LENGTH)
    params = transformer.init(model, jax.random.key(0))
    every, saves = EVERY[size], SAVES[size]
    steps = every * (saves + 1)  # each save has an interval to end in; the last is not measured
    update, optimizer = supervised.make_update(supervised.likelihood_loss(model), config, steps)
    started, blocking = [], []

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

    save = checkpoint.Checkpoints.save

    def timed_save(self, step, *rest):
        began = time.perf_counter()
        save(self, step, *rest)
        if step < steps:
            blocking.append(time.perf_counter() - began)

    checkpoint.Checkpoints.save = timed_save

    def stretch(interval: int) -> float:
        """Seconds from the second step's start to the last one's."""
        started.clear()
        state = supervised.initial_state(
            jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0)
        )
        task = loop.Task("sft", state, step, Batches(), steps, ROWS * LENGTH)
        with tempfile.TemporaryDirectory() as directory:
            loop.run(task, directory, loop.LoopConfig(interval), fingerprint={})
            files = Path(directory, "checkpoints", str(steps)).rglob("*")
            sizes.append(sum(file.stat().st_size for file in files if file.is_file()))
        return started[-1] - started[1]

    sizes: list[int] = []
    never = steps + 1
    stretch(never)  # compiles
    without, added = [], []
    for number in range(pairs):
        order = (never, every) if number % 2 else (every, never)
        seconds = {interval: stretch(interval) for interval in order}
        without.append(seconds[never] / (steps - 2))
        added.append((seconds[every] - seconds[never]) / saves)
    step_seconds, checkpoint_seconds = statistics.median(without), statistics.median(added)
    default = loop.LoopConfig().checkpoint_every
    return {
        "size": size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "cores": os.cpu_count(),
        "default_interval": default,
        "measured_interval": every,
        "checkpoint_mib": sizes[-1] / 2**20,
        "step_seconds": step_seconds,
        "step_seconds_all": without,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_seconds_all": added,
        "blocking_seconds": statistics.median(blocking),
        "share_at_default": checkpoint_seconds / (default * step_seconds),
    }


def table(results: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = Table(title="A checkpoint's cost")
    columns.add_column("")
    for result in results:
        columns.add_column(result["size"], justify="right")
    for name, cell in COLUMNS.items():
        columns.add_row(name, *map(cell, results))
    Console().print(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=("tiny", "small"), default=["tiny", "small"])
    parser.add_argument("--pairs", type=int, default=5, help="stretches with and without")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/checkpointing.json"))
    parser.add_argument("--here", action="store_true", help="one size, in this process, as JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.sizes[0], options.pairs)))
        return
    results = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--here", "--sizes", size]
        pairs = options.pairs if size == "tiny" else min(options.pairs, 2)
        command += ["--pairs", str(pairs)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table(results)
    print(options.out)


if __name__ == "__main__":
    main()
