"""Collecting rankings: how many outputs each prompt gets, what is asked, how they are ranked."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.records import Prompt
from rlhf_jax.errors import UserError
from rlhf_jax.feedback.labelers import expected_agreement, pairwise_agreement
from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.elsewhere import FromRun
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from tests.data.conftest import Characters
from tests.fed import inputs_of
from tests.stages import tiny

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPTS = [Prompt(a + b) for a in LETTERS for b in LETTERS]
STAGE = SimulatedFeedback(
    prompt_length=6, response_length=6, outputs=(2, 4), agreement=0.9, temperature=0.7,
    batch_size=8, policy="sft", prompts="asked",
)  # fmt: skip


SFT = FromRun("elsewhere", "sft", ends="policy")


def grade(prompt, response):
    """A sixth for each letter before m."""
    assert len(prompt) == 2
    return SimpleNamespace(score=sum(letter < "m" for letter in response) / 6)


def inputs(directory, stage=STAGE, prompts=20, seed=0, policy=None):
    records = {("prompts", "asked", None): PROMPTS[:prompts]}
    source = SimpleNamespace(grader=lambda run_seed: grade if run_seed == seed else None)
    return inputs_of(
        {"sft": SFT, "feedback": stage}, "feedback", lambda *of: records[of], seed=seed,
        directory=directory, ending=tiny.ENDING, shape=tiny.MODEL, runner=tiny.one_device(),
        model=lambda name: {"sft": policy}[name], tokenizer=Characters(), data=source,
    )  # fmt: skip


def written(given, counts, text_of):
    """Outputs as if they had been sampled, five a step: text_of(prompt, k), the third one cut."""
    pairs = [(p, k) for p, count in enumerate(counts) for k in range(count)]
    outputs = [[text_of(p, k), k != 2] for p, k in pairs]
    for step in range(0, len(outputs), 5):
        given.on_host("outputs", step // 5, lambda s=step: outputs[s : s + 5])
    return outputs


def counts_of(given, stage=STAGE):
    return stage._asked(given)[1]


def ranked(directory, text_of, stage=STAGE, prompts=20, seed=0):
    """All rankings in the order of the prompts, and what is told about them."""
    given = inputs(directory, stage, prompts, seed)
    outputs = written(given, counts_of(given, stage), text_of)
    found = stage.finish(None, given)
    assert found.keys() == {"train", "valid"}
    about = json.loads((directory / "feedback" / "about.json").read_text())
    return found["valid"] + found["train"], about, outputs, found


def different(p, k):
    """Texts of scores 0, 2/6, 4/6 and 1."""
    return "n" + "abcdef"[: 2 * k] + "z" * (p % 3)


def test_each_prompt_has_outputs_of_the_range_and_the_first_tenth_is_held_out(tmp_path):
    found, _, outputs, splits = ranked(tmp_path, different)
    assert [r.prompt for r in found] == [p.prompt for p in PROMPTS[:20]]
    assert {len(r.responses) for r in found} == {2, 3, 4}
    assert (len(splits["valid"]), len(splits["train"])) == (2, 18)
    given = [[text, ended] for r in found for text, ended in zip(r.responses, r.ended, strict=True)]
    assert given == outputs
    _, _, _, few = ranked(tmp_path / "few", different, prompts=9)
    assert (len(few["valid"]), len(few["train"])) == (1, 8)  # at least one


@pytest.mark.parametrize("more", [-1, 5])
def test_outputs_of_another_batch_size_are_no_rankings(tmp_path, more):
    """As where the batch size was changed half-way, with --insist."""
    given = inputs(tmp_path)
    counts = counts_of(given)
    written(given, [*counts, more] if more > 0 else [*counts[:-1], counts[-1] - 1], different)
    there, asked = sum(counts) + more, sum(counts)
    with pytest.raises(UserError) as told:
        STAGE.finish(None, given)
    assert str(told.value) == (
        f"feedback: {tmp_path}/feedback holds {there} outputs, but the config asks for {asked}: it "
        "was started with another config; remove that directory to collect them again"
    )


def test_without_much_noise_the_order_is_the_grader_s(tmp_path):
    stage = SimulatedFeedback(2, 6, outputs=(3, 3), agreement=1 - 1e-6, policy="sft",
                              prompts="asked")  # fmt: skip
    text = lambda p, k: "n" + "abcdef"[: 3 * ((p + k) % 3)] + "z" * p
    found, about, *_ = ranked(tmp_path, text, stage)
    for p, ranking in enumerate(found):
        assert ranking.ranks == tuple(2 - (p + k) % 3 for k in range(3))
    assert 0 < about["noise"] < 0.2 and about["tied"] == 0


def test_equal_outputs_tie_and_only_different_ones_tell_how_often_labelers_agree(tmp_path):
    """Every other prompt has one text only; the others have scores 0 and 3/6."""
    stage = SimulatedFeedback(2, 6, outputs=(2, 2), agreement=0.7, policy="sft", prompts="asked")
    text = lambda p, k: "same" if p % 2 else ("zzzz", "abc")[k]
    found, about, *_ = ranked(tmp_path, text, stage, prompts=40)
    scores = [[0.0, 3 / 6]] * 20
    assert expected_agreement(scores, about["noise"]) == pytest.approx(0.7, abs=1e-3)
    assert all(ranking.ranks == (0, 0) for ranking in found[1::2])
    assert about["tied"] == sum(ranking.tied for ranking in found) >= 20
    assert 0 < sum(ranking.ranks == (1, 0) for ranking in found[::2]) < 20
    assert about["ranking_seconds"] > 0


def test_two_labelers_agree_as_often_as_asked(tmp_path):
    """On three pairs of 600 prompts: within three standard errors of a pair a prompt."""
    stage = SimulatedFeedback(2, 6, outputs=(3, 3), agreement=0.75, policy="sft", prompts="asked")
    both = []
    for seed in (1, 2):
        found, *_ = ranked(tmp_path / str(seed), different, stage, prompts=600, seed=seed)
        both.append([ranking.ranks for ranking in found])
    assert both[0] != both[1]
    assert pairwise_agreement(*both) == pytest.approx(0.75, abs=3 * (0.75 * 0.25 / 600) ** 0.5)


def test_outputs_are_the_policy_s_batch_by_batch(tmp_path):
    policy = tiny.policy_params(1)
    given = inputs(tmp_path, policy=policy)
    task, counts = STAGE.task(given), counts_of(given)
    asked = [p.prompt for p, count in zip(PROMPTS, counts, strict=False) for _ in range(count)]
    assert task.total_steps == -(-len(asked) // 8) and task.updates == 0
    sample = jax.jit(
        lambda *a: generate(
            tiny.MODEL, *a, sampling=SamplingConfig(0.7), response_length=6, ending=tiny.ENDING
        )
    )
    state, outputs = task.state, []
    for step in range(task.total_steps):
        batch = next(task.batches)
        here = asked[8 * step : 8 * step + 8]
        rows = [[1, *Characters().encode(prompt)] for prompt in here]
        tokens, _ = tiny.left_padded(rows, 6)
        np.testing.assert_array_equal(batch["tokens"][: len(here)], tokens)
        key = jax.random.fold_in(given.key("outputs"), step)
        rollout = sample(policy, jnp.array(batch["tokens"]), jnp.array(batch["segments"]), key)
        drawn = [t[m > 0].tolist() for t, m in zip(*rollout[:2], strict=True)][: len(here)]
        responses = [tiny.ENDING.response(ids, Characters()) for ids in drawn]
        state, metrics = task.step(state, batch)
        assert state.step == step + 1 and metrics["outputs"] == len(here)
        assert metrics["response_tokens"] == pytest.approx(np.mean([len(ids) for ids in drawn]))
        assert metrics["ended"] == pytest.approx(np.mean([r.ended for r in responses]))
        outputs += [[r.text, r.ended] for r in responses]
    assert 0 < sum(ended for _, ended in outputs) < len(outputs)
    assert [each for found in given.host_results("outputs") for each in found] == outputs
    assert task.model(state) is None
    with pytest.raises(StopIteration):
        next(task.batches)


def test_outputs_of_a_damaged_policy_are_refused(tmp_path):
    policy = tiny.policy_params(1)
    policy = policy | {"tokens": policy["tokens"].at[5].set(jnp.nan)}  # of b
    task = STAGE.task(inputs(tmp_path, prompts=2, policy=policy))  # aa and ab
    with pytest.raises(UserError, match=r"^[1-9] of [4-8] outputs were drawn from logits that are"):
        task.step(task.state, next(task.batches))
