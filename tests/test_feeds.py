"""What the batches of each stage hold: of which split, how long, how many, packed or mixed."""

import numpy as np
import pytest

from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text
from rlhf_jax.feeds import Feeds, PPOBatches
from rlhf_jax.stages.reward_model import RewardConfig
from rlhf_jax.stages.supervised import SupervisedConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Letters
from tests.stages import tiny

RATE = OptimizerConfig()
RECORDS = {
    ("prompts", "ppo"): [Prompt(letter * 3) for letter in "abcdefghijklmnop"],
    ("demonstrations", "train"): [Demonstration(letter, "mn") for letter in "abcdefghijkl"],
    ("demonstrations", "valid"): [Demonstration("v", "w")] * 12,
    ("text", "train"): [Text("qrstu" * n) for n in range(1, 30)],
    ("text", "valid"): [Text("vwxyz" * 20)],
    ("prompts", "test"): [Prompt("vwx")],
}


class Corpora:
    def read(self, name, split):
        return RECORDS[name, split]


class Alone:
    """The one process of a run."""

    def own_rows(self, count):
        return slice(None)


def batches(stage="ppo_ptx", seed=3, **changes) -> PPOBatches:
    config = tiny.ppo_config(**({"ptx_coefficient": 27.8} | changes))
    return PPOBatches(Feeds(Corpora(), Letters(), Alone(), seed), config, stage)


@pytest.mark.parametrize("ratio", [1, 8])
def test_ptx_reads_its_rows_of_text_an_episode(ratio):
    """`ptx_ratio` rows of training text beside each of 8 prompts, `ptx_length` tokens long."""
    batch = next(batches(ptx_ratio=ratio, ptx_length=9))
    assert batch["prompts"]["tokens"].shape == (8, 6)
    assert batch["text"]["tokens"].shape == (8 * ratio, 9)
    words = np.isin(batch["text"]["tokens"], Letters().encode("vwxyz"))
    assert batch["text"]["weights"].sum() > 8 and not words.any()


def test_without_a_coefficient_no_text_is_read():
    assert next(batches(ptx_coefficient=0.0)).keys() == {"prompts"}


def test_ppo_s_position_is_of_prompts_and_of_text():
    whole, resumed = batches(), batches()
    for _ in range(2):
        next(whole)
    resumed.set_state(whole.get_state())
    for _ in range(3):
        one, other = next(whole), next(resumed)
        for name in ("prompts", "text"):
            np.testing.assert_array_equal(one[name]["tokens"], other[name]["tokens"])


def feeds() -> Feeds:
    return Feeds(Corpora(), Letters(), Alone(), seed=3)


def words_of(batch) -> set[str]:
    """The letters of all rows."""
    return {chr(ord("a") + i - 4) for i in np.unique(batch["tokens"]).tolist() if i > 3}


def test_text_is_of_the_train_split_in_rows_of_the_length():
    batch = next(feeds().text(5, 9, "pretrain/text"))
    assert batch["tokens"].shape == (5, 9) and words_of(batch) == set("qrstu")


@pytest.mark.parametrize("packed, rows", [(False, 12), (True, 3)])
def test_demonstrations_are_of_the_train_split_packed_where_the_config_says_so(packed, rows):
    config = SupervisedConfig(RATE, batch_size=4, length=20, packed=packed)
    batches = feeds().demonstrations(config)
    assert batches.rows() == rows  # of five tokens each
    batch = next(batches)
    assert batch["tokens"].shape == (4, 20) and words_of(batch) <= set("abcdefghijklmn")
    assert batch["segments"].max() == (4 if packed else 1)


@pytest.mark.parametrize("fraction, rows", [(0.0, 0), (0.25, 1), (0.5, 2)])
def test_a_fraction_of_a_batch_of_demonstrations_is_text(fraction, rows):
    config = SupervisedConfig(RATE, batch_size=4, length=9, pretraining_fraction=fraction)
    batch = next(feeds().demonstrations(config))
    text = np.isin(batch["tokens"], Letters().encode("qrstu")).any(axis=1)
    assert text.sum() == rows


@pytest.mark.parametrize("packed, shape", [(False, (2, 4)), (True, (2, 2, 4))])
def test_rankings_have_the_outputs_and_the_packing_of_the_config(packed, shape):
    config = RewardConfig(RATE, batch_size=2, outputs=4, length=8, packed=packed)
    rankings = [Ranking(a, ("x", "y"), (0, 1)) for a in "abcd"]
    close = lambda ids, ended: [*ids, 29]  # another end than eos
    batch = next(feeds().rankings(rankings, config, "reward/rankings", close))
    assert batch["tokens"].shape == (2, 4, 8) and batch["ranks"].shape == shape
    assert (batch["tokens"][:, :2, 3] == 29).all() and not (batch["tokens"] == 2).any()


def test_prompts_are_of_the_ppo_split_at_the_prompt_length():
    found = next(feeds().prompts(tiny.ppo_config(prompt_length=7), "ppo/prompts"))
    assert found["tokens"].shape == (8, 7) and words_of(found) <= set("abcdefghijklmnop")
    assert len(set(found["index"].tolist())) == 8
