"""Episodes in shared rows, or with responses that are cut, have the states of episodes alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation.decode import Rollout
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.parallel.runner import JitRunner, layout_of
from rlhf_jax.stages import fitting
from rlhf_jax.stages.experience import Experiences, joined
from rlhf_jax.stages.fitting import WHOLE, Fit, Fitting, last_states, shared_rows
from rlhf_jax.stages.policy_update import initial_state, make_update, minibatch_rows
from rlhf_jax.stages.stage import Build
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
    scoring, update = Fitting(config, orders, buckets, 12)(key, step, segments, mask)
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
    fitting = Fitting(CONFIG, lambda *_: None, 3, None)
    key, step = jax.random.key(0), np.int32(0)
    for longest, size in ((1, 2), (2, 2), (3, 4), (5, 6)):
        cut = mask * (np.arange(6) < longest)
        scoring, update = fitting(key, step, segments, cut)
        expected = WHOLE if size == 6 else Fit(response=size)
        assert scoring == update == expected
    rollout = Rollout(mask, mask, mask)
    assert Fit(response=4).cut(rollout).tokens.shape == (8, 4)
    assert WHOLE.cut(rollout).tokens.shape == (8, 6)


def test_places_are_those_of_the_shared_rows():
    segments = np.ones((8, 12), np.int32)
    assert WHOLE.places(segments, 3) == 96 and Fit(np.zeros(8), 2, 12).places(segments, 3) == 72


def traced_shapes(monkeypatch, scoring, update, config=CONFIG) -> list[tuple[int, ...]]:
    """Of the rows of each forward pass of scoring, and of the update."""
    seen = []

    def hidden(model, params, tokens, segments, *, last=None, **kept):
        seen.append(tokens.shape)
        width = tokens.shape[1] if last is None else last
        return jnp.zeros((len(tokens), width, model.width)) + params["tokens"][0, 0]

    monkeypatch.setattr(fitting.transformer, "hidden", hidden)
    policy, value = tiny.policy_params(), tiny.score_params()
    prompts, segments, tokens, mask = batch()
    rollout = Rollout(tokens, mask.astype(np.float32), mask.astype(np.float32))
    asked = {"tokens": prompts, "segments": segments}
    state = initial_state(config, policy, value, jax.random.key(0))
    frozen = tiny.frozen_of(config, policy, policy, value)
    made = Experiences(config, tiny.SHAPES, tiny.ENDING)
    given = state, frozen, asked, rollout, {}, scoring
    experience, moved, _ = jax.eval_shape(made.fresh, *given)
    counted = len(seen)
    run = make_update(config, tiny.SHAPES)
    jax.eval_shape(run, state, experience, moved, None, frozen.fixed, update)
    assert counted == 4 and len(set(seen[counted:])) == 1  # policy, reference, scorer and values
    return [*dict.fromkeys(seen[:counted]), *dict.fromkeys(seen[counted:])]


def test_scoring_and_update_compute_the_rows_of_their_fit_and_no_others(monkeypatch):
    starts = np.zeros(8, np.int32)
    updates = np.zeros((2, 8), np.int32)
    shapes = traced_shapes(monkeypatch, Fit(starts, 2, 12), Fit(updates, 3, 12))
    assert shapes == [(2, 12), (3, 12)]
    assert traced_shapes(monkeypatch, WHOLE, WHOLE) == [(4, 12)] * 2
    assert traced_shapes(monkeypatch, Fit(response=2), Fit(response=2)) == [(4, 8)] * 2


def test_an_iteration_gives_scoring_and_update_the_rows_of_its_own_responses():
    config, given = tiny.ppo_config(), {}
    tokens, mask = tiny.right_padded(tiny.RESPONSES, tiny.RESPONSE)
    rollout = Rollout(tokens, mask, mask)

    def chosen(key, step, segments, looked):
        np.testing.assert_array_equal(segments, tiny.prompt_batch()["segments"])
        np.testing.assert_array_equal(looked, mask)
        assert (key, step) == ("key", 7)
        return Fit(response=5), Fit(response=3)

    def program(name, result):
        def run(*arguments):
            given[name] = arguments[-1]
            return result

        return run

    told = {"sick_rows": 0, "sampler_gap": 0.0}
    programs = {"rollout": lambda *_: rollout, "experience": program("experience", (0, 0, told)),
                "update": program("update", ("state", {}))}  # fmt: skip
    made = tiny.iteration(config, programs, tiny.frozen_of(config, {}, {}, {"tokens": tokens}))
    made.host = made.host._replace(fetch=lambda rows: rows)
    state = tiny.state_of(config, policy={}, key="key", step=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "fold_in", lambda *_: "folded")
        assert made(state, tiny.asked_batch())[0] == "state"
        assert given == {"experience": WHOLE, "update": WHOLE} and made.size == WHOLE.size
        made.fitting = chosen
        made(state, tiny.asked_batch())
    assert given == {"experience": Fit(response=5), "update": Fit(response=3)}
    assert made.size == Fit(response=5).size


def test_episodes_share_rows_on_one_device_without_the_fused_kernel():
    one, eight = tiny.one_device(), JitRunner(layout_of(jax.devices(), MeshShape(8, 1, 1)))
    build = Build("ppo", tiny.MODEL, dict.fromkeys(("start", "value"), tiny.MODEL), tiny.ENDING)
    kernel = dataclasses.replace(tiny.MODEL, attention="fused")
    mixed = dataclasses.replace(build, shapes={"start": tiny.MODEL, "value": kernel})
    cut = tiny.ppo_config(buckets=3)
    assert cut._fitting(one, build).length == 24 and cut._fitting(one, build).buckets == 3
    assert cut._fitting(eight, build).length is None and cut._fitting(one, mixed).length is None
    assert tiny.ppo_config()._fitting(one, build) is None
    long = tiny.ppo_config(prompt_length=59)._fitting(one, build)  # 65 tokens
    assert (long.buckets, long.length) == (4, 65)
    assert tiny.ppo_config(buckets=3, stale=1)._fitting(one, build) is None
