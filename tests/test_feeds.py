"""What the batches of each stage hold: of which split, how long, how many, packed or mixed."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.data.counting import texts_of
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Scored, Text
from rlhf_jax.generation.ending import Ending
from rlhf_jax.stages import feeds
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.reward_regression import RewardRegression
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Letters
from tests.fed import inputs_of
from tests.stages import tiny

RATE = OptimizerConfig()
PPO_STAGE = tiny.ppo_config(ptx_coefficient=27.8)
REWARD = RewardModel(RATE, batch_size=2, outputs=4, length=8, start="sft", rankings="feedback")
STAGES = {
    "base": Pretrain(RATE, batch_size=5, length=9),
    "sft": SFT(RATE, batch_size=4, length=20, start="base"),
    "feedback": SimulatedFeedback(prompt_length=6, response_length=6, policy="sft"),
    "reward": REWARD,
    "human": dataclasses.replace(REWARD, rankings=None),
    "scored": RewardRegression(RATE, batch_size=2, length=14, start="sft"),
    "ppo": PPO_STAGE,
}
RECORDS = {
    ("prompts", "ppo", None): [Prompt(letter * 3) for letter in "abcdefghijklmnop"],
    ("demonstrations", "train", None): [Demonstration(letter, "mn") for letter in "abcdefghijkl"],
    ("demonstrations", "valid", None): [Demonstration("v", "w")] * 12,
    ("text", "train", None): [Text("qrstu" * n) for n in range(1, 30)],
    ("text", "valid", None): [Text("vwxyz" * 20)],
    ("prompts", "test", None): [Prompt("vwx")],
    ("rankings", "train", "feedback"): [Ranking(a, ("x", "y"), (0, 1)) for a in "abcd"],
    ("rankings", "valid", "feedback"): [Ranking(a, ("x", "y"), (0, 1)) for a in "vwvw"],
    ("scored", "train", None): [Scored(a, "x", 1.0) for a in "abcd"],
    ("rankings", "train", None): [Ranking(a, ("x", "y"), (0, 1)) for a in "efgh"],
}


def inputs(name, stage=None, **more):
    stages = STAGES if stage is None else STAGES | {name: stage}
    return inputs_of(stages, name, lambda *of: RECORDS[of], seed=3, **more)


def batches(**changes):
    """Of PPO."""
    stage = dataclasses.replace(PPO_STAGE, **changes)
    return stage._batches(inputs("ppo", stage))


def test_the_rows_of_a_group_lie_side_by_side_and_a_process_loads_its_own():
    """The prompts are those of a batch of as many as there are groups."""
    alone, grouped = feeds.prompts(inputs("ppo"), "ppo", 2, 6), batches(group=4)
    for _ in range(2):
        asked, batch = next(alone), next(grouped)["prompts"]
        assert batch.keys() == asked.keys()
        for name, rows in asked.items():
            expected = np.concatenate([rows[:1]] * 4 + [rows[1:]] * 4)
            np.testing.assert_array_equal(batch[name], expected, err_msg=name)
        assert (asked["tokens"][0] != asked["tokens"][1]).any()

    class Other:
        """Another process: its rows are of both groups, or of the second."""

        def __init__(self, own):
            self.own = own

        def own_rows(self, count):
            assert count == 8
            return self.own

    first = next(batches(group=4))["prompts"]
    for part in (slice(3, 6), slice(5, 8)):
        own = inputs("ppo", dataclasses.replace(PPO_STAGE, group=4), runner=Other(part))
        found = dataclasses.replace(PPO_STAGE, group=4)._batches(own)
        np.testing.assert_array_equal(next(found)["prompts"]["index"], first["index"][part])
    assert found.rows == {"prompts": 8, "text": 8}


def test_the_position_of_groups_is_that_of_their_prompts():
    whole, rest = batches(group=4), batches(group=4)
    next(whole)
    rest.set_state(whole.get_state())
    one, other = (next(found)["prompts"]["index"] for found in (whole, rest))
    np.testing.assert_array_equal(one, other)
    assert (one != next(batches(group=4))["prompts"]["index"]).any()


def test_a_step_draws_more_prompts_once_and_all_are_rows_of_all_processes():
    class Told:
        """A runner that tells of how many rows a batch is."""

        def rows(self, batch, count):
            return batch, count

        gather = rows

    rows = {"prompts": 8, "text": 64}
    fed = feeds.Prompted(Told(), {"prompts": iter("bcdefghi"), "text": iter("uvw")}, rows)
    batch = {"prompts": "a", "text": "t"}
    for _ in range(2):  # a step that is done again reads what it drew
        draws = fed.draws(batch)
        assert [next(draws) for _ in range(3)] == [("a", 8), ("b", 8), ("c", 8)]
        assert batch == {"prompts": "a", "text": "t", "more": {"1": "b", "2": "c"}}
    assert next(draws) == ("d", 8)
    more = {"1": "b", "2": "c", "3": "d"}
    assert fed.text(batch) == ("t", 64) and fed.text({"prompts": "a"}) is None
    assert fed.whole(batch) == {"prompts": ("a", 8), "text": ("t", 64), "more": (more, 8)}


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


class Half:
    """The runner of one of two processes."""

    def __init__(self, number: int):
        self.number = number

    def own_rows(self, count):
        return slice(self.number * count // 2, (self.number + 1) * count // 2)


class Told(Letters):
    """Keeps the texts that it encodes."""

    def __init__(self):
        self.encoded = set()

    def encode(self, text):
        self.encoded.add(text)
        return super().encode(text)


FEEDS = {
    "base": ({}, lambda stage, given: feeds.text(given, 5, 9, "text")),
    "sft": ({}, SFT._batches),
    "sft and text": ({"pretraining_fraction": 0.5, "length": 9}, SFT._batches),
    "reward": ({}, RewardModel._batches),
    "ppo": ({}, type(PPO_STAGE)._batches),
    "ppo in groups": ({"group": 4}, type(PPO_STAGE)._batches),
}


@pytest.mark.parametrize("kind", FEEDS)
def test_two_processes_have_the_rows_of_one_and_each_tokenises_fewer_texts(kind, two):
    changes, feed = FEEDS[kind]
    name = kind.split()[0]
    stage = dataclasses.replace(STAGES[name], **changes)

    read = set()

    def records(*of):
        read.add(of)
        return RECORDS[of]

    def fed(**parts):
        given = inputs_of(STAGES | {name: stage}, name, records, tokenizer=Told(), **parts)
        return next(feed(stage, given)), given.tokenizer.encoded

    parts = two(lambda number: fed(runner=Half(number)))
    batch, _ = fed()
    texts = {text for of in read for record in RECORDS[of] for text in texts_of(record)}
    for whole, one, other in zip(*map(jax.tree.leaves, (batch, parts[0][0], parts[1][0])),
                                 strict=True):  # fmt: skip
        np.testing.assert_array_equal(whole, np.concatenate([one, other]))
    assert all(encoded < texts for _, encoded in parts)


def test_a_process_tokenises_the_prompts_of_its_groups_alone(two):
    """Two prompts a batch, four rows of each: a prompt for each process."""
    stage = dataclasses.replace(PPO_STAGE, group=4, ptx_coefficient=0.0)
    letters = [record.prompt for record in RECORDS["prompts", "ppo", None]]

    def fed(number):
        told = Told()
        found = stage._batches(inputs("ppo", stage, runner=Half(number), tokenizer=told))
        asked = {letters[i] for _ in range(3) for i in next(found)["prompts"]["index"]}
        return asked, told.encoded

    for number, (asked, encoded) in enumerate(two(fed)):
        assert len(asked) == 3
        assert encoded == asked | set(letters[number * 8 : number * 8 + 8])


def words_of(batch) -> set[str]:
    """The letters of all rows."""
    return {chr(ord("a") + i - 4) for i in np.unique(batch["tokens"]).tolist() if i > 3}


def test_text_is_of_the_train_split_in_rows_of_the_length():
    batch = next(feeds.text(inputs("base"), 5, 9, "text"))
    assert batch["tokens"].shape == (5, 9) and words_of(batch) == set("qrstu")


@pytest.mark.parametrize("packed, rows", [(False, 12), (True, 3)])
def test_demonstrations_are_of_the_train_split_packed_where_the_config_says_so(packed, rows):
    stage = dataclasses.replace(STAGES["sft"], packed=packed)
    batches = stage._batches(inputs("sft", stage))
    assert batches.rows() == rows  # of five tokens each
    batch = next(batches)
    assert batch["tokens"].shape == (4, 20) and words_of(batch) <= set("abcdefghijklmn")
    assert batch["segments"].max() == (4 if packed else 1)


@pytest.mark.parametrize("fraction, rows", [(0.0, 0), (0.25, 1), (0.5, 2)])
def test_a_fraction_of_a_batch_of_demonstrations_is_text(fraction, rows):
    stage = dataclasses.replace(STAGES["sft"], length=9, pretraining_fraction=fraction)
    batch = next(stage._batches(inputs("sft", stage)))
    text = np.isin(batch["tokens"], Letters().encode("qrstu")).any(axis=1)
    assert text.sum() == rows


@pytest.mark.parametrize("packed, shape", [(1, (2, 4)), (2, (2, 2, 4))])
def test_rankings_have_the_outputs_and_the_packing_of_the_config(packed, shape):
    stage = dataclasses.replace(REWARD, packed=packed)
    ending = Ending(2, 0, stop=29)  # another end than eos
    batch = next(stage._batches(inputs("reward", stage, ending=ending)))
    assert batch["tokens"].shape == (2, 4, 8) and batch["ranks"].shape == shape
    assert (batch["tokens"][:, :2, 3] == 29).all() and not (batch["tokens"] == 2).any()
    if packed == 2:
        assert (batch["tokens"][:, :, 3] == 29).all()  # two rankings of two outputs a row


@pytest.mark.parametrize(
    "name, changes, shape",
    [
        ("sft", {}, (4, 20)),
        ("sft", {"buckets": 4}, (4, 5)),
        ("sft", {"buckets": 4, "pretraining_fraction": 0.25}, (4, 20)),  # rows of text are full
        ("reward", {"buckets": 4}, (2, 1, 16)),  # two outputs of four tokens lie in one row
        ("short context", {"buckets": 4, "length": 7}, (2, 2, 7)),
        ("kernel", {"buckets": 4}, (2, 4, 4)),
        ("scored", {"buckets": 4}, (2, 4)),
    ],
)
def test_batches_are_cut_to_the_longest_of_their_rows_where_the_config_says_so(
    name, changes, shape
):
    shapes = {
        "kernel": dataclasses.replace(tiny.MODEL, attention="fused"),
        "short context": dataclasses.replace(tiny.MODEL, context=13),
    }
    more = {"shape": shapes[name]} if name in shapes else {}
    of = "human" if name in shapes else name
    stage = dataclasses.replace(STAGES[of], **changes)
    batch = next(stage._batches(inputs(of, stage, **more)))
    assert batch["tokens"].shape == batch["segments"].shape == batch["weights"].shape == shape
    if len(shape) == 3:
        assert batch["ranks"].shape == (2, 4)


@pytest.mark.parametrize("stage, words", [("reward", "abcd"), ("human", "efgh")])
def test_rankings_are_of_the_stage_that_collects_them_or_of_the_data(stage, words):
    batches = STAGES[stage]._batches(inputs(stage))
    seen = words_of(next(batches)) | words_of(next(batches))
    assert seen == set(words + "xy")


def test_prompts_are_of_the_split_at_the_prompt_length():
    found = next(feeds.prompts(inputs("ppo"), "ppo", 8, 7))
    assert found["tokens"].shape == (8, 7) and words_of(found) <= set("abcdefghijklmnop")
    assert len(set(found["index"].tolist())) == 8


def test_ppo_reads_the_split_of_prompts_that_it_names():
    assert words_of(next(batches())["prompts"]) <= set("abcdefghijklmnop")
    assert words_of(next(batches(prompts="test"))["prompts"]) == set("vwx")
    assert next(batches(prompt_length=7))["prompts"]["tokens"].shape == (8, 7)
