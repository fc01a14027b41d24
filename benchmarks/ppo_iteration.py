"""Seconds and share of each phase of a PPO iteration: python benchmarks/ppo_iteration.py

tiny   4 layers, d 256, 4 heads, vocabulary 8192; 64 episodes of 32 + 48 tokens, 4 minibatches
       of 16, 4 epochs; policy, reference, reward and value are four full models
small  GPT-2 (124M) on the same batch, 1 epoch

Weights are random, so that no episode ends early. Each size runs in a process of its own; the
figures are medians over --iterations after one that compiles. Peak memory is the process's
largest resident set. Writes the table to the terminal and everything to --out as JSON.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PHASES = ("generation", "scoring", "update")
EPISODES, PROMPT, RESPONSE, MINIBATCHES = 64, 32, 48, 4
EPOCHS = {"tiny": 4, "small": 1}


def measure(size: str, iterations: int) -> dict:
    """One size, in this process: medians of each phase's seconds, and the roofline."""
    from rlhf_jax.parallel.host import keep_pages

    keep_pages()
    import jax
    import jax.numpy as jnp

    from rlhf_jax.models import score, transformer
    from rlhf_jax.models.config import SIZES
    from rlhf_jax.models.matmul import resolve_dtype
    from rlhf_jax.stages import ppo
    from rlhf_jax.training.optimizer import OptimizerConfig

    model = dataclasses.replace(SIZES["gpt2" if size == "small" else size], scan_layers=False)
    optimizer = OptimizerConfig(learning_rate=1e-6)
    config = ppo.PPOConfig(
        optimizer,
        optimizer,
        iterations=iterations + 1,
        batch_size=EPISODES,
        minibatches=MINIBATCHES,
        epochs=EPOCHS[size],
        prompt_length=PROMPT,
        response_length=RESPONSE,
    )
    key = jax.random.key(0)
    policy = transformer.init(model, key)
    reward = score.with_score_head(transformer.init(model, jax.random.fold_in(key, 1)), key)
    frozen = ppo.Frozen(policy, reward)
    state = ppo.initial_state(config, policy, reward, key)
    # An id that the vocabulary does not have never ends a response.
    programs = ppo.compile_programs(config, model, ppo.TokenIds(eos=model.vocab_size, pad=0))
    prompts = {
        "tokens": jax.random.randint(key, (EPISODES, PROMPT), 4, model.vocab_size, jnp.int32),
        "segments": jnp.ones((EPISODES, PROMPT), jnp.int32),
    }
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}

    def timed(phase, function, *args):
        started = time.perf_counter()
        result = jax.block_until_ready(function(*args))
        seconds[phase].append(time.perf_counter() - started)
        return result

    for number in range(iterations + 1):
        row_key = jax.random.fold_in(key, number)
        rollout = timed("generation", programs.rollout, state.policy, row_key, prompts)
        assert float(rollout.mask.mean()) == 1.0
        experience, metrics = timed("scoring", programs.experience, state, frozen, prompts, rollout)
        state, _ = timed("update", programs.update, state, experience, metrics["kl"], None)
    medians = {phase: statistics.median(values[1:]) for phase, values in seconds.items()}
    total = sum(medians.values())
    updates = EPOCHS[size] * MINIBATCHES
    flops = needed_flops(model, EPOCHS[size])
    return {
        "size": size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(policy)),
        "compute_dtype": str(resolve_dtype(model.compute_dtype)),
        "devices": len(jax.devices()),
        "cores": os.cpu_count(),
        "iteration_seconds": total,
        "seconds": medians | {"update_per_minibatch": medians["update"] / updates},
        "shares": {phase: value / total for phase, value in medians.items()},
        "compile_seconds": sum(v[0] for v in seconds.values()) - total,
        "generated_tokens_per_second": EPISODES * RESPONSE / medians["generation"],
        "needed_gflop": {phase: value / 1e9 for phase, value in flops.items()},
        "gflop_per_second": {phase: flops[phase] / 1e9 / medians[phase] for phase in PHASES},
        "matmul_gflop_per_second": matmul_rate(str(resolve_dtype(model.compute_dtype))),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def needed_flops(model, epochs: int) -> dict[str, float]:
    """Multiplications and additions that the matrices ask for, attention scores left out.

    The last layer's queries and the logits are needed at the response only.
    """
    width, layers = model.width, model.layers
    attention, feed_forward = 4 * width * width, 2 * width * model.feed_forward_width
    per_layer = attention + feed_forward
    keys = 2 * width * width
    head = width * model.vocab_size
    sequence = PROMPT + RESPONSE
    trunk = (
        2
        * EPISODES
        * (sequence * ((layers - 1) * per_layer + keys) + RESPONSE * (per_layer - keys))
    )
    logits = 2 * EPISODES * RESPONSE * head
    prefill = 2 * EPISODES * PROMPT * ((layers - 1) * per_layer + keys)
    decode = 2 * EPISODES * RESPONSE * (layers * per_layer + head)
    return {
        "generation": prefill + decode,
        "scoring": 4 * trunk + 2 * logits,
        "update": 3 * epochs * (2 * trunk + logits),
    }


def matmul_rate(dtype: str) -> float:
    """GFLOP/s of a 2048^3 product in the compute dtype: what this machine can give."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048), dtype)
    product = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32))
    product(a, a).block_until_ready()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / 1e9 / min(times)


def table(results: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = Table(title="One PPO iteration")
    columns.add_column("")
    for result in results:
        columns.add_column(result["size"], justify="right")
    rows = {
        phase: [
            f"{r['seconds'][phase]:.2f} s  {r['shares'][phase]:4.0%}  "
            f"{r['gflop_per_second'][phase]:.0f} GFLOP/s"
            for r in results
        ]
        for phase in PHASES
    }
    rows["update, a minibatch"] = [f"{r['seconds']['update_per_minibatch']:.3f} s" for r in results]
    rows["iteration"] = [f"{r['iteration_seconds']:.2f} s" for r in results]
    rows["generated"] = [f"{r['generated_tokens_per_second']:,.0f} tokens/s" for r in results]
    rows["peak memory"] = [f"{r['peak_memory_gib']:.2f} GiB" for r in results]
    rows["compilation"] = [f"{r['compile_seconds']:.1f} s" for r in results]
    rows["2048^3 product"] = [
        f"{r['matmul_gflop_per_second']:.0f} GFLOP/s, {r['compute_dtype']}" for r in results
    ]
    for name, cells in rows.items():
        columns.add_row(name, *cells)
    Console().print(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=("tiny", "small"), default=["tiny", "small"])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/ppo_iteration.json"))
    parser.add_argument("--here", action="store_true", help="one size, in this process, as JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.sizes[0], options.iterations)))
        return
    results = []
    for size in options.sizes:
        iterations = options.iterations if size == "tiny" else min(options.iterations, 2)
        command = [sys.executable, __file__, "--here", "--sizes", size]
        command += ["--iterations", str(iterations)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table(results)
    print(options.out)


if __name__ == "__main__":
    main()
