"""A stream of its own for each purpose and each seed."""

import dataclasses
import hashlib
import re

import jax
import numpy as np
import pytest

from rlhf_jax import randomness
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text
from rlhf_jax.errors import ConfigError
from rlhf_jax.randomness import random_key, shuffle_seed
from rlhf_jax.stages import feeds
from tests.fed import inputs_of
from tests.small_run import config

STAGES = config.stages
# Of the table in the module's docstring; STREAM/training stands for one a stage.
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


MADE = {
    "text": lambda n: Text(n * 3),
    "demonstrations": lambda n: Demonstration(n, n),
    "prompts": Prompt,
    "rankings": lambda n: Ranking(n, (n + "a", n + "b"), (0, 1)),
}


def records(kind, split, stage):
    """Known by their numbers."""
    return [MADE[kind](chr(97 + i // 10) + chr(97 + i % 10)) for i in range(100)]


def inputs(name, **changes):
    """Of a stage of the small experiment, or of one that takes its place."""
    stage = dataclasses.replace(STAGES[name], **changes)
    return inputs_of(STAGES | {name: stage}, name, records, seed=5)


def fed(name, **changes) -> dict:
    """{use: batches} of a stage."""
    given, stage = inputs(name, **changes), dataclasses.replace(STAGES[name], **changes)
    of = {
        "pretrain": lambda: {"text": feeds.text(given, 8, 8, "text")},
        "sft": lambda: {"demonstrations": stage._batches(given)},
        "reward": lambda: {"rankings": stage._batches(given)},
        "dpo": lambda: {"rankings": stage._batches(given)},
        "ppo": lambda: stage._batches(given).parts,
        "ppo_ptx": lambda: stage._batches(given).parts,
    }
    return of[name]()


def shuffled_by(batches) -> int:
    return batches.get_state()["data"]["seed"]


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "dpo", "ppo", "ppo_ptx"])
def test_each_feed_is_shuffled_by_the_seed_of_its_purpose(name):
    for use, batches in fed(name).items():
        assert shuffled_by(batches) == shuffle_seed(5, f"{name}/{use}")


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "dpo", "ppo_ptx"])
def test_a_stage_of_another_stream_draws_that_stream_s_numbers(name):
    """So one that is renamed keeps its numbers."""
    for use, batches in fed(name, stream="before").items():
        assert shuffled_by(batches) == shuffle_seed(5, f"before/{use}")
    given = inputs(name, stream="before")
    assert given.key("training") == random_key(5, "before/training")


def test_two_stages_of_one_stream_draw_the_same_and_others_do_not():
    one, other, third = fed("ppo_ptx"), fed("ppo", stream="ppo_ptx"), fed("ppo")
    first, same, another = (next(x["prompts"])["tokens"] for x in (one, other, third))
    np.testing.assert_array_equal(first, same)
    assert first.shape == another.shape and not np.array_equal(first, another)
    assert inputs("ppo", stream="ppo_ptx").key("training") == inputs("ppo_ptx").key("training")
    assert inputs("ppo").key("training") != inputs("ppo_ptx").key("training")


def test_prompts_and_text_of_ppo_are_read_in_orders_of_their_own():
    ppo = {use: shuffled_by(batches) for use, batches in fed("ppo_ptx").items()}
    assert ppo.keys() == {"prompts", "text"} and len(set(ppo.values())) == 2


def test_mixed_demonstrations_are_shuffled_for_three_purposes(monkeypatch):
    asked = []
    given = inputs("sft", pretraining_fraction=0.5, packed=False)
    shuffle = given.shuffle
    monkeypatch.setattr(given, "shuffle", lambda use: asked.append(use) or shuffle(use))
    mixed = dataclasses.replace(STAGES["sft"], pretraining_fraction=0.5, packed=False)
    mixed._batches(given)
    assert asked == ["demonstrations", "text", "mix"]
