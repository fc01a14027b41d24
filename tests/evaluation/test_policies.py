"""Sampled responses keep their prompts' order; KL and scores equal loops."""

import jax
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.policies import Sampler, score_responses
from rlhf_jax.generation.ending import Response
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.reward_model import score_sequences
from tests.data.conftest import Characters
from tests.stages import tiny

PROMPTS = ["ab", "c", "toolongforthis", "def", "z", "gh", "ab"]
LENGTH, RESPONSE = 6, 5


LETTERS = Characters()


def sampler(temperature, batch_size=3):
    return Sampler(
        tiny.MODEL, LETTERS, SamplingConfig(temperature), tiny.ENDING,
        prompt_length=LENGTH, response_length=RESPONSE, batch_size=batch_size,
    )  # fmt: skip


def ids_of(prompt):
    return [LETTERS.bos_id, *LETTERS.encode(prompt)]


def greedy_loop(params, prompt):
    ids = ids_of(prompt)
    for _ in range(RESPONSE):
        states = tiny.sequence_states(params, [ids])[0]
        ids.append(int(np.argmax(np.asarray(params["tokens"], np.float64) @ states[-1])))
        if ids[-1] == LETTERS.eos_id:
            break
    return tiny.ENDING.response(ids[1 + len(prompt) :], LETTERS)


@pytest.mark.parametrize("batch_size", [3, 7])
def test_greedy_responses_come_in_the_prompts_order_whatever_the_batch_size(batch_size):
    params = tiny.policy_params(1)
    found = sampler(0.0, batch_size).responses(params, PROMPTS, jax.random.key(0))
    expected = [greedy_loop(params, p) if len(p) < LENGTH else None for p in PROMPTS]
    assert found == expected
    assert found[0] == found[6] and len(set(found)) > 4


@pytest.fixture(scope="module")
def warm():
    return sampler(0.7)


def test_noise_is_each_row_s_own_and_more_prompts_change_no_response_before(warm):
    params, key = tiny.policy_params(1), jax.random.key(0)
    found = warm.responses(params, ["ab"] * 9, key)
    assert len(set(found)) == 9
    assert warm.responses(params, ["ab"] * 4, key) == found[:4]
    assert warm.responses(params, ["ab"] * 4, jax.random.key(1)) != found[:4]


def test_kl_of_a_policy_to_itself_is_zero(warm):
    params = tiny.policy_params(1)
    found = warm.kl(params, params, PROMPTS, jax.random.key(0))
    np.testing.assert_allclose(found, [0, 0, np.nan, 0, 0, 0, 0], atol=1e-5)


def test_kl_equals_a_loop_over_the_tokens_distributions_at_the_sampling_temperature(warm):
    policy, reference = tiny.policy_params(1), tiny.policy_params(2)
    expected = np.full(len(PROMPTS), np.nan)
    for batch, rollout in warm.batches(policy, PROMPTS, jax.random.key(0)):
        for row, index in enumerate(batch["index"]):
            if index < 0:
                continue
            expected[index] = 0.0
            prompt = ids_of(PROMPTS[index])
            ids = prompt + rollout.tokens[row][rollout.mask[row] > 0].tolist()
            logits = [
                np.asarray(p["tokens"], np.float64) @ tiny.sequence_states(p, [ids])[0].T / 0.7
                for p in (policy, reference)
            ]
            for t in range(len(prompt) - 1, len(ids) - 1):
                p, q = (np.exp(x[:, t] - x[:, t].max()) for x in logits)
                p, q = p / p.sum(), q / q.sum()
                expected[index] += float((p * np.log(p / q)).sum())
    found = warm.kl(policy, reference, PROMPTS, jax.random.key(0))
    assert np.nanmean(found) > 0.1 and np.isnan(found).tolist() == [
        p == PROMPTS[2] for p in PROMPTS
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_policy_whose_logits_are_not_finite_is_refused(warm):
    params = tiny.policy_params(1)
    params = params | {"tokens": params["tokens"].at[LETTERS.encode("z")[0]].set(np.nan)}
    with pytest.raises(UserError, match=r"^3 of 3 responses were drawn from logits that"):
        warm.responses(params, ["ab", "c", "def"], jax.random.key(0))


def test_scores_of_responses_equal_scores_of_their_sequences():
    """Of the sampled ids, whatever their text would be encoded as."""
    params, kept = tiny.score_params(1), [p for p in PROMPTS if len(p) < LENGTH]
    cut = (False, True, True, False, False, True)
    rows = ([27, 2], [28, 29], [], [4, 5, 6, 2], [7, 2], [8, 9, 10, 11])
    responses = [Response("?", tuple(ids), not c) for ids, c in zip(rows, cut, strict=True)]
    score = lambda params, tokens, segments: score_sequences(tiny.MODEL, params, tokens, segments)
    found = score_responses(
        score, params, kept, responses, LETTERS, missing=-1.0, batch_size=4, length=12
    )
    sequences = [[*ids_of(p), *ids] for p, ids in zip(kept, rows, strict=True)]
    last = [row[-1] for row in tiny.sequence_scores(params, sequences)]
    expected = [-1 if c else value for c, value in zip(cut, last, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"^prompt 6: 7 tokens with its response, must be 6"):
        score_responses(
            score, params, kept, responses, LETTERS, missing=None, batch_size=4, length=6
        )
