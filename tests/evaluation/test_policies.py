"""Sampled responses keep their prompts' order; KL and scores equal loops."""

import jax
import numpy as np
import pytest

from rlhf_jax.evaluation.policies import Sampler, score_responses
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.reward_model import score_sequences
from tests.data.conftest import Letters
from tests.stages import tiny

PROMPTS = ["ab", "c", "toolongforthis", "def", "z", "gh", "ab"]
LENGTH, RESPONSE = 6, 5


class Characters(Letters):
    """Letters that can be read back; the ids beyond z are the characters beyond it."""

    def decode(self, ids):
        return "".join(chr(ord("a") + i - 4) for i in ids if i > 2)


LETTERS = Characters()


def sampler(temperature, batch_size=3):
    return Sampler(
        tiny.MODEL, LETTERS, SamplingConfig(temperature),
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
    return LETTERS.decode(ids[1 + len(prompt) :])


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
    assert abs(warm.kl(params, params, PROMPTS, jax.random.key(0))) < 1e-5


def test_kl_equals_a_loop_over_the_tokens_distributions_at_the_sampling_temperature(warm):
    policy, reference = tiny.policy_params(1), tiny.policy_params(2)
    total, responses = 0.0, 0
    for batch, rollout in warm.batches(policy, PROMPTS, jax.random.key(0)):
        for row, index in enumerate(batch["index"]):
            if index < 0:
                continue
            responses += 1
            prompt = ids_of(PROMPTS[index])
            ids = prompt + rollout.tokens[row][rollout.mask[row] > 0].tolist()
            logits = [
                np.asarray(p["tokens"], np.float64) @ tiny.sequence_states(p, [ids])[0].T / 0.7
                for p in (policy, reference)
            ]
            for t in range(len(prompt) - 1, len(ids) - 1):
                p, q = (np.exp(x[:, t] - x[:, t].max()) for x in logits)
                p, q = p / p.sum(), q / q.sum()
                total += float((p * np.log(p / q)).sum())
    assert responses == 6
    found = warm.kl(policy, reference, PROMPTS, jax.random.key(0))
    assert found > 0.1
    np.testing.assert_allclose(found, total / responses, rtol=1e-4)


def test_scores_of_responses_equal_scores_of_their_sequences():
    params, kept = tiny.score_params(1), [p for p in PROMPTS if len(p) < LENGTH]
    responses = ["x", "yz", "", "abc", "d", "efgh"]
    sequences = [
        [*ids_of(p), *LETTERS.encode(r), LETTERS.eos_id]
        for p, r in zip(kept, responses, strict=True)
    ]
    score = lambda params, tokens, segments: score_sequences(tiny.MODEL, params, tokens, segments)
    found, cut = score_responses(score, params, kept, responses, LETTERS, batch_size=4, length=12)
    expected = [row[-1] for row in tiny.sequence_scores(params, sequences)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert cut == 0
    found, cut = score_responses(score, params, kept, responses, LETTERS, batch_size=4, length=6)
    shortened = [ids[-6:] for ids in sequences]
    expected = [row[-1] for row in tiny.sequence_scores(params, shortened)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert cut == sum(len(ids) > 6 for ids in sequences) > 0
