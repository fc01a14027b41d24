"""Episodes in shared rows, or with responses that are cut, have the states of episodes alone."""

import functools

import jax
import numpy as np
import pytest

from rlhf_jax.generation.decode import Rollout
from rlhf_jax.stages.experience import joined
from rlhf_jax.stages.fitting import WHOLE, Fit, Fitting, last_states, shared_rows
from rlhf_jax.stages.policy_update import minibatch_rows
from tests.stages import tiny

LENGTHS = np.array([6, 12, 2, 10, 4, 7, 8, 7])  # of tiny's prompts with their responses
CONFIG = tiny.ppo_config(minibatches=1, micro_batches=2)


def batch():
    """(prompts' tokens and segments, responses' tokens and mask), of NumPy."""
    return *tiny.left_padded(tiny.PROMPTS, 6), *tiny.right_padded(tiny.RESPONSES, tiny.RESPONSE)


def test_each_piece_fills_rows_of_its_own():
    starts, rows = shared_rows(LENGTHS, 2, 12)
    taken = [set(), set()]
    for b, (start, length) in enumerate(zip(starts.tolist(), LENGTHS.tolist(), strict=True)):
        places = range(start, start + length)
        assert places[0] // 12 == places[-1] // 12  # no episode goes on in the next row
        assert taken[b % 2].isdisjoint(places)
        taken[b % 2] |= set(places)
    assert rows == 4 == max(taken[1]) // 12 + 1 and max(taken[0]) // 12 + 1 == 2


def test_states_in_shared_rows_are_those_of_episodes_alone():
    prompts, segments, tokens, mask = batch()
    tokens, segments = joined(
        {"tokens": prompts, "segments": segments}, Rollout(tokens, mask, mask)
    )
    starts, rows = shared_rows(LENGTHS, 1, 12)
    params, last = tiny.policy_params(1), tiny.RESPONSE + 1
    run = jax.jit(functools.partial(last_states, tiny.MODEL), static_argnums=3)
    alone, shared = (
        np.asarray(run(params, tokens, segments, last, fit))
        for fit in (WHOLE, Fit(starts, rows, 12))
    )
    there = np.asarray(segments)[:, -last:] > 0
    assert rows == 6 and there.sum() == LENGTHS.sum() - sum(len(p) - 1 for p in tiny.PROMPTS)
    np.testing.assert_allclose(shared[there], alone[there], atol=1e-5)


@pytest.mark.parametrize("buckets, rows", [(4, 4), (1, 0)], ids=["four sizes", "one size"])
def test_scoring_and_updates_take_the_smallest_rows_that_hold_every_piece(buckets, rows):
    """The update's pieces are those of the minibatches in the order that the update draws."""
    _, segments, _, mask = batch()
    mask = mask * (np.arange(6) < 2)  # short responses: 45 tokens in all, with the prompts
    lengths = mask.sum(1) + segments.sum(1)
    config = tiny.ppo_config(minibatches=1, micro_batches=1)
    orders = functools.partial(minibatch_rows, config)
    key, step = jax.random.key(3), np.int32(5)
    scoring, update = Fitting(config, orders, buckets, True)(key, step, segments, mask)
    if not rows:
        assert scoring is WHOLE and update is WHOLE
        return
    assert scoring.size == update.size == (rows, 12, None)
    np.testing.assert_array_equal(scoring.starts, shared_rows(lengths, 1, 12)[0])
    drawn = np.asarray(orders(key, step))
    assert drawn.shape == update.starts.shape == (2, 8)
    for order, starts in zip(drawn, update.starts, strict=True):
        assert sorted(order) == list(range(8))
        np.testing.assert_array_equal(starts, shared_rows(lengths[order], 1, 12)[0])


def test_responses_are_cut_to_the_smallest_size_that_holds_the_longest():
    _, segments, _, mask = batch()
    fitting = Fitting(CONFIG, lambda *_: None, 3, False)
    key, step = jax.random.key(0), np.int32(0)
    for longest, size in ((1, 2), (2, 2), (3, 4), (5, 6)):
        cut = mask * (np.arange(6) < longest)
        scoring, update = fitting(key, step, segments, cut)
        expected = WHOLE if size == 6 else Fit(response=size)
        assert scoring == update == expected
    rollout = Rollout(mask, mask, mask)
    assert Fit(response=4).cut(rollout).tokens.shape == (8, 4)
    assert WHOLE.cut(rollout).tokens.shape == (8, 6)
