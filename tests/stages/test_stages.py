"""What each stage says of itself: what it reads, its steps, its batches, and fields that cannot be;
and what it starts from and learns from."""

import ast
import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text
from rlhf_jax.errors import ConfigError
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models import score, transformer
from rlhf_jax.stages.dpo import DPO, DirectPreference, preference_loss, response_log_probs
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel, reward_loss
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from rlhf_jax.stages.stage import Need, Rows
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Letters
from tests.fed import inputs_of
from tests.models.test_parts import leaves
from tests.objectives.harness import assert_close
from tests.stages import tiny

RATE = OptimizerConfig(learning_rate=1e-2)
STAGES = {
    "base": Pretrain(RATE, batch_size=4, length=12),
    "sft": SFT(RATE, batch_size=4, length=12, start="base"),
    "feedback": SimulatedFeedback(prompt_length=6, response_length=6, policy="sft"),
    "reward": RewardModel(
        RATE, batch_size=4, outputs=3, length=12, start="sft", rankings="feedback"
    ),
    "dpo": DirectPreference(RATE, batch_size=4, outputs=3, length=12, start="sft"),
    "ppo": tiny.ppo_config(),
}


def changed(name, **fields):
    return dataclasses.replace(STAGES[name], **fields)


POSITIVE = "positive"
SUPERVISED = {
    "epochs = 0": POSITIVE,
    "batch_size = 0": POSITIVE,
    "length = -1": POSITIVE,
    "micro_batches = 0": POSITIVE,
    "micro_batches = 3": "a divisor of batch_size = 4",
}
RANKING = SUPERVISED | {
    "outputs = 1": "at least 2",
    "packed = 0": "1 to outputs / 2 = 1",
    "packed = 2": "1 to outputs / 2 = 1",
    "packed = True": "1 to outputs / 2 = 1",
    "divide_by = 'pairs'": "one of ('all_pairs', 'untied_pairs')",
}
IMPOSSIBLE = {
    "base": SUPERVISED,
    "sft": SUPERVISED | {
        "pretraining_fraction = 1.0": "in [0, 1)",
        "pretraining_fraction = -0.1": "in [0, 1)",
        "pretraining_fraction_of = 'tokens'": "one of ('rows', 'loss')",
    },
    "reward": RANKING | {"normalise = 'mean'": "one of ('none', 'shift', 'gain_and_bias')"},
    "dpo": RANKING,
    "feedback": {
        "prompt_length = 0": POSITIVE,
        "response_length = 0": POSITIVE,
        "temperature = 0.0": POSITIVE,
        "batch_size = -2": POSITIVE,
        "outputs = (1, 3)": "(fewest, most), at least 2",
        "outputs = (4, 3)": "(fewest, most), at least 2",
        "agreement = 0.0": "in (0, 1)",
        "agreement = 1.0": "in (0, 1)",
    },
}  # fmt: skip
CASES = [(name, given, told) for name, wrong in IMPOSSIBLE.items() for given, told in wrong.items()]


@pytest.mark.parametrize("name, given, told", CASES)
def test_a_field_that_cannot_be_is_refused_by_its_name(name, given, told):
    field, value = given.split(" = ")
    with pytest.raises(ConfigError) as refused:
        changed(name, **{field: ast.literal_eval(value)})
    assert str(refused.value) == f"{given}: must be {told}"


def test_fields_at_the_edge_are_taken():
    changed("sft", pretraining_fraction=0.0, micro_batches=4)
    assert changed("reward", outputs=6, packed=3).batch_shapes()["ranks"].shape == (4, 3, 6)
    assert changed("dpo", outputs=2).batch_shapes()["ranks"].shape == (4, 2)
    changed("feedback", outputs=(2, 2), agreement=0.01)


def test_what_each_stage_reads_and_ends_with():
    policy, scorer = (lambda of: Need(of, "policy")), (lambda of: Need(of, "score"))
    reads = {
        "base": {},
        "sft": {"start": policy("base")},
        "feedback": {"policy": policy("sft")},
        "reward": {"start": policy("sft"), "rankings": Need("feedback", "rankings")},
        "dpo": {"start": policy("sft")},  # its rankings are the data source's
        "ppo": {"start": policy("sft"), "reference": policy("sft"),
                "rewards reward": scorer("reward"), "value": scorer("reward")},
    }  # fmt: skip
    assert {name: stage.needs() for name, stage in STAGES.items()} == reads
    assert changed("ppo", reference="base").needs() == reads["ppo"] | {"reference": policy("base")}
    ends = {name: stage.ends for name, stage in STAGES.items()}
    rest = dict.fromkeys(("base", "sft", "dpo", "ppo"), "policy")
    assert ends == rest | {"reward": "score", "feedback": "rankings"}


RECORDS = {
    ("text", "train"): [Text(letter * 9) for letter in "abcdefgh"],
    ("demonstrations", "train"): [Demonstration(a, a + "bc") for a in "efghijklm"],
    ("rankings", "train"): [
        Ranking("e", ("a", "bc", "d"), (0, 1, 2)),
        Ranking("f", ("a", "bc", "d"), (0, 1, 1)),  # a tie
        Ranking("g", ("a", "bc"), (1, 0)),
        Ranking("h", ("ab", "c", "d"), (1, 0, 1)),
        Ranking("i", ("a", "bc", "d"), (2, 0, 1)),
        Ranking("j", ("a", "bc", "d"), (0, 2, 1)),
        Ranking("k", ("a", "bc", "d"), (0, 2, 1)),
    ],
    ("prompts", "ppo"): [Prompt(letter) for letter in "abcdefgh"],
}
MODELS = {"base": tiny.policy_params(1), "sft": tiny.policy_params(2),
          "reward": tiny.score_params(3)}  # fmt: skip


def inputs(name, stage=None, ending=tiny.ENDING):
    return inputs_of(
        STAGES | {name: stage or STAGES[name]}, name, lambda kind, split, _: RECORDS[kind, split],
        ending=ending, shape=tiny.MODEL, runner=tiny.one_device(), model=MODELS.__getitem__,
    )  # fmt: skip


def known(**counts):
    """How many records there are to train on, where the config tells."""
    return counts.get


# (stage, changes, steps as the config tells): 9 demonstrations, 7 rankings, batches of 4.
STEPS = [
    ("sft", {"epochs": 1}, 3),
    ("sft", {"epochs": 2.5}, 8),  # round(2.5 x 3) to even
    ("sft", {"epochs": 0.1}, 1),  # at least one
    ("sft", {"epochs": 2, "batch_size": 2}, 10),
    ("sft", {"epochs": 2, "pretraining_fraction": 0.25}, 6),  # of 12 rows
    ("sft", {"epochs": 2, "pretraining_fraction": 0.5}, 10),  # of 18
    ("dpo", {"epochs": 3}, 6),
    ("dpo", {"epochs": 1, "batch_size": 8}, 1),
    ("ppo", {"iterations": 6}, 6),
]


@pytest.mark.parametrize("name, changes, steps", STEPS)
def test_steps_that_the_config_tells_are_those_that_the_stage_takes(name, changes, steps):
    stage = changed(name, **changes)
    assert stage.steps(known(demonstrations=9, rankings=7)) == steps
    assert stage.task(inputs(name, stage)).total_steps == steps


@pytest.mark.parametrize(
    "stage, counts",
    [
        (STAGES["base"], {"demonstrations": 9, "text": 8}),
        (STAGES["sft"], {"rankings": 9}),
        (changed("sft", packed=True), {"demonstrations": 9}),
        (STAGES["dpo"], {"demonstrations": 9}),
        (changed("dpo", packed=2, outputs=6), {"rankings": 9}),
        (STAGES["reward"], {"rankings": 9}),  # another stage collects them
        (STAGES["feedback"], {"prompts": 9}),
    ],
)
def test_steps_that_only_the_data_tell_are_not_guessed(stage, counts):
    assert stage.steps(known(**counts)) is None


def test_batches_that_have_to_fit_the_devices():
    for name in ("base", "sft", "reward", "dpo"):
        assert changed(name, micro_batches=2).batches() == (Rows("batch_size", 4, 2),)
    ppo = changed("ppo", rollout_micro_batches=4, micro_batches=2, ptx_ratio=3, ptx_micro_batches=6)
    sampled, learnt = Rows("batch_size", 8, 4), Rows("batch_size", 8, 2 * 2)
    assert list(ppo.batches()) == [sampled, learnt]
    ptx = dataclasses.replace(ppo, ptx_coefficient=1.0)
    text = Rows("batch_size x ptx_ratio", 24, 2 * 6)
    assert list(ptx.batches()) == [sampled, learnt, text]
    alike = dataclasses.replace(ptx, ptx_micro_batches=None)  # as many as of the episodes
    assert alike.batches()[2] == Rows("batch_size x ptx_ratio", 24, 2 * 2)
    assert STAGES["feedback"].batches() == ()  # whole batches, on every device


@pytest.mark.parametrize(
    "pieces, times, groups, more",
    [(1, 1, 1, 1), (1, 2, 1, 2), (1, 5, 1, 6), (2, 2, 1, 4), (1, 7, 1, 12), (1, 99, 1, 12),
     (1, 2, 4, 3), (1, 3, 4, 3), (1, 99, 4, 3), (1, 4, 12, 1)],
)  # fmt: skip
def test_more_micro_batches_are_the_next_divisor_with_a_row_for_each_group(
    pieces, times, groups, more
):
    """Of 12 rows."""
    for name in ("base", "sft", "reward", "dpo"):
        stage = changed(name, batch_size=12, micro_batches=pieces)
        expected = dataclasses.replace(stage, micro_batches=more)
        assert stage.with_micro_batches(times, groups) == expected


@pytest.mark.parametrize(
    "times, groups, found",
    [(1, 1, (1, 1, 1)), (2, 2, (2, 2, 2)), (3, 2, (4, 3, 4)), (6, 1, (8, 6, 8)),
     (99, 2, (4, 12, 8)), (5, 4, (2, 6, 4))],
)  # fmt: skip
def test_more_micro_batches_of_ppo(times, groups, found):
    """Of 16 episodes, minibatches of 8, and 24 rows of text beside each minibatch."""
    stage = changed("ppo", batch_size=16, ptx_ratio=3, ptx_coefficient=1.0)
    fields = ("micro_batches", "ptx_micro_batches", "rollout_micro_batches")
    expected = dataclasses.replace(stage, **dict(zip(fields, found, strict=True)))
    assert stage.with_micro_batches(times, groups) == expected


def test_feedback_has_no_micro_batches():
    assert STAGES["feedback"].with_micro_batches(4, 2) is STAGES["feedback"]


def assert_is(found, expected):
    assert leaves(found).keys() == leaves(expected).keys()
    for path, array in leaves(expected).items():
        np.testing.assert_array_equal(leaves(found)[path], array, err_msg=path)


def test_each_stage_starts_from_the_model_that_it_names():
    start = {}
    given = {name: STAGES[name] for name in ("base", "sft", "reward", "dpo", "ppo")}
    for name, stage in (given | {"alone": changed("sft", start=None)}).items():
        task = stage.task(inputs("sft" if name == "alone" else name, stage))
        start[name] = task.model(task.state)
    first = jax.jit(transformer.init, static_argnums=0)(
        tiny.MODEL, inputs("base").key("initialise")
    )
    assert_close(start["base"], first, rtol=1e-6, atol=1e-7)
    alone = jax.jit(transformer.init, static_argnums=0)(tiny.MODEL, inputs("sft").key("initialise"))
    assert_close(start["alone"], alone, rtol=1e-6, atol=1e-7)
    assert_is(start["sft"], MODELS["base"])
    assert_is(start["reward"], score.with_score_head(MODELS["sft"], inputs("reward").key("head")))
    assert_is(start["dpo"], MODELS["sft"])
    assert_is(start["ppo"], MODELS["sft"])


@pytest.mark.parametrize("how", ["none", "shift", "gain_and_bias"])
def test_scores_of_demonstrations_are_normalised_at_the_end_or_before_training_too(how):
    stage = changed("reward", normalise=how)
    given = inputs("reward", stage)
    sequences = [[1, *Letters().encode(d.prompt + d.response), 2]
                 for d in RECORDS["demonstrations", "train"]]  # fmt: skip
    scores = lambda params: np.array([row[-1] for row in tiny.sequence_scores(params, sequences)])
    head = score.with_score_head(MODELS["sft"], given.key("head"))
    task = stage.task(given)
    before, raw = scores(task.model(task.state)), scores(head)
    after = scores(stage.finish(jax.tree.map(lambda x: 1.5 * x, head), given))
    assert abs(raw.mean()) > 0.01
    trained = scores(jax.tree.map(lambda x: 1.5 * x, head))
    standard = lambda x: (x - x.mean()) / x.std()
    expected = {
        "none": (raw, trained),
        "shift": (raw, trained - trained.mean()),
        "gain_and_bias": (standard(raw), standard(trained)),
    }
    for found, value in zip((before, after), expected[how], strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=2e-4)


def test_demonstrations_that_are_normalised_end_as_responses_do():
    z = Letters().encode("z")[0]
    given = inputs("reward", ending=Ending(tiny.EOS, tiny.PAD, stop=z))
    head = score.with_score_head(MODELS["sft"], given.key("head"))
    normed = STAGES["reward"].finish(head, given)
    texts = [Letters().encode(d.prompt + d.response) for d in RECORDS["demonstrations", "train"]]
    scored = lambda end: tiny.sequence_scores(normed, [[1, *ids, end] for ids in texts])
    mean_of = lambda end: np.mean([row[-1] for row in scored(end)])
    assert abs(mean_of(z)) < 1e-4 < 0.01 < abs(mean_of(tiny.EOS))


@pytest.mark.parametrize("name", ["reward", "dpo"])
@pytest.mark.parametrize("divide_by", ["all_pairs", "untied_pairs"])
def test_rankings_are_divided_as_the_stage_says(name, divide_by):
    stage = changed(name, batch_size=8, divide_by=divide_by)
    task = stage.task(inputs(name, stage))
    params, batch = jax.tree.map(np.array, task.model(task.state)), next(task.batches)
    losses = {"reward": reward_loss, "dpo": lambda *a: preference_loss(DPO(), *a)}
    referred = batch | {"ref_log_probs": response_log_probs(tiny.MODEL, MODELS["sft"], batch)}
    value = lambda by: losses[name](tiny.MODEL, by)(params, referred)[0].mean
    _, metrics = task.step(task.state, batch)
    np.testing.assert_allclose(metrics["loss"], value(divide_by), rtol=1e-4)
    assert abs(value("all_pairs") - value("untied_pairs")) > 0.01


@pytest.mark.parametrize("of", ["rows", "loss"])
def test_a_fraction_of_sft_s_rows_or_of_its_loss_is_text(of):
    stage = changed("sft", pretraining_fraction=0.25, pretraining_fraction_of=of)
    batch = next(stage.task(inputs("sft", stage)).batches)
    text = (batch["segments"].max(axis=1) > 1) | (batch["weights"].sum(axis=1) > 5)
    assert text.sum() == 1  # of 4 rows
    share = batch["weights"][text].sum() / batch["weights"].sum()
    # A row of text has 11 targets or 10, three demonstrations have 4 each.
    assert share == pytest.approx(0.25) if of == "loss" else share > 10 / 23
