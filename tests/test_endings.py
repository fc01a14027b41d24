"""Feedback, training on its rankings, the report and `generate` end responses by one rule."""

import dataclasses
import io
from types import SimpleNamespace

import jax
import pytest

from rlhf_jax.data import pipeline
from rlhf_jax.data.records import Prompt, Ranking
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.generation.ending import Ending, EndingConfig
from rlhf_jax.models import transformer
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.runs import generate
from rlhf_jax.runs.evaluation import Evaluation, OneSubject, StageModel
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.runs.run import Run
from rlhf_jax.worlds.instruction import InstructionWorld
from tests import small_run
from tests.stages.tiny import noisy

STOP, AFTER = 9, 2  # e
ENDING = EndingConfig("e", AFTER, missing_eos_score=-3.0)


class Letters:
    """Letters and a few signs that can be read back; other characters stand for one of them."""

    pad_id, bos_id, eos_id, vocab_size = 0, 1, 2, 36

    def encode(self, text):
        return [4 + ord(letter) % 32 for letter in text]

    def prompt_ids(self, prompt):
        return [self.bos_id, *self.encode(prompt)]

    def document_ids(self, text):
        return [self.bos_id, *self.encode(text), self.eos_id]

    def decode(self, ids):
        return "".join(chr(92 + i) for i in ids if i > 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of untrained models."""
    config, run = small_run.config, Run.__new__(Run)
    shape = {"vocab_size": 36, "layers": 1, "width": 16, "context": 320}
    evaluation = {"prompt_length": 300, "batch_size": 16}
    feedback = dataclasses.replace(config.stages["feedback"], prompt_length=300, batch_size=16)
    run.config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **shape),
        stages={**config.stages, "feedback": feedback},
        evaluation=dataclasses.replace(config.evaluation, **evaluation),
        evaluators=(RewardAccuracy(length=80, outputs=3, rankings="feedback"),),
        ending=ENDING,
        out=str(tmp_path_factory.mktemp("run")),
    )
    run.tokenizer, run.runner = Letters(), make_runner(run.config.parallel)
    run.directory, run.ending = run.config.directory, Ending.of(Letters(), ENDING)
    params = noisy(transformer.init(run.config.model, jax.random.key(0)), 1)
    run.model = lambda stage: params
    world = InstructionWorld(run.config.data.world, run.config.seed)
    read = lambda kind, split: [Prompt(prompt) for prompt in world.prompts(split)]
    run.corpora = SimpleNamespace(read=read)
    run.evaluation = Evaluation(run)
    return run


def test_one_rule_is_all_stages_and_the_report_s(run):
    expected = Ending(2, 0, STOP, AFTER, missing=-3.0)
    assert {run.build(stage).ending for stage in run.config.stages} == {expected}
    (accuracy,) = run.config.evaluators
    subject = OneSubject(StageModel(run.evaluation, "reward"), accuracy)
    with pytest.raises(UserError, match=r"model\('by'\): its `needs` has no such role: it has r"):
        subject.model("by")
    assert subject.build.ending == expected


def test_ranked_outputs_end_at_the_stop_token(run, monkeypatch):
    compiled, rollouts = StageInputs.compile, []

    def kept(inputs, programs):
        sample = compiled(inputs, programs)["sample"]
        return {"sample": lambda *given: rollouts.append(sample(*given)) or rollouts[-1]}

    monkeypatch.setattr(StageInputs, "compile", kept)
    task, inputs = run.task("feedback")
    state, indices = task.state, []
    for _ in range(task.total_steps):
        batch = next(task.batches)
        indices.append(batch["index"])
        state, _ = task.step(state, batch)
    found = run.config.stages["feedback"].finish(None, inputs)
    rankings = found["valid"] + found["train"]
    sampled = [
        tokens[mask > 0].tolist()
        for index, rollout in zip(indices, rollouts, strict=True)
        for i, tokens, mask in zip(index, rollout.tokens, rollout.mask, strict=True)
        if i >= 0
    ]
    pairs = [pair for r in rankings for pair in zip(r.responses, r.ended, strict=True)]
    ends = [ids[-1] == STOP for ids in sampled]
    assert [ended for _, ended in pairs] == ends and 0 < sum(ends) < len(ends)
    assert not any(STOP in ids[AFTER:-1] for ids in sampled)
    whole = [[i for i in ids if i > 3] for ids in sampled]  # no specials
    texts = [ids[:-1] if end else ids for ids, end in zip(whole, ends, strict=True)]
    assert [text for text, _ in pairs] == [Letters().decode(ids) for ids in texts]
    # What learns from them reads what was sampled.
    assert [run.ending.close(Letters().encode(text), ended) for text, ended in pairs] == whole


def test_generate_and_the_report_end_so_too(run, monkeypatch, capsys):
    prompts = [record.prompt for record in run.corpora.read("prompts", "feedback")] * 2
    lines = "".join(prompt.replace("\n", "\\n") + "\n" for prompt in prompts)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    monkeypatch.setattr(generate, "finished_stage", lambda *_: "ppo")
    monkeypatch.setattr(generate, "reading_run", lambda *_: run)
    generate.generate(run.config, generate.GenerateOptions("ppo"))
    printed = capsys.readouterr().out.splitlines()
    key = run.key(f"generate/responses/{run.config.seed}")
    answers = run.evaluation.answers("ppo", run.model("ppo"), prompts, key)
    assert printed == [answer.text.replace("\n", "\\n") for answer in answers]
    assert {answer.ended for answer in answers} == {True, False}
    for answer in answers:
        assert answer.ended == (answer.ids[-1:] == (STOP,))
        assert STOP not in answer.ids[AFTER:-1]


class Asked(Exception):
    """Carries what ends a response out of whoever makes the batches."""


def test_all_that_reads_rankings_or_demonstrations_ends_them_so(run, monkeypatch):
    def asked(*_, close, **__):
        raise Asked(close)

    for name in ("supervised_pass", "ranking_pass", "ranking_batches"):
        monkeypatch.setattr(pipeline, name, asked)
    monkeypatch.setattr("rlhf_jax.evaluation.held_out_rankings.ranking_pass", asked)
    given = [Ranking("p", ("a", "b"), (0, 1))]
    monkeypatch.setattr(run, "records", lambda kind, split, stage: given, raising=False)
    collected = SimpleNamespace(sources=lambda *_: {"feedback": 1})
    monkeypatch.setattr(run, "collected", lambda stage: collected, raising=False)
    stages, inputs = run.config.stages, lambda stage: StageInputs(run, stage)
    readers = (
        lambda: run.task("reward"),
        lambda: run.task("dpo"),
        lambda: stages["reward"].finish(None, inputs("reward")),
        lambda: StageModel(run.evaluation, "reward").rows("accuracy_on_feedback"),
    )
    for read in readers:
        with pytest.raises(Asked) as told:
            read()
        assert told.value.args[0]([5], True) == [5, STOP]
