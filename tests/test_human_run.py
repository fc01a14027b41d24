"""All stages on the real files with a model too small to learn: what the report counts."""

import dataclasses
import json
from pathlib import Path

import pytest

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.report import report as whole_report
from rlhf_jax.runs.run import Run
from rlhf_jax.sources.human import HumanData
from rlhf_jax.training.optimizer import OptimizerConfig

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "hh.py"
POLICIES = ["pretrain", "sft", "ppo", "ppo_ptx", "dpo"]


@pytest.fixture(scope="module")
def report(human_data, tmp_path_factory, quick_to_compile):
    full = load_experiment(str(EXPERIMENT))
    rate = OptimizerConfig(learning_rate=1e-3)
    short = {"optimizer": rate, "epochs": 0.002, "batch_size": 8, "length": 128}
    ppo = {"iterations": 1, "batch_size": 8, "minibatches": 1, "prompt_length": 24,
           "response_length": 8, "ptx_length": 16, "policy_optimizer": rate,
           "value_optimizer": rate}  # fmt: skip
    changes = {name: ppo if name.startswith("ppo") else short for name in full.stages}
    stages = {name: dataclasses.replace(full.stages[name], **of) for name, of in changes.items()}
    lengths = {"accuracy": 128, "pretraining_loss": 128}
    evaluators = tuple(
        dataclasses.replace(e, length=lengths[e.name]) if e.name in lengths else e
        for e in full.evaluators
    )
    asked = dataclasses.replace(full.evaluation, prompt_length=24, response_length=8)
    config = dataclasses.replace(
        full,
        data=HumanData(path=str(human_data), heldout_articles=1),
        model=TransformerConfig(vocab_size=600, layers=1, width=8, heads=1, context=128),
        stages=stages,
        evaluators=evaluators,
        evaluation=asked,
        out=str(tmp_path_factory.mktemp("run")),
    )
    run = Run(config)
    return whole_report(run), run


def parts_of(summary) -> tuple[dict, dict[str, dict]]:
    """The figures of the reward model on all pairs, and on those of each source."""
    whole = summary["scorers"]["reward"]
    return whole, whole["groups"]


def test_pairs_of_the_sources_are_those_of_the_whole(report):
    summary, run = report
    whole, parts = parts_of(summary)
    held = list(run.corpora.read("rankings", "valid"))
    counts = run.corpora.counts["heldout"]
    assert list(parts) == list(counts) == ["hh", "openassistant", "pandalm"]
    for count in ("accuracy_pairs", "accuracy_over_long"):
        assert whole[count] == sum(part[count] for part in parts.values())
    encode = run.tokenizer.encode
    longest = lambda r: 2 + len(encode(r.prompt)) + max(len(encode(x)) for x in r.responses)
    kept = [ranking for ranking in held if longest(ranking) <= 128]
    assert whole["accuracy_over_long"] == len(held) - len(kept) > 0
    pairs = sum(sum(a < b for a in r.ranks for b in r.ranks) for r in kept)
    assert whole["accuracy_pairs"] == pairs
    prompts = len({r.prompt for r in kept if len(set(r.ranks)) > 1})
    assert whole["accuracy_prompts"] == prompts
    lengths = lambda r: [len(encode(x)) for x in r.responses]
    longer = sum(
        (m > n) + 0.5 * (m == n)
        for r in kept
        for m, a in zip(lengths(r), r.ranks, strict=True)
        for n, b in zip(lengths(r), r.ranks, strict=True)
        if a < b
    )
    assert whole["accuracy_longer_is_better"]["mean"] == pytest.approx(longer / pairs)


def test_report_is_written_and_says_what_was_sampled(report):
    summary, run = report
    assert json.loads((run.directory / "report.json").read_text()) == summary
    assert list(summary["policies"]) == POLICIES
    assert summary["policies"]["sft"]["kl_to_sft"]["mean"] == 0
    prompts = [record.prompt for record in run.corpora.read("prompts", "test")]
    short = [prompt for prompt in prompts if 1 + len(run.tokenizer.encode(prompt)) <= 24]
    assert summary["prompts"] == {"all": len(prompts), "asked": len(short)}
    assert summary["records"] == run.corpora.counts
    assert summary["seconds"].keys() == {*POLICIES, "reward", "report"}
    starts = [f"Reward model reward, {source}:" for source in ("all", *parts_of(summary)[1])]
    assert [any(text.startswith(s) for text in summary["findings"]) for s in starts] == [True] * 4
    for stage in ("ppo", "ppo_ptx"):
        told = [text for text in summary["findings"] if f"{stage} " in text]
        assert any("the reward score: its responses beat those of sft on" in text for text in told)
        assert any(text.startswith("Loss on held-out text") for text in told)
