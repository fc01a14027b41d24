"""What would leave a stage or the report with nothing is refused before the first step of any."""

import dataclasses
import json

import pytest

from rlhf_jax.data.pipeline import prompt_batches, ranking_batches, supervised_batches
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text, write_jsonl
from rlhf_jax.errors import UserError, inside
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.runs.report import report
from rlhf_jax.runs.run import Run
from rlhf_jax.sources.folder import FolderData
from tests import small_run
from tests.data.test_tokenizer import byte_level


def with_fields(config, **changes):
    """The experiment with other fields of stages: {stage: {field: value}}."""
    given = {name: dataclasses.replace(config.stages[name], **fields)
             for name, fields in changes.items()}  # fmt: skip
    return config.with_stages(**given)


EIGHT = {"batch_size": 8}  # batches that 8 devices share
config = with_fields(small_run.config, reward=EIGHT, dpo=EIGHT)
LONG = "z" * 100
RECORDS = {
    "text.train": [Text("one two three")],
    "text.valid": [Text("four")],
    "demonstrations.train": [Demonstration("a", "b"), Demonstration("b", LONG)],
    "demonstrations.valid": [Demonstration("c", "d")],
    "rankings.train": [
        Ranking("a", ("b", "c"), (0, 1)),
        Ranking("b", ("b", "c"), (1, 1)),
        Ranking("c", ("b", "b", "b"), (0, 1, 2)),
        Ranking("d", ("b", LONG), (0, 1)),
        Ranking("e", ("b", LONG), (0, 0)),
    ],
    "rankings.valid": [Ranking("f", ("b", "c"), (0, 1)), Ranking("g", ("b", LONG), (0, 1))],
    "prompts.ppo": [Prompt("a"), Prompt(LONG)],
    "prompts.test": [Prompt("h"), Prompt("i" + LONG)],
}


EVALUATORS = (RewardAccuracy(length=80, outputs=3), Samples())


def tied(*prompts):
    return [Ranking(prompt, ("b", "c"), (0, 0)) for prompt in prompts]


def experiment(place, records=None, **changes):
    """The small experiment on a folder of RECORDS, some of its files others."""
    for name, given in (RECORDS | (records or {})).items():
        write_jsonl(place / f"records/{name}.jsonl", given)
    tokenizer = byte_level(["<pad>", "<s>", "</s>"])
    tokenizer.save(str(place / "records/tokenizer.json"))
    given = with_fields(config, reward={"rankings": None}, dpo={"rankings": None})
    stages = {n: x for n, x in given.stages.items() if n not in ("feedback", "prompted")}
    model = dataclasses.replace(config.model, vocab_size=tokenizer.get_vocab_size())
    data, out = FolderData(path=str(place / "records")), str(place / "run")
    parts = {"data": data, "model": model, "out": out, "evaluators": EVALUATORS}
    given = dataclasses.replace(given, stages=stages, **parts)
    return with_fields(given, **changes)


LACKING = {
    "held-out rankings too long": (
        {"rankings.valid": [Ranking("g", ("b", LONG), (0, 1))]}, {}, "report",
        r"rankings\.valid\.jsonl: nothing is left for accuracy: 1 too long \(accuracy\.length = "
        r"80; those too long have 103 tokens or more\)",
    ),
    "held-out rankings tied": (
        {"rankings.valid": tied("f", "g")}, {}, "report",
        r"rankings\.valid\.jsonl: nothing is left for accuracy: 2 tied",
    ),
    "test prompts": (
        {"prompts.test": [Prompt(LONG)]}, {}, "report",
        r"prompts\.test\.jsonl: nothing is left for evaluation: 1 too long "
        r"\(evaluation\.prompt_length = 56",
    ),
    "training rankings tied": (
        {"rankings.train": [*tied("a", "b"), Ranking("c", ("b", "b"), (0, 1))]}, {}, "reward",
        r"rankings\.train\.jsonl: nothing is left for reward: 3 tied$",
    ),
    "the same for dpo": (
        {"rankings.train": tied("a")}, {}, "dpo", r"nothing is left for dpo: 1 tied$",
    ),
    "more outputs than a row": (
        {}, {"reward": {"outputs": 2}}, "reward",
        r"reward\.outputs = 2: must be at least 3, the longest ranking of rankings\.train\.jsonl",
    ),
    "demonstrations": (
        {"demonstrations.train": [Demonstration("a", LONG)]}, {}, "sft",
        r"demonstrations\.train\.jsonl: nothing is left for sft: 1 too long \(sft\.length = 80",
    ),
    "demonstrations to normalise by": (
        {"demonstrations.train": [Demonstration("a", "b" * 20)]}, {"reward": {"length": 20}},
        "reward", r"demonstrations\.train\.jsonl: nothing is left for reward: 1 too long \(reward",
    ),
    "prompts": (
        {"prompts.ppo": [Prompt(LONG)]}, {}, "ppo",
        r"prompts\.ppo\.jsonl: nothing is left for ppo: 1 too long \(ppo\.prompt_length = 56",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LACKING)
def test_what_leaves_nothing_is_refused_before_any_step(name, tmp_path, monkeypatch):
    records, changes, stage, message = LACKING[name]
    run = Run(experiment(tmp_path, records, **changes))
    monkeypatch.setattr(Run, "_run", lambda run, stage: pytest.fail("a stage began"))
    for _ in range(2):  # each time that it is asked for
        with pytest.raises(UserError, match=message) as caught:
            report(run) if stage == "report" else run.finish(stage)
        assert "\n" not in str(caught.value)


ABSENT = {  # files that are not there, what reads them, and what is said
    "pretrain": (["text.train", "text.valid"], {}, "pretrain reads text.train.jsonl"),
    "sft": (["text.train", "text.valid"], {"sft": {"pretraining_fraction": 0.5}},
            "sft reads text.train.jsonl"),
    "ppo": (["text.train", "text.valid"], {"ppo": {"ptx_coefficient": 1.0, "ptx_ratio": 2}},
            "ppo reads text.train.jsonl"),
    "pretraining_loss": (["text.valid"], {}, "pretraining_loss reads text.valid.jsonl"),
    "reward": (["rankings.train", "rankings.valid"], {}, "reward reads rankings.train.jsonl"),
    "accuracy": (["rankings.train", "rankings.valid"], {}, "accuracy reads rankings.valid.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
def test_a_stage_or_evaluator_without_its_records_is_refused_before_any_step(name, tmp_path):
    absent, changes, told = ABSENT[name]
    given = experiment(tmp_path, **changes)
    loss = PretrainingLoss(length=32)
    given = dataclasses.replace(given, evaluators=(*EVALUATORS, loss))
    for file in absent:
        (tmp_path / f"records/{file}.jsonl").unlink()
    run = Run(given)
    with pytest.raises(UserError, match=f"^{told}, and the data have no such records$"):
        if name in given.stages:
            run.check([name])
        else:
            checked = [e for e in given.evaluators if e.name == name]
            run.evaluation.check(checked, run._check_records)


def test_of_all_stages_that_are_to_run_the_first_that_lacks_something_is_named(tmp_path):
    run = Run(experiment(tmp_path, {"prompts.ppo": [Prompt(LONG)], "rankings.train": tied("a")}))
    with pytest.raises(UserError, match="nothing is left for reward: 1 tied"):
        run.check(["pretrain", "sft", "reward", "ppo"])
    with pytest.raises(UserError, match="nothing is left for ppo: 1 too long"):
        run.check(["pretrain", "sft", "ppo"])
    run.check(["pretrain", "sft"])


NINE = {
    "demonstrations.train": [Demonstration(letter, "b") for letter in "ijklmnopq"],
    "rankings.train": [*(Ranking(letter, ("b", "c"), (0, 1)) for letter in "ijklmnopq"),
                       *tied(*"abcdefgh")],  # would be a third batch
}  # fmt: skip
STEPS = [  # of 3 epochs; 8 rows are a batch
    ("sft", {"packed": False}, 6),
    ("sft", {"packed": True, "length": 8}, 3),  # of 4 tokens, so two a row
    ("sft", {"packed": False, "pretraining_fraction": 0.5}, 9),
    ("reward", {}, 6),
    ("dpo", {"packed": 2, "outputs": 4}, 3),  # two rankings a row
    ("dpo", {"packed": 2, "outputs": 6, "batch_size": 4}, 6),  # still: five rows
    ("dpo", {"packed": 3, "outputs": 6, "batch_size": 4}, 3),  # three rankings: three rows
]


def refused(run, name, stage) -> str | None:
    """What the records say against a stage."""
    try:
        with inside(name):
            stage.check(run.facts(name, stage))
    except UserError as error:
        return str(error)


def test_a_warm_up_as_long_as_its_stage_is_refused_before_any_step(tmp_path):
    run = Run(experiment(tmp_path, NINE))
    for name, changes, steps in STEPS:
        for warmup in (steps - 1, steps):
            warm = dataclasses.replace(small_run.RATE, warmup_steps=warmup)
            fields = {"optimizer": warm, "epochs": 3} | changes
            stage = dataclasses.replace(run.config.stages[name], **fields)
            told = f"{name}.optimizer.warmup_steps = {steps}: must be below the run's {steps} steps"
            assert refused(run, name, stage) == (None if warmup < steps else told)


def test_what_is_left_out_is_counted_by_stage_and_source(tmp_path, capsys):
    run = Run(experiment(tmp_path))
    run.check(("pretrain", "sft", "reward", "ppo", "dpo"), report=True)
    rankings = {"rankings.train": {"all": {"tied": 2, "too long": 2}}}
    demonstrations = {"demonstrations.train": {"all": {"too long": 1}}}
    told = {
        "pretrain": {}, "sft": demonstrations, "reward": rankings | demonstrations,
        "ppo": {"prompts.ppo": {"all": {"too long": 1}}}, "dpo": rankings,
        "evaluation": {"prompts.test": {"all": {"too long": 1}}},
        "accuracy": {"rankings.valid": {"all": {"too long": 1}}}, "samples": {},
    }  # fmt: skip
    assert run.corpora.counts["left_out"] == json.loads(json.dumps(told))
    out = capsys.readouterr().out
    assert "reward: rankings.train.jsonl: all: 2 tied, 2 too long of 5 left out (reward." \
           "length = 80; those too long have 103 tokens or more)\n" in out  # fmt: skip
    run.check(("sft",))
    assert capsys.readouterr().out == ""  # once
    assert run.corpora.counts["left_out"] == told


def test_the_counts_are_those_of_the_batches(tmp_path):
    run = Run(experiment(tmp_path))
    run.check(("sft", "reward", "ppo"))
    sizes = {"batch_size": 1, "seed": 0}
    read, tokenizer = run.corpora.read, run.tokenizer
    batches = {
        ("sft", "demonstrations.train"): supervised_batches(
            read("demonstrations", "train"), tokenizer, length=80, **sizes
        ),
        ("reward", "rankings.train"): ranking_batches(
            read("rankings", "train"), tokenizer, length=80, outputs=3, **sizes
        ),
        ("ppo", "prompts.ppo"): prompt_batches(
            read("prompts", "ppo"), tokenizer, length=56, **sizes
        ),
    }
    counted = run.corpora.counts["left_out"]
    for (stage, name), made in batches.items():
        assert counted[stage][name] == {"all": made.dropped}


@pytest.fixture
def world(tmp_path):
    """Before any stage: its rankings are yet to be collected, 2 or 3 outputs of 20 prompts."""
    return Run(dataclasses.replace(config, out=str(tmp_path)))


def longest_prompt(run, split) -> int:
    prompts = [record.prompt for record in run.corpora.read("prompts", split)]
    return max(1 + len(run.tokenizer.encode(prompt)) for prompt in prompts)


def test_prompts_must_leave_room_for_rankings_that_are_yet_to_be_collected(world):
    shortest = min(
        1 + len(world.tokenizer.encode(record.prompt))
        for record in world.corpora.read("prompts", "feedback")
    )
    for name in ("reward", "dpo"):
        stage = dataclasses.replace(config.stages[name], length=shortest)
        told = f"{name}.length = {shortest}: must be at least {shortest + 1}, for the shortest " \
               "prompt of feedback"  # fmt: skip
        assert refused(world, name, stage) == told
        stage = dataclasses.replace(stage, length=shortest + 1, outputs=2)
        told = f"{name}.outputs = 2: must be at least 3, the largest K of feedback"
        assert refused(world, name, stage) == told
        warm = dataclasses.replace(small_run.RATE, warmup_steps=3)  # 20 prompts, 8 a batch
        told = f"{name}.optimizer.warmup_steps = 3: must be below the run's 3 steps"
        stage = dataclasses.replace(config.stages[name], optimizer=warm)
        assert refused(world, name, stage) == told
        assert refused(world, name, config.stages[name]) is None


def test_every_prompt_of_a_collecting_stage_must_fit(world):
    longest = longest_prompt(world, "feedback")
    stage = dataclasses.replace(config.stages["feedback"], prompt_length=longest)
    assert refused(world, "feedback", stage) is None
    stage = dataclasses.replace(stage, prompt_length=longest - 1)
    told = f"feedback.prompt_length = {longest - 1}: must be at least {longest}, for the prompts " \
           "of data set prompts.feedback"  # fmt: skip
    assert refused(world, "feedback", stage) == told


def test_a_stage_downstream_is_checked_before_the_first_step_of_any(world):
    world.config = with_fields(world.config, reward={"outputs": 2})
    with pytest.raises(UserError, match=r"^reward\.outputs = 2: must be at least 3, the largest"):
        world.finish("ppo")
    assert not world.stage_directory("pretrain").exists()
