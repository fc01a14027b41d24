"""What cut and shared rows save: python benchmarks/padding.py [--rounds 5] [--works ppo sft]

An update of SFT, of a reward model and of DPO, and scoring and update of a PPO iteration, with the
default of `buckets` beside `buckets=1`. The model is `tiny`: 4 layers, d 256, vocabulary 8192. PPO
has 64 episodes of 32 + 48 tokens in 4 minibatches, SFT 32 rows of 80 tokens, the reward model and
DPO 4 elements of 8 outputs of 80 tokens. Weights and tokens are random, and so are the lengths:
prompts have 6 to 24 tokens, responses 18 in the mean. "whole" computes all columns of all rows;
"cut" are rows cut to their longest, "shared" are rows that several sequences share. The ways
alternate; the figures are medians over --rounds, and their ratios to "whole".
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.arrays import ranking_batch, supervised_batch
from rlhf_jax.data.buckets import CUT, Buckets, shared_length
from rlhf_jax.generation.decode import Rollout
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import SIZES
from rlhf_jax.parallel.host import start_with_large_pages
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DirectPreference
from rlhf_jax.stages.fitting import WHOLE, Fitting
from rlhf_jax.stages.policy_update import frozen_of, initial_state, minibatch_rows
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.stage import Build
from rlhf_jax.stages.supervised import initial_state as one_model_state
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer

PROMPT, RESPONSE, EPISODES, MINIBATCHES = 32, 48, 64, 4
ROWS, ELEMENTS, OUTPUTS, LENGTH = 32, 4, 8, 80
MODEL = dataclasses.replace(SIZES["tiny"], scan_layers=False)
ENDING, RATE = Ending(eos=2, pad=0), OptimizerConfig(learning_rate=1e-6)
RNG = np.random.default_rng(0)


def lengths(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of prompts and of responses."""
    return RNG.integers(6, 25, count), np.minimum(RNG.geometric(1 / 18, count), RESPONSE)


def tokens(*shape: int) -> np.ndarray:
    return RNG.integers(4, MODEL.vocab_size, shape).astype(np.int32)


def pieces(count: int) -> list:
    """The tokens of sequences, and their targets."""
    both = zip(*lengths(count), strict=True)
    return [(tokens(asked + answered), slice(asked, None)) for asked, answered in both]


def episodes() -> tuple[dict, Rollout]:
    asked, answered = lengths(EPISODES)
    segments = (np.arange(PROMPT) >= PROMPT - asked[:, None]).astype(np.int32)
    mask = (np.arange(RESPONSE) < answered[:, None]).astype(np.float32)
    rollout = Rollout(tokens(EPISODES, RESPONSE), mask, np.zeros_like(mask))
    return {"tokens": tokens(EPISODES, PROMPT), "segments": segments}, rollout


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
    orders, buckets = functools.partial(minibatch_rows, config), config.bucket_count
    shared = shared_length(PROMPT + RESPONSE, MODEL.context)
    looked = key, np.int32(0), prompts["segments"], rollout.mask
    fits = {
        "whole": lambda: (WHOLE, WHOLE),
        "cut": lambda: Fitting(config, orders, buckets, None)(*looked),
        "shared": lambda: Fitting(config, orders, buckets, shared)(*looked),
    }

    def iteration(fit):
        scoring, updating = fit()  # its time counts
        experience, moved, metrics = score_(state, frozen, prompts, rollout, {}, scoring)
        return update(state, experience, moved, None, frozen.fixed, updating)[1], metrics

    return {name: functools.partial(iteration, fit) for name, fit in fits.items()}


def one_update(stage, params, key: jax.Array, batch: dict) -> Callable:
    made = stage.programs(Build("stage", MODEL, {"start": MODEL}, ENDING), 10)
    programs = {name: jax.jit(program.function) for name, program in made.items()}
    state = one_model_state(params, make_optimizer(RATE, 10), key)

    def update():
        given = batch
        if "reference" in programs:
            rows = {name: batch[name] for name in CUT}
            given = batch | {"ref_log_probs": programs["reference"](params, rows)}
        return programs["update"](state, given, {})

    return update


def sft(key: jax.Array, policy, _) -> dict:
    """One update, by way."""
    ways, rows = {}, [[piece] for piece in pieces(ROWS)]
    for name, buckets in (("whole", 1), ("cut", None)):
        stage = SFT(RATE, batch_size=ROWS, length=LENGTH, start="base", buckets=buckets)
        cut = Buckets(1, LENGTH, stage.bucket_count)
        batch = cut.cut(supervised_batch(rows, LENGTH, 0), rows, lambda row: len(row[0][0]))
        ways[name] = one_update(stage, policy, key, batch)
    return ways


def of_rankings(kind: type, key: jax.Array, params) -> dict:
    """One update, by way."""
    rows = [[(pieces(OUTPUTS), RNG.permutation(OUTPUTS).tolist())] for _ in range(ELEMENTS)]
    ways = {}
    for name, buckets in (("whole", 1), ("shared", None)):
        stage = kind(
            RATE, batch_size=ELEMENTS, outputs=OUTPUTS, length=LENGTH, start="sft",
            buckets=buckets,
        )  # fmt: skip
        row_length = stage.row_length(Build("stage", MODEL, {"start": MODEL}, ENDING))
        batch = ranking_batch(rows, LENGTH, OUTPUTS, 1, 0, row_length)
        batch["ranks"] = batch["ranks"][:, 0]
        filled = (batch["segments"] > 0).any(-1).sum(1)
        cut = Buckets(1, batch["tokens"].shape[1], stage.bucket_count)
        batch = cut.cut(batch, filled, int)
        ways[name] = one_update(stage, params, key, batch)
    return ways


WORKS = {
    "sft": sft,
    "reward": lambda key, policy, scorer: of_rankings(RewardModel, key, scorer),
    "dpo": lambda key, policy, scorer: of_rankings(DirectPreference, key, policy),
    "ppo": ppo,
}


def measured(ways: dict, rounds: int) -> dict:
    padding, seconds = {}, {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            told = jax.block_until_ready(run())[1]
            seconds[name].append(time.perf_counter() - started)
            if turn == 0:
                padding[name] = float(told["padding"])
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    return {
        name: {
            "seconds": median,
            "of whole": median / medians["whole"],
            "padding": padding[name],
            "first call": seconds[name][0],
        }
        for name, median in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--works", nargs="+", choices=tuple(WORKS), default=list(WORKS))
    options = parser.parse_args()
    key = jax.random.key(0)
    policy = jax.jit(functools.partial(transformer.init, MODEL))(key)
    scorer = score.with_score_head(jax.tree.map(jnp.copy, policy), key)
    for work in options.works:
        ways = WORKS[work](key, policy, scorer)
        print(json.dumps({work: measured(ways, options.rounds)}, indent=1), flush=True)


if __name__ == "__main__":
    start_with_large_pages()
    main()
