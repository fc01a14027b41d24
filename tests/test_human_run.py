"""All stages on the beginnings of the real files with a model too small to learn: what the report
counts."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.report import report as reported
from rlhf_jax.runs.run import Run
from rlhf_jax.sources.human import HumanData
from rlhf_jax.training.optimizer import OptimizerConfig

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "hh.py"
RATE = OptimizerConfig(learning_rate=1e-3)
SHORT = {"optimizer": RATE, "epochs": 0.002, "batch_size": 8, "length": 128}
PPO = {"iterations": 1, "batch_size": 8, "minibatches": 1, "prompt_length": 24,
       "response_length": 8, "ptx_length": 16, "policy_optimizer": RATE,
       "value_optimizer": RATE}  # fmt: skip
CHANGES = {
    "pretrain": SHORT,
    "sft": SHORT,
    "reward": SHORT,
    "dpo": SHORT,
    "ppo": PPO,
    "ppo_ptx": PPO,
}
LENGTHS = {
    name: {"length": 128}
    for name in ("accuracy", "preference_accuracy", "sft_loss", "pretraining_loss")
}


def copy_beginnings(files: Path, to: Path) -> Path:
    """About a fifth of the records: they are read, encoded and measured in seconds."""
    for name in (
        "hh-rlhf/harmless-base",
        "oasst-en100",
        "pandalm",
        "wikitext-2",
        "tinyshakespeare",
    ):
        (to / name).mkdir(parents=True)
    lines = lambda name, open_: open_(files / name, "rt", encoding="utf-8").readlines()
    name = "hh-rlhf/harmless-base/test.jsonl.gz"
    with gzip.open(to / name, "wt", encoding="utf-8") as file:
        file.writelines(lines(name, gzip.open)[:500])
    pairs = json.loads((files / "pandalm/testset-v1.json").read_text(encoding="utf-8"))
    (to / "pandalm/testset-v1.json").write_text(json.dumps(pairs[:200]), encoding="utf-8")
    for name, count in (
        ("oasst-en100/en_100_tree.jsonl", 50),
        ("wikitext-2/valid.txt", 600),
        ("wikitext-2/test.txt", 200),
        ("tinyshakespeare/input.txt", 4000),
    ):
        (to / name).write_text("".join(lines(name, open)[:count]), encoding="utf-8")
    return to


@pytest.fixture(scope="module")
def report(human_data, tmp_path_factory):
    files = copy_beginnings(human_data, tmp_path_factory.mktemp("files"))
    full = load_experiment(str(EXPERIMENT))
    stages = {name: dataclasses.replace(full.stages[name], **c) for name, c in CHANGES.items()}
    config = dataclasses.replace(
        full,
        data=HumanData(path=str(files), heldout_articles=1, allow_test=True),
        model=TransformerConfig(vocab_size=600, layers=1, width=8, heads=1, context=128),
        stages=stages,
        evaluation=dataclasses.replace(full.evaluation, prompt_length=24, response_length=8),
        evaluators=tuple(dataclasses.replace(e, **LENGTHS.get(e.name, {}))
                         for e in full.evaluators),
        out=str(tmp_path_factory.mktemp("run")),
    )  # fmt: skip
    run = Run(config)
    return reported(run), run


def test_pairs_of_the_sources_are_those_of_the_whole(report):
    summary, run = report
    column = lambda name, of: of[f"accuracy_{name}"]
    whole = summary["scorers"]["reward"]
    parts = whole["groups"]
    held = list(run.corpora.read("rankings", "valid"))
    counts = run.corpora.counts["heldout"]
    assert list(parts) == list(counts) == ["hh", "openassistant", "pandalm"]
    for count in ("pairs", "over_long"):
        assert column(count, whole) == sum(column(count, part) for part in parts.values())
    encode = run.tokenizer.encode
    longest = lambda r: 2 + len(encode(r.prompt)) + max(len(encode(x)) for x in r.responses)
    kept = [ranking for ranking in held if longest(ranking) <= 128]
    assert column("over_long", whole) == len(held) - len(kept) > 0
    pairs = sum(sum(a < b for a in r.ranks for b in r.ranks) for r in kept)
    assert column("pairs", whole) == pairs
    assert column("prompts", whole) == len({r.prompt for r in kept if len(set(r.ranks)) > 1})
    lengths = lambda r: [len(encode(x)) for x in r.responses]
    longer = sum(
        (m > n) + 0.5 * (m == n)
        for r in kept
        for m, a in zip(lengths(r), r.ranks, strict=True)
        for n, b in zip(lengths(r), r.ranks, strict=True)
        if a < b
    )
    assert column("longer_is_better", whole)["mean"] == pytest.approx(longer / pairs)


def test_report_is_written_and_says_what_was_sampled(report):
    summary, run = report
    assert json.loads((run.directory / "report.json").read_text()) == summary
    assert list(summary["policies"]) == ["pretrain", "sft", "dpo", "ppo", "ppo_ptx"]
    assert summary["policies"]["sft"]["kl_to_sft"]["mean"] == 0
    prompts = [record.prompt for record in run.corpora.read("prompts", "test")]
    short = [prompt for prompt in prompts if 1 + len(run.tokenizer.encode(prompt)) <= 24]
    assert summary["prompts"] == {"all": len(prompts), "asked": len(short)}
    assert 0 < len(short) < len(prompts)
    assert summary["records"] == run.corpora.counts
    assert summary["seconds"].keys() == {*CHANGES, "report"}
    assert summary["findings"]
