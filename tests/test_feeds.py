"""What PPO's batches hold."""

import numpy as np
import pytest

from rlhf_jax.data.records import Prompt, Text
from rlhf_jax.feeds import Feeds, PPOBatches
from tests.data.conftest import Letters
from tests.stages import tiny

RECORDS = {
    ("prompts", "ppo"): [Prompt(letter * 3) for letter in "abcdefghijklmnop"],
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


def test_each_stage_and_each_seed_has_an_order_of_its_own():
    orders = [
        next(batches(*use))["prompts"]["index"].tolist()
        for use in (("ppo_ptx", 3), ("ppo_ptx", 3), ("ppo", 3), ("ppo_ptx", 4))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] and orders[0] != orders[3]
    assert all(len(set(order)) == 8 for order in orders)
