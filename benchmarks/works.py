"""The works that benchmarks/speed.py measures here: training steps, generation, a PPO iteration.

Each makes a program, compiles it, and returns a `Work`. Weights and tokens are random; no response
ends early. The same shapes are in peer.py's works, which read them from the command line.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp

from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.plan.flops import forward_flops, matrix_parameters

OPTIMIZER = {"learning_rate": 1e-6, "b2": 0.95}


@dataclasses.dataclass
class Work:
    """once: does the work and returns the seconds of its parts, measured apart. tokens: that it
    trains on or generates. flops, bytes: the least that it needs. memory: bytes that the largest
    program holds, as the compiler counts them."""

    once: Callable[[], dict[str, float]]
    tokens: int
    flops: float
    bytes: float
    memory: int
    compile_seconds: float


def timed(function: Callable, *arguments):
    """(the result when it is there, seconds)."""
    started = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - started


def parameters(model: TransformerConfig) -> int:
    return matrix_parameters(model) + model.vocab_size * model.width


def held(compiled) -> int:
    """Bytes of a program: arguments, results and temporaries; donated memory counts once."""
    of = compiled.memory_analysis()
    sizes = of.argument_size_in_bytes + of.output_size_in_bytes + of.temp_size_in_bytes
    return sizes - of.alias_size_in_bytes


def compiled(programs: dict) -> dict:
    """A stage's programs by name, each compiled for the first device, in a thread of its own."""
    from rlhf_jax.parallel.layout import MeshShape
    from rlhf_jax.parallel.runner import JitRunner, layout_of

    runner = JitRunner(layout_of(jax.devices()[:1], MeshShape(1, 1, 1)))
    lowered = [program.lower(runner) for program in programs.values()]
    with ThreadPoolExecutor() as pool:
        return dict(zip(programs, pool.map(lambda x: x.compile(), lowered), strict=True))


def random_tokens(model: TransformerConfig, *shape: int) -> jax.Array:
    return jax.random.randint(jax.random.key(7), shape, 4, model.vocab_size, jnp.int32)


def sft(model: TransformerConfig, rows: int, length: int) -> Work:
    """One step on `rows` demonstrations of `length` tokens: loss, gradient, clipping, Adam."""
    from rlhf_jax.stages import supervised
    from rlhf_jax.training.optimizer import OptimizerConfig

    @dataclasses.dataclass(frozen=True)
    class How:
        optimizer: OptimizerConfig = OptimizerConfig(**OPTIMIZER)
        micro_batches: int = 1

    started = time.perf_counter()
    loss = supervised.likelihood_loss(model, packed=False)
    update, optimizer = supervised.make_update(loss, How(), 1000)
    make = lambda key: supervised.initial_state(transformer.init(model, key), optimizer, key)
    state = jax.jit(make)(jax.random.key(0))
    tokens = random_tokens(model, rows, length)
    batch = {
        "tokens": tokens,
        "segments": jnp.ones_like(tokens),
        "weights": jnp.ones(tokens.shape),
    }
    compiled = update.lower(state, batch, {}).compile()
    about = {"losses": []}

    def once():
        nonlocal state
        (state, metrics), seconds = timed(compiled, state, batch, {})
        about["losses"].append(float(metrics["loss"]))
        return {"step": seconds}

    once()
    passes = 7 * 4 * parameters(model)  # p, m, v, g are read; p, m, v are written
    flops = 3 * forward_flops(model, rows, length, length)
    spent = time.perf_counter() - started
    return Work(once, tokens.size, flops, passes, held(compiled), spent)


def reward(model: TransformerConfig, elements: int, outputs: int, length: int) -> Work:
    """One step of a reward model on `elements` prompts with `outputs` responses, `length` tokens
    each with the prompt: a forward pass per output, the loss over all pairs, gradient, Adam."""
    from rlhf_jax.stages.reward_model import RewardModel

    flops = 3 * forward_flops(model, elements * outputs, length, 0)
    return rankings(RewardModel, model, elements, outputs, length, flops, passes=7)


def dpo(model: TransformerConfig, elements: int, outputs: int, length: int) -> Work:
    """One step of DPO on the same rows: the reference's log-probabilities, then the update. All
    tokens but the first are the response."""
    from rlhf_jax.stages.dpo import DirectPreference

    flops = 4 * forward_flops(model, elements * outputs, length, length)
    return rankings(DirectPreference, model, elements, outputs, length, flops, passes=8)


def rankings(
    kind: type,
    model: TransformerConfig,
    elements: int,
    outputs: int,
    length: int,
    flops: float,
    passes: int,
) -> Work:
    """One step of a stage that learns from rankings. No row has padding, so no rows are shared or
    cut. passes: over the parameters, in float32."""
    from rlhf_jax.stages.stage import Build
    from rlhf_jax.stages.supervised import initial_state
    from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer

    started = time.perf_counter()
    optimizer = OptimizerConfig(**OPTIMIZER)
    stage = kind(
        optimizer, batch_size=elements, outputs=outputs, length=length, start="sft", buckets=1
    )
    build = Build("rankings", model, {"start": model}, Ending(model.vocab_size, 0))
    programs = compiled(stage.programs(build, 1000))
    key = jax.random.key(0)
    policy = jax.jit(functools.partial(transformer.init, model))(key)
    start = jax.tree.map(jnp.copy, policy)
    params = score.with_score_head(start, key) if kind.ends == "score" else start
    state = initial_state(params, make_optimizer(optimizer, 1000), key)
    tokens = random_tokens(model, elements, outputs, length)
    rows = {
        "tokens": tokens,
        "segments": jnp.zeros_like(tokens) + jnp.arange(1, outputs + 1)[:, None],
        "weights": jnp.ones(tokens.shape),
    }
    ranks = {"ranks": jnp.tile(jnp.arange(outputs), (elements, 1))}

    def once():
        nonlocal state
        seconds, batch = {}, rows | ranks
        if "reference" in programs:
            found, seconds["reference"] = timed(programs["reference"], policy, rows)
            batch = batch | {"ref_log_probs": found}
        (state, metrics), seconds["update"] = timed(programs["update"], state, batch, {})
        assert float(metrics["padding"]) == 0 and math.isfinite(metrics["loss"])
        return seconds

    once()
    memory, size = max(map(held, programs.values())), passes * 4 * parameters(model)
    return Work(once, tokens.size, flops, size, memory, time.perf_counter() - started)


def generation(model: TransformerConfig, rows: int, prompt: int, response: int) -> Work:
    """`rows` responses of `response` tokens to prompts of `prompt` tokens, at temperature 1."""
    started = time.perf_counter()
    params = jax.jit(functools.partial(transformer.init, model))(jax.random.key(0))
    tokens = random_tokens(model, rows, prompt)
    # An id that the vocabulary does not have never ends a response.
    ending = Ending(eos=model.vocab_size, pad=0)
    sample = functools.partial(
        generate, model, sampling=SamplingConfig(1.0), response_length=response, ending=ending
    )
    arguments = params, tokens, jnp.ones_like(tokens), jax.random.key(1)
    compiled = jax.jit(sample).lower(*arguments).compile()

    def once():
        rollout, seconds = timed(compiled, *arguments)
        assert float(rollout.mask.mean()) == 1.0
        return {"generation": seconds}

    once()
    flops, size = generation_needs(model, rows, prompt, response)
    spent = time.perf_counter() - started
    return Work(once, rows * response, flops, size, held(compiled), spent)


def generation_needs(model: TransformerConfig, rows: int, prompt: int, response: int):
    """(FLOPs, bytes): a step reads the matrices in bfloat16 and the filled part of the cache."""
    pair = 2 * 2 * model.layers * model.key_value_heads * model.head_width  # of a token, in bytes
    cache = rows * pair * (prompt + response / 2)
    each = 2 * parameters(model) + cache
    per_token = forward_flops(model, 1, 1, 1)
    return (
        forward_flops(model, rows, prompt, 1) + rows * response * per_token,
        response * each,
    )


def ppo(
    model: TransformerConfig,
    rows: int,
    prompt: int,
    response: int,
    minibatches: int = 4,
    epochs: int = 1,
) -> Work:
    """An iteration: rollout, scoring by policy, reference, reward model and value network (four
    full models), and `epochs` x `minibatches` updates of policy and value network."""
    from rlhf_jax.rewards.learned import LearnedReward
    from rlhf_jax.stages import presets
    from rlhf_jax.stages.fitting import WHOLE
    from rlhf_jax.stages.policy_update import frozen_of, initial_state
    from rlhf_jax.stages.stage import Build
    from rlhf_jax.training.optimizer import OptimizerConfig

    started = time.perf_counter()
    optimizer = OptimizerConfig(**OPTIMIZER)
    config = presets.ppo(
        policy_optimizer=optimizer,
        value_optimizer=optimizer,
        iterations=1000,
        batch_size=rows,
        minibatches=minibatches,
        epochs=epochs,
        prompt_length=prompt,
        response_length=response,
        start="policy",
        rewards=(LearnedReward("reward"),),
    )
    key = jax.random.key(0)
    init = jax.jit(functools.partial(transformer.init, model))
    policy = init(key)
    reward = score.with_score_head(init(jax.random.fold_in(key, 1)), key)
    frozen = frozen_of(config, policy, policy, {"reward": reward}, reward)
    state = initial_state(config, policy, reward, key)
    build = Build("ppo", model, dict.fromkeys(config.needs(), model), Ending(model.vocab_size, 0))
    programs = compiled(config.programs(build, config.iterations))
    tokens = random_tokens(model, rows, prompt)
    prompts = {"tokens": tokens, "segments": jnp.ones_like(tokens)}
    count = 0

    def once():
        nonlocal state, count
        count += 1
        row_key = jax.random.fold_in(key, count)
        rollout, sampling = timed(programs["rollout"], state.policy, row_key, prompts)
        assert float(rollout.mask.mean()) == 1.0
        given = state, frozen, prompts, rollout, {}, WHOLE
        (experience, moved, _), scoring = timed(programs["experience"], *given)
        given = state, experience, moved, None, frozen.fixed, WHOLE
        (state, _), updating = timed(programs["update"], *given)
        return {"generation": sampling, "scoring": scoring, "update": updating}

    once()
    flops = ppo_flops(model, rows, prompt, response, epochs)
    _, size = generation_needs(model, rows, prompt, response)
    memory = max(map(held, programs.values()))
    spent = time.perf_counter() - started
    return Work(once, rows * response, flops, size, memory, spent)


def ppo_flops(model: TransformerConfig, rows: int, prompt: int, response: int, epochs: int):
    """Rollout, four models' forward passes, and `epochs` training passes of two models. Only policy
    and reference have logits, at the response."""
    total = prompt + response
    sampled, _ = generation_needs(model, rows, prompt, response)
    trunk = forward_flops(model, rows, total, 0)
    with_logits = forward_flops(model, rows, total, response)
    return sampled + 2 * (trunk + with_logits) + 3 * epochs * (trunk + with_logits)


WORKS = {"sft": sft, "reward": reward, "dpo": dpo, "generation": generation, "ppo": ppo}
