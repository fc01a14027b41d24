"""Seconds and share of each phase of a PPO iteration: python benchmarks/ppo_iteration.py

tiny   4 layers, d 256, 4 heads, vocabulary 8192; 64 episodes of 32 + 48 tokens, 4 minibatches
       of 16, 4 epochs; policy, reference, reward and value are four full models
small  GPT-2 (124M) on the same batch, 1 epoch

Weights are random, so that no episode ends early. Each size runs in a process of its own; the
figures are medians over --iterations after one that compiles. Peak memory is the process's
largest resident set. Writes the table to the terminal and everything to --out as JSON.
"""

import dataclasses
import os
import resource
import statistics
import time

from by_size import main

PHASES = ("generation", "scoring", "update")
EPISODES, PROMPT, RESPONSE, MINIBATCHES = 64, 32, 48, 4
EPOCHS = {"tiny": 4, "small": 1}


def measure(size: str, iterations: int) -> dict:
    """One size, in this process: medians of each phase's seconds, and the roofline."""
    import jax
    import jax.numpy as jnp

    from rlhf_jax.generation.ending import Ending
    from rlhf_jax.models import score, transformer
    from rlhf_jax.models.config import SIZES
    from rlhf_jax.models.matmul import resolve_dtype
    from rlhf_jax.parallel.layout import MeshShape
    from rlhf_jax.parallel.runner import JitRunner, layout_of
    from rlhf_jax.rewards.learned import LearnedReward
    from rlhf_jax.stages import presets
    from rlhf_jax.stages.policy_update import frozen_of, initial_state
    from rlhf_jax.stages.stage import Build
    from rlhf_jax.training.optimizer import OptimizerConfig

    model = dataclasses.replace(SIZES["gpt2" if size == "small" else size], scan_layers=False)
    optimizer = OptimizerConfig(learning_rate=1e-6)
    config = presets.ppo(
        policy_optimizer=optimizer,
        value_optimizer=optimizer,
        iterations=iterations + 1,
        batch_size=EPISODES,
        minibatches=MINIBATCHES,
        epochs=EPOCHS[size],
        prompt_length=PROMPT,
        response_length=RESPONSE,
        start="policy",
        rewards=(LearnedReward("reward"),),
    )
    key = jax.random.key(0)
    policy = transformer.init(model, key)
    reward = score.with_score_head(transformer.init(model, jax.random.fold_in(key, 1)), key)
    frozen = frozen_of(config, policy, policy, {"reward": reward}, reward)
    state = initial_state(config, policy, reward, key)
    # An id that the vocabulary does not have never ends a response.
    ending = Ending(eos=model.vocab_size, pad=0)
    build = Build("ppo", model, dict.fromkeys(config.needs(), model), ending)
    runner = JitRunner(layout_of(jax.devices()[:1], MeshShape(1, 1, 1)))
    made = config.programs(build, config.iterations)
    programs = {name: program.compile(runner) for name, program in made.items()}
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
        rollout = timed("generation", programs["rollout"], state.policy, row_key, prompts)
        assert float(rollout.mask.mean()) == 1.0
        given = state, frozen, prompts, rollout, {}
        experience, moved, _ = timed("scoring", programs["experience"], *given)
        given = state, experience, moved, None, frozen.fixed
        state, _ = timed("update", programs["update"], *given)
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


def phase(name: str):
    return lambda r: (
        f"{r['seconds'][name]:.2f} s  {r['shares'][name]:4.0%}  "
        f"{r['gflop_per_second'][name]:.0f} GFLOP/s"
    )


FIGURES = {
    **{name: phase(name) for name in PHASES},
    "update, a minibatch": lambda r: f"{r['seconds']['update_per_minibatch']:.3f} s",
    "iteration": lambda r: f"{r['iteration_seconds']:.2f} s",
    "generated": lambda r: f"{r['generated_tokens_per_second']:,.0f} tokens/s",
    "peak memory": lambda r: f"{r['peak_memory_gib']:.2f} GiB",
    "compilation": lambda r: f"{r['compile_seconds']:.1f} s",
    "2048^3 product": lambda r: f"{r['matmul_gflop_per_second']:.0f} GFLOP/s, {r['compute_dtype']}",
}


if __name__ == "__main__":
    main(__file__, "One PPO iteration", measure, FIGURES, "iterations", {"tiny": 5, "small": 2})
