"""A stream of its own for each purpose and each seed."""

import dataclasses
import hashlib
import re

import jax
import numpy as np
import pytest

from rlhf_jax import feeds, randomness
from rlhf_jax.data.arrays import close_with_eos
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text
from rlhf_jax.errors import ConfigError
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.randomness import random_key, shuffle_seed
from tests.data.conftest import Letters
from tests.small_run import config

# Of the table in the module's docstring; STAGE/training stands for one a stage.
PURPOSES = set(re.findall(r"\b[a-z_]+/[a-z]+\b", randomness.__doc__))


def test_key_and_seed_are_the_words_of_the_digest():
    digest = hashlib.sha256(b"7/ppo_ptx/prompts").digest()
    first, second = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")
    assert shuffle_seed(7, "ppo_ptx/prompts") == first
    key = jax.random.fold_in(jax.random.key(np.uint32(first)), np.uint32(second))
    assert random_key(7, "ppo_ptx/prompts") == key


def test_all_purposes_of_several_seeds_differ():
    purposes = PURPOSES | {f"{stage}/training" for stage in ("pretrain", "sft", "ppo", "ppo_ptx")}
    asked = [(seed, purpose) for seed in (0, 1, 2, 16, 2**63 - 1) for purpose in purposes]
    assert len(purposes) > 20
    assert len({shuffle_seed(*a) for a in asked}) == len(asked)
    keys = {tuple(jax.random.key_data(random_key(*a)).tolist()) for a in asked}
    assert len(keys) == len(asked)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_has_its_bounds(seed):
    with pytest.raises(ConfigError, match=r"^seed = .*: must be in"):
        type(config)(**{**vars(config), "seed": seed})


class Records:
    """Data sets in which a record is known by its number."""

    @staticmethod
    def read(name, split):
        numbers = [chr(97 + i // 10) + chr(97 + i % 10) for i in range(100)]
        made = {
            "text": lambda n: Text(n * 3),
            "demonstrations": lambda n: Demonstration(n, n),
            "prompts": Prompt,
            "rankings": lambda n: Ranking(n, (n + "a", n + "b"), (0, 1)),
        }[name]
        return [made(number) for number in numbers]


@pytest.fixture(scope="module")
def fed():
    """{purpose: the numbers of the records in the first batches}, PPO's of the whole batch."""
    runner, close = make_runner(ParallelConfig()), lambda ids, _: [*ids]
    made = feeds.Feeds(Records, Letters(), runner, 5)
    rankings, close = Records.read("rankings", "train"), close_with_eos(Letters())
    batches = {
        "pretrain/text": made.text(8, 8, "pretrain/text"),
        "sft/demonstrations": made.demonstrations(config.sft),
        "reward/rankings": made.rankings(rankings, config.reward, "reward/rankings", close),
        "dpo/rankings": made.rankings(rankings, config.dpo, "dpo/rankings", close),
    }
    for stage in ("ppo", "ppo_ptx"):
        both = feeds.PPOBatches(made, config.ppo_ptx, stage)
        batches |= {f"{stage}/prompts": both.prompts, f"{stage}/text": both.text}
    return batches


def test_each_feed_is_shuffled_by_the_seed_of_its_purpose(fed):
    seeds = {purpose: batches.get_state()["data"]["seed"] for purpose, batches in fed.items()}
    assert seeds == {purpose: shuffle_seed(5, purpose) for purpose in fed}


@pytest.mark.parametrize("use", ["prompts", "text"])
def test_ppo_and_ppo_ptx_read_in_orders_of_their_own(fed, use):
    one, other = (next(fed[f"{stage}/{use}"])["tokens"] for stage in ("ppo", "ppo_ptx"))
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_mixed_demonstrations_are_shuffled_for_three_purposes(monkeypatch):
    asked = []
    monkeypatch.setattr(feeds, "shuffle_seed", lambda *a: asked.append(a) or shuffle_seed(*a))
    made = feeds.Feeds(Records, Letters(), make_runner(ParallelConfig()), 5)
    made.demonstrations(dataclasses.replace(config.sft, pretraining_fraction=0.5, packed=False))
    assert asked == [(5, f"sft/{use}") for use in ("demonstrations", "text", "mix")]
