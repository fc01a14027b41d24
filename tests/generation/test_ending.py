"""Where a response ends, and one score of it in training, PPO and the report."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.arrays import ranking_rows
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import ConfigError
from rlhf_jax.evaluation.policies import score_responses
from rlhf_jax.generation.decode import Rollout
from rlhf_jax.generation.ending import Ending, EndingConfig, final_scores
from rlhf_jax.objectives.estimator import GAE
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.stages.experience import Experiences
from rlhf_jax.stages.reward_model import score_sequences
from tests.data.conftest import Characters
from tests.stages import tiny

LETTERS = Characters()
EOS, PAD, STOP = 2, 0, 8  # e
ENDINGS = {"eos": Ending(EOS, PAD), "stop": Ending(EOS, PAD, STOP, stop_after=2)}
# (ids, what ends with EOS: text, ids read, ended; the same for what ends with e from column 2 on)
SAMPLED = [
    ([4, 5, 6, EOS], ("abc", [4, 5, 6, EOS], True), ("abc", [4, 5, 6], False)),
    ([8, 4, 5, 6, 7], ("eabcd", [8, 4, 5, 6, 7], False), ("eabcd", [8, 4, 5, 6, 7], False)),
    ([4, 8, 8], None, ("ae", [4, 8, 8], True)),
    ([EOS], ("", [EOS], True), ("", [], False)),
    ([5, 4, 6, 7, 8], ("bacde", [5, 4, 6, 7, 8], False), ("bacd", [5, 4, 6, 7, 8], True)),
]  # fmt: skip
CASES = {
    name: [(row[0], row[column]) for row in SAMPLED if row[column] is not None]
    for column, name in enumerate(ENDINGS, 1)
}
PROMPTS = ["ab", "c", "defgh", "z", "gh"]


@pytest.mark.parametrize("name", ENDINGS)
def test_a_response_and_the_text_of_it_give_a_reward_model_the_same_ids(name):
    ending = ENDINGS[name]
    for ids, (text, read, ended) in CASES[name]:
        response = ending.response(ids, LETTERS)
        assert response == (text, tuple(read), ended)
        assert ending.close(LETTERS.encode(text), ended) == read
        tokens, mask = tiny.right_padded([ids], 6)
        assert ending.ended(tokens, mask).tolist() == [ended]
        seen = np.asarray(ending.read(tokens, mask))
        assert tokens[seen > 0].tolist() == read


def test_an_id_that_the_tokenizer_does_not_have_has_no_text():
    ids = [4, LETTERS.vocab_size, 5, EOS]
    assert ENDINGS["eos"].response(ids, LETTERS) == ("ab", tuple(ids), True)


def test_whole_text_that_already_ends_with_the_stop_token_gets_no_second_one():
    ending = ENDINGS["stop"]
    assert ending.close([4, 5, STOP], ended=True) == [4, 5, STOP]
    assert ending.close([4, STOP], ended=True) == [4, STOP, STOP]  # before the column
    assert ENDINGS["eos"].close([4, 5], ended=True) == [4, 5, EOS]


def test_a_stop_token_is_one_token():
    of = lambda *fields: Ending.of(LETTERS, EndingConfig(*fields))
    assert of(None, 3, -2.0) == Ending(EOS, PAD, missing=-2.0)
    assert of("e", 2, None) == ENDINGS["stop"]
    assert of("e", 2, -2.0) == dataclasses.replace(ENDINGS["stop"], missing=-2.0)
    with pytest.raises(ConfigError, match=r"ending\.stop_token = 'ab': must be one token, .* 2"):
        of("ab")


def test_without_a_tokenizer_an_ending_has_a_stop_where_the_config_has_one():
    """Plans compile with it; the ids are in any vocabulary."""
    planned = Ending.planned(EndingConfig("e", 2, -2.0))
    assert (planned.stop is None, planned.stop_after, planned.missing) == (False, 2, -2.0)
    planned = Ending.planned(EndingConfig(missing_eos_score=None))
    assert (planned.stop, planned.missing) == (None, None)


def test_a_response_must_be_longer_than_the_column_from_which_it_may_stop():
    with pytest.raises(ConfigError, match=r"^stop_after = -1: must be 0 or more"):
        EndingConfig(stop_after=-1)
    ENDINGS["stop"].check(response_length=3)
    with pytest.raises(
        ConfigError, match=r"^response_length = 2: must be above ending\.stop_after = 2$"
    ):
        ENDINGS["stop"].check(response_length=2)
    Ending(EOS, PAD, stop_after=9).check(response_length=2)  # nothing stops but EOS


def test_a_missing_end_scores_what_the_config_says():
    scores, ended = np.float32([0.5, -2]), np.array([True, False])
    np.testing.assert_array_equal(final_scores(scores, ended, None), scores)
    np.testing.assert_array_equal(final_scores(scores, ended, -1.0), np.float32([0.5, -1]))


@functools.cache
def reward():
    return tiny.score_params(4)


def score(params, tokens, segments):
    return score_sequences(tiny.MODEL, params, tokens, segments)


def training_scores(ending, cases):
    """Of the rows that the reward model is trained on, two responses a ranking."""
    found = []
    for prompt, (_, (text, _, ended)) in zip(PROMPTS, cases, strict=False):
        ranking = Ranking(prompt, (text, "x"), (0, 1), (ended, True))
        rows = ranking_rows([ranking], LETTERS, 16, 2, packed=1, close=ending.close)
        batch = rows.to_batch(rows.rows)
        found.append(float(score(reward(), batch["tokens"], batch["segments"])[0, 0]))
    return found


def ppo_scores(ending, cases):
    """Without KL penalty and discount the return at the last token is the score."""
    config = tiny.ppo_config(
        whiten_advantages=False, advantage=GAE(lam=1.0), minibatches=1, batch_size=len(cases),
        kl=FixedController(0.0),
    )  # fmt: skip
    policy = tiny.policy_params(1)
    prompts = [[LETTERS.bos_id, *LETTERS.encode(p)] for p in PROMPTS[: len(cases)]]
    batch = dict(zip(("tokens", "segments"), tiny.left_padded(prompts, 6), strict=True))
    tokens, mask = tiny.right_padded([ids for ids, _ in cases], tiny.RESPONSE)
    mask = jnp.array(mask, jnp.float32)
    state = tiny.state_of(config, policy, tiny.score_params(2))
    run = jax.jit(Experiences(config, tiny.SHAPES, ending).fresh)
    rollout = Rollout(jnp.array(tokens), mask, jnp.zeros_like(mask))
    frozen = tiny.frozen_of(config, policy, policy, reward())
    found, _, metrics = run(state, frozen, batch, rollout, {})
    last = np.asarray(mask.sum(axis=1), int) - 1
    scores = np.asarray(found.returns)[np.arange(len(cases)), last]
    np.testing.assert_allclose(metrics["score"], scores.mean(), atol=1e-5)
    np.testing.assert_allclose(metrics["ended"], np.mean([case[2] for _, case in cases]))
    return scores


@pytest.mark.parametrize("missing", [None, -1.0])
@pytest.mark.parametrize("name", ENDINGS)
def test_training_ppo_and_report_give_a_response_one_score(name, missing):
    ending, cases = dataclasses.replace(ENDINGS[name], missing=missing), CASES[name]
    prompts = PROMPTS[: len(cases)]
    sequences = [
        [LETTERS.bos_id, *LETTERS.encode(prompt), *read]
        for prompt, (_, (_, read, _)) in zip(prompts, cases, strict=True)
    ]
    last = [row[-1] for row in tiny.sequence_scores(reward(), sequences)]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(training_scores(ending, cases), last)
    ended = [case[2] for _, case in cases]
    expected = [s if e or missing is None else -1.0 for s, e in zip(last, ended, strict=True)]
    assert len(set(ended)) == 2
    close(ppo_scores(ending, cases), expected)
    responses = [ending.response(ids, LETTERS) for ids, _ in cases]
    report = score_responses(
        score,
        reward(),
        prompts,
        responses,
        LETTERS,
        missing=ending.missing,
        batch_size=2,
        length=16,
    )
    close(report, expected)
