"""All stages on the real files with a model too small to learn: what the report counts."""

import dataclasses
import json
from pathlib import Path

import pytest
from rlhf_jax.experiment import HumanData, load_experiment
from rlhf_jax.run import Run

from rlhf_jax import judge
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.training.optimizer import OptimizerConfig

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "hh.py"


@pytest.fixture(scope="module")
def report(human_data, tmp_path_factory):
    full = load_experiment(str(EXPERIMENT))
    rate = OptimizerConfig(learning_rate=1e-3)
    short = {"optimizer": rate, "epochs": 0.002, "batch_size": 8, "length": 128}
    ppo = {"iterations": 1, "batch_size": 8, "minibatches": 1, "prompt_length": 24,
           "response_length": 8, "ptx_length": 16, "policy_optimizer": rate,
           "value_optimizer": rate}  # fmt: skip
    config = dataclasses.replace(
        full,
        data=HumanData(path=str(human_data), heldout_articles=1),
        model=TransformerConfig(vocab_size=600, layers=1, width=8, heads=1, context=128),
        **{
            s: dataclasses.replace(getattr(full, s), **short)
            for s in ("pretrain", "sft", "reward", "dpo")
        },
        **{s: dataclasses.replace(getattr(full, s), **ppo) for s in ("ppo", "ppo_ptx")},
        out=str(tmp_path_factory.mktemp("run")),
    )
    run = Run(config)
    return judge.judge(run), run


def test_pairs_of_the_sources_are_those_of_the_whole(report):
    summary, run = report
    parts = dict(summary["reward_model"])
    whole = parts.pop("all")
    held = list(run.rankings("valid"))
    counts = run.corpora.counts["heldout"]
    assert list(parts) == list(counts) == ["hh", "openassistant", "pandalm"]
    for count in ("pairs", "over_long"):
        assert whole[count] == sum(part[count] for part in parts.values())
    encode = run.tokenizer.encode
    longest = lambda r: 2 + len(encode(r.prompt)) + max(len(encode(x)) for x in r.responses)
    kept = [ranking for ranking in held if longest(ranking) <= 128]
    assert whole["over_long"] == len(held) - len(kept) > 0
    assert whole["pairs"] == sum(sum(a < b for a in r.ranks for b in r.ranks) for r in kept)
    assert whole["prompts"] == len({r.prompt for r in kept if len(set(r.ranks)) > 1})
    lengths = lambda r: [len(encode(x)) for x in r.responses]
    longer = sum(
        (m > n) + 0.5 * (m == n)
        for r in kept
        for m, a in zip(lengths(r), r.ranks, strict=True)
        for n, b in zip(lengths(r), r.ranks, strict=True)
        if a < b
    )
    assert whole["longer_is_better"]["mean"] == pytest.approx(longer / whole["pairs"])


def test_report_is_written_and_says_what_was_sampled(report):
    summary, run = report
    assert json.loads((run.directory / "report.json").read_text()) == summary
    assert list(summary["policies"]) == ["base", "sft", "ppo", "ppo_ptx"]
    assert summary["policies"]["sft"]["kl"] == 0
    prompts = [record.prompt for record in run.corpora.read("prompts", "test")]
    short = [prompt for prompt in prompts if 1 + len(run.tokenizer.encode(prompt)) <= 24]
    assert summary["test_prompts"] == {"all": len(prompts), "short_enough": len(short)}
    assert summary["records"] == run.corpora.counts
    assert summary["seconds"].keys() >= {"pretrain", "sft", "reward", "ppo", "ppo_ptx", "report"}
    assert summary["findings"]
