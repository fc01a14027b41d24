"""Feedback, report and `generate` sample and score responses as PPO does."""

import dataclasses
import io
from types import SimpleNamespace

import jax
import pytest

from rlhf_jax import generate, judge
from rlhf_jax.data import pipeline
from rlhf_jax.data.records import Prompt, Ranking
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.run import STAGES, Run
from rlhf_jax.worlds.instruction import InstructionWorld
from tests import small_run
from tests.stages.tiny import noisy

STOP, AFTER = 9, 2  # e
SAMPLING = SamplingConfig(small_run.config.ppo.temperature)


class Letters:
    """Letters and a few signs that can be read back; other characters stand for one of them."""

    pad_id, bos_id, eos_id, vocab_size = 0, 1, 2, 36

    def encode(self, text):
        return [4 + ord(letter) % 32 for letter in text]

    def decode(self, ids):
        return "".join(chr(92 + i) for i in ids if i > 3)


def small_config():
    shape = {"vocab_size": 36, "layers": 1, "width": 16, "context": 320}
    return dataclasses.replace(
        small_run.config,
        model=dataclasses.replace(small_run.config.model, **shape),
        ppo=small_run.ppo(stop_token="e", stop_after=AFTER, missing_eos_score=-3.0),
        ppo_ptx=small_run.ppo(ptx_coefficient=1.0, missing_eos_score=None),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of untrained models, whose data sets are kept here."""
    run = Run.__new__(Run)
    run.config, run.tokenizer, run._samplers = small_config(), Letters(), {}
    run.runner, run.directory = make_runner(run.config.parallel), tmp_path_factory.mktemp("run")
    params = noisy(transformer.init(run.config.model, jax.random.key(0)), 1)
    run.model, run.written = lambda stage: params, {}
    world = InstructionWorld(run.config.data.world, run.config.seed)
    run.corpora = SimpleNamespace(
        write=run.written.__setitem__,
        read=lambda _, split: [Prompt(prompt) for prompt in world.prompts(split)],
    )
    return run


def test_responses_end_as_those_of_the_stage_that_made_the_policy(run):
    endings = {stage: run.ending(stage) for stage in STAGES}
    assert endings.pop("ppo_ptx") == Ending(2, 0)
    assert set(endings.values()) == {Ending(2, 0, STOP, AFTER)}
    for stage in STAGES:
        sampler = run.sampler(stage, ["a"], SamplingConfig())
        assert sampler.ending == run.ending(stage)


def test_ranked_outputs_are_the_sft_model_s_and_end_as_ppo_s_would(run):
    run._collect_feedback()
    rankings = run.written["rankings"]["valid"] + run.written["rankings"]["train"]
    prompts = [r.prompt for r in rankings for _ in r.responses]
    sampled = run.sample("sft", run.model("sft"), prompts, SAMPLING, "feedback/outputs")
    found = [pair for r in rankings for pair in zip(r.responses, r.ended, strict=True)]
    assert found == [(response.text, response.ended) for response in sampled]
    ends = [response.ids[-1] == STOP for response in sampled if response.ids]
    assert 0 < sum(ends) < len(ends)
    read = [run.ending("sft").close(run.tokenizer.encode(text), ended) for text, ended in found]
    assert read == [[i for i in response.ids if i > 3] for response in sampled]  # no specials
    assert not any(STOP in response.ids[AFTER:-1] for response in sampled)


def test_generate_ends_where_ppo_s_responses_do(run, monkeypatch, capsys):
    prompts = [record.prompt for record in run.corpora.read("prompts", "feedback")] * 2
    lines = "".join(prompt.replace("\n", "\\n") + "\n" for prompt in prompts)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
    monkeypatch.setattr(generate, "finished_stage", lambda *_: "ppo")
    monkeypatch.setattr(generate, "Run", lambda *_, **__: run)
    generate.generate(run.config, "ppo")
    printed = capsys.readouterr().out.splitlines()
    sampling = run.config.evaluation.sampling
    purpose = f"generate/responses/{run.config.seed}"
    sampled = run.sample("ppo", run.model("ppo"), prompts, sampling, purpose)
    assert printed == [response.text for response in sampled]
    assert any(response.ended for response in sampled)
    assert not any("e" in line[AFTER:] for line in printed)


def test_the_report_scores_a_missing_end_as_the_stage_s_ppo(run, monkeypatch):
    asked = []
    monkeypatch.setattr(judge, "score_responses", lambda *_, **given: asked.append(given))
    for stage in ("sft", "ppo", "ppo_ptx"):
        judge.reward_scores(run, stage, None, [], [])
    assert [given["missing"] for given in asked] == [-3.0, -3.0, None]
    assert {given["length"] for given in asked} == {56 + 8}


class Asked(Exception):
    """Carries what ends a response out of whoever makes the batches."""


def test_all_that_reads_rankings_or_demonstrations_ends_them_so(run, monkeypatch):
    def asked(*_, close, **__):
        raise Asked(close)

    monkeypatch.setattr(pipeline, "supervised_pass", asked)
    monkeypatch.setattr(pipeline, "ranking_pass", asked)
    feeds = SimpleNamespace(rankings=lambda *given: asked(close=given[-1]))
    monkeypatch.setattr(run, "feeds", feeds, raising=False)
    monkeypatch.setattr(run, "rankings", lambda split: [])
    monkeypatch.setattr(run.corpora, "read", lambda *_: [])
    readers = (
        run._reward,
        run._dpo,
        lambda: run._normalise_reward(None),
        lambda: judge.pairs_by_prompt(run, [Ranking("p", ("a", "b"), (0, 1))]),
    )
    for read in readers:
        with pytest.raises(Asked) as told:
            read()
        assert told.value.args[0]([5], True) == [5, STOP]
