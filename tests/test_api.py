"""rlhf_jax.api on a finished run, against float64; the blocks of docs/api.md run."""

import contextlib
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax import api
from rlhf_jax.durable import taken
from rlhf_jax.errors import ConfigError, UserError
from tests import oracles

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RESPONSE, TEMPERATURE = 8, 0.9


@pytest.fixture(scope="module")
def policy(small_run):
    return api.load_policy(small_run.directory, "ppo")


@pytest.fixture(scope="module")
def scorer(small_run):
    return api.load_scorer(small_run.directory, "reward")


@pytest.fixture(scope="module")
def prompts(chain):
    return chain.world.prompts("test")[:3]


@pytest.fixture(scope="module")
def samples(policy, prompts):
    return api.sample(
        policy, prompts, response_length=RESPONSE, n=12, temperature=TEMPERATURE, seed=3,
        batch_size=16,
    )  # fmt: skip


def flat(prompts, samples):
    pairs = [(prompt, one) for prompt, some in zip(prompts, samples, strict=True) for one in some]
    return tuple(zip(*pairs, strict=True))


def test_a_model_is_the_one_that_the_stage_ended_with(policy, scorer, chain):
    for loaded, stage in ((policy, "ppo"), (scorer, "reward")):
        jax.tree.map(np.testing.assert_array_equal, loaded.params, chain.model(stage))
    assert policy.shape == chain.config.model
    assert policy.tokenizer.fingerprint == chain.tokenizer.fingerprint
    assert policy.ending.missing == scorer.ending.missing == -0.5


def test_samples_have_the_log_probabilities_of_the_model(policy, prompts, samples):
    asked, answers = flat(prompts, samples)
    assert [len(some) for some in samples] == [12, 12, 12] and len(
        {answer.ids for answer in answers[:12]}
    ) > 8
    assert {answer.ended for answer in answers} == {True, False}
    encode = policy.tokenizer.encode
    sequences = [[policy.tokenizer.bos_id, *encode(p), *a.ids]
                 for p, a in zip(asked, answers, strict=True)]  # fmt: skip
    whole = oracles.log_probs(policy.shape, policy.params, sequences, TEMPERATURE)
    again = api.log_probs(policy, asked, answers, temperature=TEMPERATURE, batch_size=16)
    for answer, row, found in zip(answers, whole, again, strict=True):
        assert len(answer.ids) <= RESPONSE
        assert answer.ended == (answer.ids[-1] == policy.tokenizer.eos_id)
        assert answer.ended or len(answer.ids) == RESPONSE
        expected = row[-len(answer.ids) :]
        np.testing.assert_allclose(answer.log_probs, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_sample_is_drawn_by_seed_and_arguments(policy, prompts, samples):
    draw = lambda **how: api.sample(
        policy, prompts, n=12, response_length=RESPONSE, batch_size=16,
        **{"temperature": TEMPERATURE, "seed": 3, **how},
    )  # fmt: skip
    texts = lambda found: [[one.text for one in some] for some in found]
    assert texts(draw()) == texts(samples) != texts(draw(seed=4))
    greedy = draw(temperature=0.0)
    assert all(len(set(some)) == 1 for some in texts(greedy))
    assert texts(greedy) == texts(draw(top_k=1))


def test_a_text_counts_as_ended_at_another_temperature_too(policy, scorer, prompts):
    texts, close = [" a cat", "", " two words."], policy.ending.close
    ids = [close(policy.tokenizer.encode(text), True) for text in texts]
    starts = [[policy.tokenizer.bos_id, *policy.tokenizer.encode(p)] for p in prompts]
    sequences = [start + own for start, own in zip(starts, ids, strict=True)]
    found = api.log_probs(policy, prompts, texts, temperature=0.5, batch_size=2)
    rows = oracles.log_probs(policy.shape, policy.params, sequences, 0.5)
    for values, row, own in zip(found, rows, ids, strict=True):
        np.testing.assert_allclose(values, row[-len(own) :], rtol=1e-4, atol=1e-4)
    read = [row[-1] for row in oracles.scores(scorer.shape, scorer.params, sequences)]
    scores = api.score(scorer, prompts, texts, missing=-7.0, batch_size=2)
    np.testing.assert_allclose(scores, read, rtol=1e-4, atol=1e-4)


def test_a_sample_is_scored_as_it_was_cut(scorer, prompts, samples):
    asked, answers = flat(prompts, samples)
    encode, bos = scorer.tokenizer.encode, scorer.tokenizer.bos_id
    sequences = [[bos, *encode(p), *a.ids] for p, a in zip(asked, answers, strict=True)]
    read = np.array([row[-1] for row in oracles.scores(scorer.shape, scorer.params, sequences)])
    found = api.score(scorer, asked, answers, batch_size=16)
    np.testing.assert_allclose(found, read, rtol=1e-4, atol=1e-4)
    missing = api.score(scorer, asked, answers, missing=-7.0, batch_size=16)
    ended = np.array([answer.ended for answer in answers])
    np.testing.assert_array_equal(missing, np.where(ended, found, np.float32(-7.0)))


def test_what_a_reward_model_reads_has_no_eos_where_another_token_is_the_end():
    from rlhf_jax.generation.ending import Ending

    assert Ending(eos=2, pad=0, stop=5).read_ids([7, 2]) == (7,)
    assert Ending(eos=2, pad=0).read_ids([7, 2]) == (7, 2)


def test_what_is_not_there_or_does_not_fit_is_named(small_run, policy, scorer, prompts):
    directory = small_run.directory
    here = "dpo, ppo, ppo_ptx, pretrain, reward, sft"
    for run, stage, told in (
        (directory, "prompted", f"'prompted' has no finished model here; .* one are: {here}$"),
        (directory / "none", "sft", "none: 'sft' has no finished model here; .* one are: none$"),
        (directory, "reward", "model.json: kind: expected 'policy', got 'score'"),
    ):
        with pytest.raises(UserError, match=told):
            api.load_policy(run, stage)
    with pytest.raises(UserError, match="kind: expected 'score', got 'policy'"):
        api.load_scorer(directory, "sft")
    long = "a" * 400
    with pytest.raises(ConfigError, match=r"^tokens of prompts\[1\] = \d+: .* = 152$"):
        api.sample(policy, ["a", long], response_length=8)
    with pytest.raises(ConfigError, match=r"^tokens of prompts\[1\] and responses\[1\] = \d+: "):
        api.score(scorer, ["a", "a"], ["", long])
    with pytest.raises(ConfigError, match=r"^len\(responses\) = 1: must be 2, one a prompt"):
        api.log_probs(policy, ["a", "a"], ["b"])
    with pytest.raises(ConfigError, match=r"^prompts = 'a': must be a list of texts"):
        api.score(scorer, "a", ["b"])
    several = api.sample(policy, ["a"], response_length=8, n=2)
    told = r"^responses\[0\] = <list>: must be a text or a Sample; sample\(\) gives a list of n"
    with pytest.raises(ConfigError, match=told):
        api.score(scorer, ["a"], several)
    for length in (0, 160):
        told = rf"^response_length = {length}: must be above 0 and below the model's context = 160$"
        with pytest.raises(ConfigError, match=told):
            api.sample(policy, ["a"], response_length=length)
    assert api.sample(policy, [], response_length=8) == []
    assert api.log_probs(policy, [], []) == [] and api.score(scorer, [], []).shape == (0,)


def ran(block: str) -> tuple[dict, str]:
    """The names that a block leaves, and what it prints."""
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed), jax.numpy_rank_promotion("allow"):
        exec(compile(block, "docs/api.md", "exec"), names)
    return names, printed.getvalue()


def test_the_best_of_four_is_the_page_s(small_run):
    assert len(BLOCKS) == 2 and PAGE.count("```") == 4
    names, printed = ran(BLOCKS[0].replace("runs/quickstart", str(small_run.directory)))
    assert len(printed.splitlines()) == 2
    assert names["best"] in names["samples"][1]
    score, nats = re.match(r"(-?[\d.]+)  (-?[\d.]+) nats", printed.splitlines()[1]).groups()
    assert float(score) == pytest.approx(names["scores"].max(), abs=0.01)
    assert float(nats) == pytest.approx(names["best"].log_probs.sum(), abs=0.1)


def test_an_objective_trains_the_model_of_the_page():
    losses = ran(BLOCKS[1])[0]["losses"]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6) and losses[-1] < 0.3


def test_a_stage_that_was_taken_from_another_run_is_read_there(small_run, policy, tmp_path):
    for name, holds in (("data", ["tokenizer.model"]), ("sft", ["model", "config.json"])):
        taken.take(tmp_path / name, small_run.directory / name, holds)
    found = api.load_policy(tmp_path, "sft")
    assert found.tokenizer.fingerprint == policy.tokenizer.fingerprint
    jax.tree.map(
        np.testing.assert_array_equal,
        found.params,
        api.load_policy(small_run.directory, "sft").params,
    )
    with pytest.raises(UserError, match=r"'ppo' has no finished model here; .* one are: sft$"):
        api.load_policy(tmp_path, "ppo")
