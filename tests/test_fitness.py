"""What would leave a stage or the report with nothing is refused before the first step of any."""

import dataclasses
import json

import pytest

from rlhf_jax import judge
from rlhf_jax.data.pipeline import prompt_batches, ranking_batches, supervised_batches
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text, write_jsonl
from rlhf_jax.errors import UserError
from rlhf_jax.experiment import FolderData
from rlhf_jax.fitness import Fitness
from rlhf_jax.run import Run
from tests import small_run
from tests.data.test_tokenizer import byte_level

config = dataclasses.replace(  # batches that 8 devices share
    small_run.config,
    reward=dataclasses.replace(small_run.config.reward, batch_size=8),
    dpo=dataclasses.replace(small_run.config.dpo, batch_size=8),
)
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


def tied(*prompts):
    return [Ranking(prompt, ("b", "c"), (0, 0)) for prompt in prompts]


def experiment(place, records=None, **changes):
    """The small experiment on a folder of RECORDS, some of its files others."""
    for name, given in (RECORDS | (records or {})).items():
        write_jsonl(place / f"records/{name}.jsonl", given)
    tokenizer = byte_level(["<pad>", "<s>", "</s>"])
    tokenizer.save(str(place / "records/tokenizer.json"))
    model = dataclasses.replace(config.model, vocab_size=tokenizer.get_vocab_size())
    parts = {name: dataclasses.replace(getattr(config, name), **fields)
             for name, fields in changes.items()}  # fmt: skip
    data = FolderData(path=str(place / "records"))
    return dataclasses.replace(config, data=data, model=model, out=str(place / "run"), **parts)


LACKING = {
    "held-out rankings too long": (
        {"rankings.valid": [Ranking("g", ("b", LONG), (0, 1))]}, {}, "report",
        r"rankings\.valid\.jsonl: nothing is left for report: 1 too long \(reward\.length = 80; "
        r"those too long have 103 tokens or more\)",
    ),
    "held-out rankings tied": (
        {"rankings.valid": tied("f", "g")}, {}, "report",
        r"rankings\.valid\.jsonl: nothing is left for report: 2 tied",
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
    "test prompts": (
        {"prompts.test": [Prompt(LONG)]}, {}, "report",
        r"prompts\.test\.jsonl: nothing is left for report: 1 too long \(ppo\.prompt_length = 56",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LACKING)
def test_what_leaves_nothing_is_refused_before_any_step(name, tmp_path, monkeypatch):
    records, changes, stage, message = LACKING[name]
    run = Run(experiment(tmp_path, records, **changes))
    monkeypatch.setattr(Run, "_pretrain", lambda run: pytest.fail("a stage began"))
    with pytest.raises(UserError, match=message) as caught:
        judge.judge(run) if stage == "report" else run.finish(stage)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):  # each time that it is asked for
        judge.judge(run) if stage == "report" else run.finish(stage)


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
    ("dpo", {"packed": True, "outputs": 4}, 3),  # two rankings a row
]


def test_a_warm_up_as_long_as_its_stage_is_refused_before_any_step(tmp_path):
    run = Run(experiment(tmp_path, NINE))
    for stage, changes, steps in STEPS:
        for warmup in (steps - 1, steps):
            warm = dataclasses.replace(small_run.RATE, warmup_steps=warmup)
            fields = {"optimizer": warm, "epochs": 3} | changes
            given = dataclasses.replace(getattr(run.config, stage), **fields)
            changed = dataclasses.replace(run.config, **{stage: given})
            fitness = Fitness(changed, run.corpora, run.tokenizer, run.ending("sft").close)
            if warmup < steps:
                fitness.check((stage,))
                continue
            with pytest.raises(UserError) as caught:
                fitness.check((stage,))
            told = (
                f"{stage}.optimizer.warmup_steps = {steps}: must be below the run's {steps} steps"
            )
            assert str(caught.value) == told


def test_what_is_left_out_is_counted_by_stage_and_source(tmp_path, capsys):
    run = Run(experiment(tmp_path))
    run.check(("pretrain", "sft", "reward", "ppo", "dpo"), report=True)
    rankings = {"rankings.train": {"all": {"tied": 2, "too long": 2}}}
    demonstrations = {"demonstrations.train": {"all": {"too long": 1}}}
    told = {
        "pretrain": {}, "sft": demonstrations, "reward": rankings | demonstrations,
        "ppo": {"prompts.ppo": {"all": {"too long": 1}}}, "dpo": rankings,
        "report": {"prompts.test": {"all": {"too long": 1}},
                   "rankings.valid": {"all": {"too long": 1}}},
    }  # fmt: skip
    assert run.fitness.left_out == told
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
    for (stage, name), made in batches.items():
        assert run.fitness.left_out[stage][name] == {"all": made.dropped}


def test_a_world_s_prompts_must_leave_room_for_its_rankings(tmp_path):
    short = dataclasses.replace(config.reward, length=8)
    run = Run(dataclasses.replace(config, reward=short, out=str(tmp_path)))
    with pytest.raises(UserError, match=r"reward\.length = 8: must be at least \d+, for the prompts"
                       r" of data set prompts\.feedback"):  # fmt: skip
        run.finish("reward")
    assert not run.stage_directory("pretrain").exists()
    warm = dataclasses.replace(small_run.RATE, warmup_steps=3)  # 20 prompts, 8 a batch
    warm = dataclasses.replace(
        run.config, reward=dataclasses.replace(config.reward, optimizer=warm)
    )
    fitness = Fitness(warm, run.corpora, run.tokenizer, run.ending("sft").close)
    with pytest.raises(UserError, match=r"^reward\.optimizer\.warmup_steps = 3: must be below the "
                       r"run's 3 steps$"):  # fmt: skip
        fitness.check(("reward",))


def test_a_source_of_which_nothing_fits_has_no_pairs_in_the_report(tmp_path):
    """Where another source has some, so that the report is not refused."""
    run = Run(experiment(tmp_path))
    *columns, over_long = judge.pairs_by_prompt(run, [Ranking("a", ("b", LONG), (0, 1))])
    assert [column.shape for column in columns] == [(0,)] * 3
    assert over_long == 1
