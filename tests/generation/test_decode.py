"""The decode loop equals the full forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.generation.decode import generate, row_uniforms
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from tests.models.test_transformer import GPT, LLAMA, forward, noisy

EOS, PAD = 2, 0
ENDING = Ending(EOS, PAD)
PROMPTS = np.array([[0, 0, 1, 5, 6], [1, 9, 8, 7, 6], [0, 0, 0, 0, 1]], np.int32)
SEGMENTS = (PROMPTS > 0).astype(np.int32)


@functools.cache
def program(config, **kwargs):
    return jax.jit(functools.partial(generate, config, **kwargs))


def rollout(
    config, params, seed=0, prompts=PROMPTS, segments=SEGMENTS, length=12, ending=ENDING, **kwargs
):
    sampling = SamplingConfig(**kwargs)
    run = program(config, sampling=sampling, response_length=length, ending=ending)
    return run(params, jnp.array(prompts), jnp.array(segments), jax.random.key(seed))


@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_greedy_cached_decode_equals_full_forward(config):
    params = noisy(config)
    ours = rollout(config, params, temperature=0.0)
    for row in range(len(PROMPTS)):
        sequence = list(PROMPTS[row][SEGMENTS[row] > 0])
        for t in range(12):
            tokens = np.zeros((1, 24), np.int32)
            tokens[0, : len(sequence)] = sequence
            logits = forward(config, params, tokens, (tokens > 0).astype(np.int32))
            logits = logits[0, len(sequence) - 1]
            assert ours.tokens[row, t] == np.argmax(logits)
            np.testing.assert_allclose(
                ours.log_probs[row, t], jax.nn.log_softmax(logits).max(), atol=1e-4
            )
            sequence.append(int(ours.tokens[row, t]))
            if sequence[-1] == EOS:
                assert not ours.mask[row, t + 1 :].any()
                break


def test_responses_end_with_eos_and_then_hold_padding():
    params = noisy(GPT)
    ours = rollout(
        GPT, params, prompts=np.repeat(PROMPTS, 30, 0), segments=np.repeat(SEGMENTS, 30, 0)
    )
    lengths = np.asarray(ours.mask.sum(1), int)
    ended = 0
    for tokens, mask, log_probs, n in zip(*(np.asarray(x) for x in ours), lengths, strict=True):
        assert (mask[:n] == 1).all() and (mask[n:] == 0).all()
        assert (tokens[n:] == PAD).all() and (log_probs[n:] == 0).all()
        assert EOS not in tokens[: n - 1]
        ended += tokens[n - 1] == EOS
        assert tokens[n - 1] == EOS or n == 12
    assert ended > 5


def test_a_response_ends_at_the_first_stop_token_at_or_after_the_column():
    """As the longer responses of the same noise, cut by hand: sampling stops there at once."""
    params, after = noisy(GPT), 3
    many = {"prompts": np.repeat(PROMPTS, 30, 0), "segments": np.repeat(SEGMENTS, 30, 0)}
    whole = [np.asarray(x) for x in rollout(GPT, params, **many)]
    stop = int(np.bincount(whole[0].ravel(), minlength=EOS + 1)[EOS + 1 :].argmax()) + EOS + 1
    ours = rollout(GPT, params, ending=Ending(EOS, PAD, stop, after), **many)
    lengths = []
    for tokens, mask in zip(*whole[:2], strict=True):
        stops = [t for t in range(after, int(mask.sum())) if tokens[t] == stop]
        lengths.append(stops[0] + 1 if stops else int(mask.sum()))
    inside = np.arange(12)[None] < np.array(lengths)[:, None]
    np.testing.assert_array_equal(ours.mask, inside)
    np.testing.assert_array_equal(ours.tokens, np.where(inside, whole[0], PAD))
    np.testing.assert_array_equal(ours.log_probs, np.where(inside, whole[2], 0))
    early = (whole[0][:, :after] == stop).any(axis=1)
    assert (inside.sum(1) < whole[1].sum(1)).sum() > 5 and (inside.sum(1)[early] > after).any()


def test_rows_are_sick_whose_logits_were_not_finite_and_no_others():
    """The embedding of one id is NaN: logits are, in a row, from where that id has been read."""
    params, sick = noisy(LLAMA), 9
    params = params | {"tokens": params["tokens"].at[sick].set(jnp.nan)}
    ours = rollout(LLAMA, params, seed=3)
    read = np.concatenate([PROMPTS, np.asarray(ours.tokens)[:, :-1]], axis=1)
    assert ours.sick.tolist() == (read == sick).any(axis=1).tolist() == [False, True, False]


def test_noise_differs_by_row_key_and_step_but_not_by_batch_size():
    few = row_uniforms(jax.random.key(0), jnp.arange(4), 6)
    many = row_uniforms(jax.random.key(0), jnp.arange(9), 6)
    np.testing.assert_array_equal(few, many[:4])
    assert len(np.unique(many)) == many.size
    other = row_uniforms(jax.random.key(1), jnp.arange(4), 6)
    assert not np.isin(other, few).any()


def test_two_rows_with_one_prompt_get_different_responses():
    params = noisy(GPT)
    prompts, segments = np.repeat(PROMPTS[1:2], 8, 0), np.repeat(SEGMENTS[1:2], 8, 0)
    first = rollout(GPT, params, prompts=prompts, segments=segments)
    assert len({tuple(row) for row in np.asarray(first.tokens).tolist()}) > 4
    again = rollout(GPT, params, prompts=prompts, segments=segments)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    other = rollout(GPT, params, seed=1, prompts=prompts, segments=segments)
    assert (np.asarray(first.tokens) != np.asarray(other.tokens)).any()


def test_left_padding_changes_no_response():
    params = noisy(LLAMA)
    wide = np.pad(PROMPTS, ((0, 0), (4, 0)))
    ours = rollout(LLAMA, params, prompts=wide, segments=(wide > 0).astype(np.int32))
    plain = rollout(LLAMA, params)
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    np.testing.assert_allclose(ours.log_probs, plain.log_probs, atol=1e-4)


def test_bfloat16_decode_stays_near_float32():
    params = transformer.init(GPT, jax.random.key(0))
    low = rollout(dataclasses.replace(GPT, compute_dtype="bfloat16"), params)
    high = rollout(GPT, params)
    same = np.asarray(low.tokens) == np.asarray(high.tokens)
    assert same.mean() > 0.8
    np.testing.assert_allclose(low.log_probs[:, 0], high.log_probs[:, 0], atol=0.05)


def test_a_response_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="context = 24: must be >= prompt"):
        rollout(GPT, noisy(GPT), length=20)
