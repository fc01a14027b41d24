"""Decoding with fewer slots than rows: a row that ends gives its slot to the next row.

All prompts are run first, together. The keys and values of a prompt are copied into the cache of a
slot when a slot is free. Rows that lie on one group of devices are a queue of their own and use the
slots of that group, so that no prompt moves to other devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.models import transformer
from rlhf_jax.models.placement import row_groups


class Occupants(NamedTuple):
    """What a slot holds of its row; as a queue, what each row brings: [S, ...] or [B, ...]."""

    row: jax.Array  # its number in its group
    token: jax.Array  # the last that was drawn
    drawn: jax.Array  # how many
    live: jax.Array  # whether the response goes on
    length: jax.Array  # of the prompt
    noise: jax.Array  # [., R]
    cache: transformer.Cache


class State(NamedTuple):
    """The state of the loop."""

    turn: jax.Array  # turns done
    column: jax.Array  # turns done as the ring of columns counts them
    held: Occupants  # of the slots
    next: jax.Array  # [G], the next row of each group's queue
    rollout: Any  # a decode.Rollout


def decode(decoder, decoding, segments, noise, rollout, cache) -> Any:
    """The rollout of rows from one that has their first tokens, and from the cache of their
    prompts. decoder, decoding: of decode.py, as the rollout."""
    return run(decoder, decoding, segments, noise, rollout, cache).rollout


def run(decoder, decoding, segments, noise, rollout, cache) -> State:
    """As `decode`; returns the state at the end."""
    slots, (batch, length) = decoding.slots, noise.shape
    queue = _queue(decoder, segments, noise, rollout.tokens[:, 0], cache)
    groups = row_groups()
    groups = groups if batch % groups == 0 and slots % groups == 0 else 1
    queue = queue._replace(row=queue.row % (batch // groups))
    held = jax.tree.map(lambda x: _first(x, groups, slots // groups), queue)
    count = jnp.full(groups, slots // groups, jnp.int32)
    state = State(jnp.int32(0), jnp.int32(0), held, count, rollout)
    for size in decoding.sizes(length):
        state = _loop(decoder, decoding, queue, groups, _wider(state, segments.shape[1], size))
    return state


def _queue(decoder, segments, noise, token, cache) -> Occupants:
    rows = jnp.arange(len(token), dtype=jnp.int32)
    length = (segments > 0).sum(axis=1)
    live = decoder.goes_on(token, 0)
    return Occupants(rows, token, jnp.ones_like(rows), live, length, noise, cache)


def _loop(decoder, decoding, queue: Occupants, groups: int, state: State) -> State:
    """Turns while a response goes on and the ring holds the longest."""
    batch, length = queue.noise.shape
    prompt_length = transformer.columns_of(queue.cache)
    ring = transformer.columns_of(state.held.cache) - prompt_length
    most, rows = decoding.turns(batch, length), batch // groups
    columns = jnp.arange(prompt_length)[None]

    def turn(state: State) -> State:
        held = state.held
        at = held.drawn[:, None]  # beyond the last column where a whole response has ended
        uniform = jnp.take_along_axis(held.noise, at, axis=1, mode="clip")[:, 0]
        filled = columns >= prompt_length - held.length[:, None]
        token, log_prob, cache = decoder.turn(
            held.token, held.drawn, held.length, filled, state.column, held.cache, uniform
        )
        row = jnp.where(held.live, held.row, rows)  # no row: nothing is written
        ones = jnp.ones(len(token))
        drawn = state.rollout._replace(tokens=token, mask=ones, log_probs=log_prob)
        rollout = jax.tree.map(
            lambda x, value: _written(x, groups, row, held.drawn, value), state.rollout, drawn
        )
        held = held._replace(
            token=token,
            drawn=held.drawn + held.live,
            live=held.live & decoder.goes_on(token, held.drawn),
            cache=cache,
        )
        state = State(state.turn + 1, state.column + 1, held, state.next, rollout)
        return jax.lax.while_loop(can_refill, refill, state)

    def waiting(state: State):
        free = ~state.held.live.reshape(groups, -1)
        return free, free.any(axis=1) & (state.next < rows)

    def can_refill(state: State):
        return waiting(state)[1].any()

    def refill(state: State) -> State:
        """The next row of each group goes to a free slot of the group."""
        free, moves = waiting(state)
        slot = jnp.argmax(free, axis=1)

        def moved(slots, rows):
            new = _taken(rows, groups, state.next)
            old = _taken(slots, groups, slot)[tuple(map(slice, new.shape))]
            chosen = jnp.where(moves.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            return _put(slots, groups, slot, chosen)

        held = jax.tree.map(moved, state.held, queue)
        return state._replace(held=held, next=state.next + moves)

    def more(state: State):
        longest = jnp.where(state.held.live, state.held.drawn, 0).max()
        return (state.turn < most) & (longest > 0) & (longest <= ring)

    state = jax.lax.while_loop(can_refill, refill, state)
    return jax.lax.while_loop(more, turn, state)


def _wider(state: State, prompt_length: int, size: int) -> State:
    """The state with `size` columns in the ring, the oldest first."""
    ring = transformer.columns_of(state.held.cache) - prompt_length
    cache = state.held.cache
    if ring > 0:
        start = prompt_length, state.column % ring
        cache = transformer.turned_cache(cache, *start)
    cache = transformer.longer_cache(cache, size - ring)
    return state._replace(column=jnp.int32(ring), held=state.held._replace(cache=cache))


def _first(x: jax.Array, groups: int, count: int) -> jax.Array:
    """The first `count` rows of each group."""
    rows = x.reshape(groups, -1, *x.shape[1:])[:, :count]
    return rows.reshape(groups * count, *x.shape[1:])


def _taken(x: jax.Array, groups: int, index: jax.Array) -> jax.Array:
    """x [N, ...], the rows of the groups one after the other -> the row at index [G] of each group:
    [G, ...]."""
    if groups == 1:
        return jax.lax.dynamic_slice_in_dim(x, index[0], 1)
    one = lambda rows, i: jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)
    return jax.vmap(one)(x.reshape(groups, -1, *x.shape[1:]), index)


def _put(x: jax.Array, groups: int, index: jax.Array, value: jax.Array) -> jax.Array:
    """The inverse of `_taken`: x with value [G, ...] at index [G] of each group. A value of fewer
    columns is written to the first of them."""

    def one(rows, i, row):
        return jax.lax.dynamic_update_slice(rows, row[None], (i, *[0] * row.ndim))

    if groups == 1:
        return one(x, index[0], value[0])
    return jax.vmap(one)(x.reshape(groups, -1, *x.shape[1:]), index, value).reshape(x.shape)


def _written(x: jax.Array, groups: int, rows, columns, values) -> jax.Array:
    """x [B, R] with a value in the row and column of each slot [S]."""
    split: Any = lambda of: of.reshape(groups, -1, *of.shape[1:])
    one = lambda x, r, c, v: x.at[r, c].set(v.astype(x.dtype), mode="drop")
    return jax.vmap(one)(*map(split, (x, rows, columns, values))).reshape(x.shape)
