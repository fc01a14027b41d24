"""The same kinds of stage again in one experiment: each reads the models and records that it names.

What is looked at is the run of tests/second_round.py, beside the small run that it goes on from.
"""

import json

import numpy as np
import pytest

from tests import second_round
from tests.chain import Chain, assert_drawn_from, same
from tests.test_chain_ppo import iteration

PPOS = ("ppo_2", "ppo_dpo")


@pytest.fixture(scope="module")
def second(second_round_run):
    directory, folder = second_round_run
    return Chain(directory, folder, second_round.config)


# A second round of feedback, reward model and PPO.


def test_the_second_round_ranks_outputs_of_the_first_round_s_policy(second):
    stage, batches = second.stages["feedback_2"], second.outputs("feedback_2")
    rankings = second.rankings("valid", "feedback_2") + second.rankings("train", "feedback_2")
    assert [r.prompt for r in rankings] == second.world.prompts("feedback")
    assert all(same(batch["params"], second.model("ppo")) for batch in batches)
    rows = [row for batch in batches for row in batch["rows"]]
    responses = [ids for _, ids, _ in rows]
    texts = [text for r in rankings for text in r.responses]
    assert [second.tokenizer.decode(ids) for ids in responses] == texts
    drawn = [(ids, log_probs) for _, ids, log_probs in rows]
    prompts = [prompt for prompt, *_ in rows]
    assert_drawn_from(second, second.model("ppo"), prompts, drawn, stage.temperature)
    first = second.rankings("valid") + second.rankings("train")
    assert [len(r.responses) for r in first] != [len(r.responses) for r in rankings]  # a stream


def test_the_second_reward_model_starts_from_sft_and_reads_the_second_rankings(second):
    start = second.states("reward_2")[0].params
    assert same({name: x for name, x in start.items() if name != "score"}, second.model("sft"))
    expected = {
        tuple(second.ids(r.prompt, text, end=ended)): rank
        for r in second.rankings("train", "feedback_2") if max(r.ranks) > 0
        for text, ended, rank in zip(r.responses, r.ended, r.ranks, strict=True)
    }  # fmt: skip
    found = {}
    for batch in second.batches("reward_2"):
        for tokens, here, ranks in zip(
            *(batch[name] for name in ("tokens", "segments", "ranks")), strict=True
        ):
            own = [tokens[here == k + 1] for k in range(here.max())]
            found |= {tuple(x.tolist()): int(r) for x, r in zip(own, ranks, strict=False)}
    assert found == expected
    assert not same(second.model("reward_2"), second.model("reward"))


def test_the_second_ppo_starts_from_the_first_and_the_second_reward_model(second):
    start = second.states("ppo_2")[0]
    assert same(start.policy, second.model("ppo")) and same(start.ema, second.model("ppo"))
    assert same(start.value, second.model("reward_2"))
    assert not same(second.model("ppo"), second.model("sft"))


def test_ppo_starts_from_what_dpo_ended_with(second):
    start = second.states("ppo_dpo")[0]
    assert same(start.policy, second.model("dpo")) and same(start.value, second.model("reward"))


@pytest.mark.parametrize("name", ["log_probs", "values", "advantages", "returns"])
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("stage", PPOS)
def test_experience_is_that_of_the_models_that_the_stage_names(second, stage, number, name):
    """Of ppo_2 the reference is SFT, which it does not start from; of ppo_dpo it is its start."""
    rows, _ = iteration(second, stage, number)
    found = second.experiences(stage)[number]
    for ours, mask, expected in zip(found[name], found["mask"], rows[name], strict=True):
        np.testing.assert_allclose(ours[mask > 0], expected, rtol=1e-3, atol=1e-4)


def test_the_kl_of_the_first_iteration_is_to_the_reference(second):
    """Of the policy at its start: 0 to itself, and not to SFT."""
    assert abs(second.metrics("ppo_dpo")[0]["kl"]) < 1e-4
    found = second.metrics("ppo_2")[0]["kl"]
    assert abs(found) > 1e-3
    np.testing.assert_allclose(found, iteration(second, "ppo_2", 0)[1]["kl"], rtol=1e-4)


# Streams.


def lines(directory, stage) -> list[dict]:
    """The metrics, without those of evaluators, which measure stages by name."""
    rows = map(json.loads, (directory / stage / "metrics.jsonl").open())
    return [{n: x for n, x in row.items() if not n.startswith("evaluation/")} for row in rows]


@pytest.mark.parametrize("name, stage", second_round.SAME.items())
def test_a_renamed_stage_keeps_its_numbers_by_its_stream(second, name, stage):
    """Bit for bit, and so does what is downstream of it, other stages added or not."""
    assert lines(second.directory, name) == lines(second.directory, stage)
    assert same(second.model(name), second.model(stage))


def test_another_stream_draws_otherwise(second):
    """ppo_dpo reads the same prompts as ppo, in another order."""
    order = lambda stage: [batch["prompts"]["index"].tolist() for batch in second.batches(stage)]
    assert order("ppo_dpo") != order("ppo_2") and order("ppo_2") != order("again")


def test_stages_that_were_there_stay_as_they_were(small_run, second):
    """The first run's files are not touched by stages that are added."""
    found = [path for name in ("metrics.jsonl", "config.json", "records.json", "model/model.json")
             for path in small_run.directory.glob(f"*/{name}")]  # fmt: skip
    assert len(found) > 20
    for path in found:
        other = second.directory / path.relative_to(small_run.directory)
        assert path.read_bytes() == other.read_bytes()


def test_each_stage_s_fingerprint_holds_what_it_builds_on(second):
    stages = lambda name: list(
        json.loads((second.directory / name / "config.json").read_text())["config"]["stages"]
    )
    first = ["pretrain", "sft", "feedback", "reward", "ppo"]
    assert stages("ppo") == first and stages("chosen") == [
        "base", "tuned", "pretrain", "sft", "feedback", "chosen",
    ]  # fmt: skip
    assert stages("ppo_2") == [*first, "feedback_2", "reward_2", "ppo_2"]
