"""What cut and shared rows save: python benchmarks/padding.py [--rounds 5]

Scoring and update of a PPO iteration, and an update of the reward model, with the shapes of
experiments/quickstart.py: 4 layers, d 128, vocabulary 1024; 128 episodes of 32 + 24 tokens in 4
minibatches; 8 elements of 18 outputs of 48 tokens. Weights and tokens are random. The lengths are
drawn: prompts of 6 to 24 tokens, responses of 9 tokens in the mean. "whole" computes all columns of
all rows; "cut" and "shared" are what `buckets=4` computes with and without the fused kernel. The
ways alternate; the figures are medians of seconds over --rounds, and ratios to "whole".
"""

import argparse
import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.arrays import ranking_batch
from rlhf_jax.data.buckets import bucket_for, shared_length
from rlhf_jax.generation.decode import Rollout
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.parallel.host import keep_pages
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import presets
from rlhf_jax.stages.fitting import WHOLE, Fitting
from rlhf_jax.stages.policy_update import frozen_of, initial_state, minibatch_rows
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.stage import Build
from rlhf_jax.stages.supervised import initial_state as one_model_state
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer

PROMPT, RESPONSE, EPISODES, MINIBATCHES = 32, 24, 128, 4
ELEMENTS, OUTPUTS, LENGTH, BUCKETS = 8, 18, 48, 4
MODEL = TransformerConfig(
    vocab_size=1024, layers=4, width=128, heads=4, context=160, scan_layers=False
)
ENDING, RATE = Ending(eos=2, pad=0), OptimizerConfig(learning_rate=1e-6)
RNG = np.random.default_rng(0)


def lengths(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of prompts and of responses."""
    return RNG.integers(6, 25, count), np.minimum(RNG.geometric(1 / 9, count), RESPONSE)


def episodes() -> tuple[dict, Rollout]:
    asked, answered = lengths(EPISODES)
    ids = lambda columns: RNG.integers(4, 1024, (EPISODES, columns)).astype(np.int32)
    segments = (np.arange(PROMPT) >= PROMPT - asked[:, None]).astype(np.int32)
    mask = (np.arange(RESPONSE) < answered[:, None]).astype(np.float32)
    log_probs = np.zeros(mask.shape, np.float32)
    return {"tokens": ids(PROMPT), "segments": segments}, Rollout(ids(RESPONSE), mask, log_probs)


def ppo(key: jax.Array, policy, scorer) -> dict:
    """One iteration's scoring and update, by way."""
    config = presets.ppo(
        policy_optimizer=RATE,
        value_optimizer=RATE,
        iterations=2,
        batch_size=EPISODES,
        minibatches=MINIBATCHES,
        prompt_length=PROMPT,
        response_length=RESPONSE,
        start="policy",
        rewards=(LearnedReward("reward"),),
    )
    build = Build("ppo", MODEL, dict.fromkeys(config.needs(), MODEL), ENDING)
    made = config.programs(build, config.iterations)
    score_, update = (jax.jit(made[name].function) for name in ("experience", "update"))
    frozen = frozen_of(config, policy, policy, {"reward": scorer}, scorer)
    state = initial_state(config, policy, scorer, key)
    prompts, rollout = episodes()
    looked = key, np.int32(0), prompts["segments"], rollout.mask
    fits = {"whole": (WHOLE, WHOLE)}
    for name, length in (
        ("cut", None),
        ("shared", shared_length(PROMPT + RESPONSE, MODEL.context)),
    ):
        orders = functools.partial(minibatch_rows, config)
        fits[name] = Fitting(config, orders, BUCKETS, length)(*looked)

    def iteration(scoring, updating):
        experience, moved, metrics = score_(state, frozen, prompts, rollout, {}, scoring)
        return update(state, experience, moved, None, frozen.fixed, updating)[1], metrics

    return {name: functools.partial(iteration, *fit) for name, fit in fits.items()}


def reward(key: jax.Array, scorer) -> dict:
    """One update, by way."""
    asked, answered = (each.reshape(ELEMENTS, -1) for each in lengths(ELEMENTS * OUTPUTS))
    pieces = lambda b: [
        (RNG.integers(4, 1024, a + n).astype(np.int32), slice(a, None))
        for a, n in zip(asked[b], answered[b], strict=True)
    ]
    rows = [[(pieces(b), RNG.permutation(OUTPUTS).tolist())] for b in range(ELEMENTS)]
    ways = {}
    for name, buckets in (("whole", 1), ("shared", BUCKETS)):
        stage = RewardModel(
            RATE, batch_size=ELEMENTS, outputs=OUTPUTS, length=LENGTH, start="sft",
            buckets=buckets,
        )  # fmt: skip
        build = Build("reward", MODEL, {"start": MODEL}, ENDING)
        row_length = stage.row_length(build)
        batch = ranking_batch(rows, LENGTH, OUTPUTS, 1, 0, row_length)
        batch["ranks"] = batch["ranks"][:, 0]
        needed = int((batch["segments"] > 0).any(-1).sum(1).max())
        kept = bucket_for(needed, batch["tokens"].shape[1], buckets)
        few = {name: batch[name][:, :kept] for name in ("tokens", "segments", "weights")}
        update = jax.jit(stage.programs(build, 10)["update"].function)
        state = one_model_state(scorer, make_optimizer(RATE, 10), key)
        ways[name] = functools.partial(update, state, batch | few, {})
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    keep_pages()
    key = jax.random.key(0)
    policy = jax.jit(functools.partial(transformer.init, MODEL))(key)
    scorer = score.with_score_head(jax.tree.map(jnp.copy, policy), key)
    found = {}
    for work, ways in (("ppo", ppo(key, policy, scorer)), ("reward", reward(key, scorer))):
        padding, seconds = {}, {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, run in ways.items():
                started = time.perf_counter()
                told = jax.block_until_ready(run())[1]
                seconds[name].append(time.perf_counter() - started)
                if turn == 0:
                    padding[name] = float(told["padding"])
        medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
        found[work] = {
            name: {
                "seconds": median,
                "of whole": median / medians["whole"],
                "padding": padding[name],
                "first call": seconds[name][0],
            }
            for name, median in medians.items()
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
