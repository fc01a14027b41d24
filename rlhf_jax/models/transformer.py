"""A decoder-only transformer as plain functions of a nested dict of parameters.

Flax Linen describes one block (models/block.py). The loop over layers is written out here, because
training scans over stacked layers while decoding runs them one by one, each with its own cache
buffer.
Segments (0 = padding, 1.. = document) give the mask, the packing and the positions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rlhf_jax.errors import require
from rlhf_jax.models import lora, parts, splash
from rlhf_jax.models.attention import HIDDEN, View, fused, left_aligned, view_of
from rlhf_jax.models.block import PARAMETERS, PRODUCTS, STREAM, Block, Norm, for_cache
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.matmul import (
    WeightProduct,
    einsum,
    on_cpu,
    on_gpu,
    product,
    resolve_dtype,
    transposed,
)
from rlhf_jax.models.placement import place, placed

Params = dict[str, Any]
Cache = list[tuple[jax.Array, jax.Array]]  # per layer: keys [B, KV, hd, S], values [B, KV, S, hd]

STATES, LOGITS = ("rows", "spread", "final_width"), ("logit_rows", "spread", "vocabulary")
UNEMBED = WeightProduct("btd,vd->btv", STATES, PARAMETERS["tokens"], LOGITS, STATES, LOGITS)
# What the forward pass keeps for the backward pass, by `TransformerConfig.remat`.
OF_KERNEL = jax.checkpoint_policies.save_only_these_names(splash.RESULTS)
KEPT = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, OF_KERNEL
    ),
    "full": OF_KERNEL,
}


def positions_of(segments: jax.Array) -> jax.Array:
    """Position of each token inside its segment: [B, T] int32, from 0 in every segment."""
    time = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return time - jax.lax.cummax(jnp.where(starts, time, 0), axis=1)


def init(config: TransformerConfig, key: jax.Array) -> Params:
    """Float32 parameters from normal(0.02), in residual projections divided by sqrt(2 x layers)
    (Radford et al. 2019). Blocks are stacked over a leading layer axis."""
    token_key, position_key, head_key, block_key = jax.random.split(key, 4)
    x = jnp.zeros((1, 1, config.width))
    ones, positions = jnp.ones((1, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)
    block = lambda k: Block(config).init(k, x, view_of(ones), positions)["params"]
    normal = lambda k, *shape: 0.02 * jax.random.normal(k, shape)
    params = {
        "tokens": normal(token_key, config.vocab_size, config.width),
        "blocks": jax.vmap(block)(jax.random.split(block_key, config.layers)),
        "final_norm": Norm(config).init(key, x)["params"],
    }
    if config.positions == "learned":
        params["positions"] = normal(position_key, config.context, config.width)
    if not config.tied_embeddings:
        params["head"] = normal(head_key, config.vocab_size, config.width)
    if config.lora is not None:
        adapter = lora.init(config.lora, params["blocks"], jax.random.fold_in(key, 4))
        params = parts.merge(params, adapter)
    return params


def layers(params: Params) -> list[Params]:
    """The parameters of each block."""
    return unstacked(params["blocks"])


def unstacked(tree: Any) -> list[Any]:
    """The tree of each layer; its leaves have a leading layer axis.

    `lax.split` instead of indexing: its gradient is one concatenation, not a sum of padded layers.
    """
    stacked, tree = jax.tree.flatten(tree)
    split = [jax.lax.split(leaf, [1] * len(leaf)) for leaf in stacked]
    return [tree.unflatten([x[0] for x in leaves]) for leaves in zip(*split, strict=True)]


def decoding_layers(params: Params) -> list[Params]:
    """`layers` with matrices laid out for products with one token per row."""

    def placed(name, leaf):
        return place(leaf, PRODUCTS[name].weights, "decoding") if name in PRODUCTS else leaf

    return [{name: placed(name, leaf) for name, leaf in block.items()} for block in layers(params)]


def _embed(config, params, tokens, positions):
    x = place(params["tokens"][tokens], ("lookup_rows", "lookup_tokens", "lookup_width"))
    # One axis at a time, otherwise the compiler gathers the whole table.
    x = place(x, ("lookup_rows", "half_tokens", "half_width")).astype(jnp.float32)
    if config.scaled_embeddings:
        x = x * config.width**0.5
    if config.positions == "learned":
        x = x + params["positions"][positions]
    return place(x, STREAM)


def hidden(
    config: TransformerConfig,
    params: Params,
    tokens: jax.Array,
    segments: jax.Array,
    *,
    last: int | None = None,
    dropout_key: jax.Array | None = None,
    packed: bool = True,
) -> jax.Array:
    """Normed hidden states [B, T, D] (float32), or [B, last, D] with `last`.

    Args:
      tokens: [B, T] ids.
      segments: [B, T] ints, 0 = padding, documents numbered from 1.
      last: returns the last positions only; the final layer skips its other queries.
      dropout_key: turns dropout on.
      packed: whether a row may hold several segments. False allows the fused kernel: the states of
        padding differ then, and those of a row that holds several segments are NaN.
    """
    require(tokens.shape[1] <= config.context, "context", config.context, f">= {tokens.shape[1]}")
    if not packed and fused(config, tokens.shape[1]):
        return _right_padded(config, params, tokens, segments, last, dropout_key)
    views = _views(config, segments)
    return _states(config, params, tokens, positions_of(segments), views, last, dropout_key)


def hidden_of_branches(
    config: TransformerConfig,
    params: Params,
    tokens: jax.Array,
    branches: jax.Array,
    positions: jax.Array,
) -> jax.Array:
    """Normed hidden states [B, T, D] of rows that hold a prompt and several continuations of it.

    A token attends to the prompt (branch 0) and to its own branch, as far as they stand before it:
    the states are those of rows that hold the prompt and one continuation each.

    Args:
      tokens: [B, T] ids.
      branches: [B, T] ints, -1 = padding, 0 = prompt, continuations numbered from 1.
      positions: [B, T] ints; each continuation begins at the position after the prompt's last.
    """
    own = branches[:, :, None] == branches[:, None, :]
    prompt = (branches == 0)[:, None, :]
    seen = (own | prompt) & jnp.tri(tokens.shape[1], dtype=bool)[None]
    apart = positions[:, :, None] - positions[:, None, :]

    def view(window):
        visible = seen if window is None else seen & (apart < window)
        return View(None, visible, window)

    kinds = {config.is_local(layer) for layer in range(config.layers)}
    views = {local: view(config.window if local else None) for local in kinds}
    return _states(config, params, tokens, positions, views, None, None)


def _right_padded(config, params, tokens, segments, last, dropout_key):
    """`hidden` of rows shifted such that the fused kernel can compute them, shifted back."""
    columns, tokens, segments, single = left_aligned(tokens, segments)
    positions = positions_of(segments)
    x = _states(config, params, tokens, positions, {False: None}, None, dropout_key)
    columns = columns if last is None else columns[:, -last:]
    x = jnp.take_along_axis(x, columns[:, :, None], axis=1)
    return jnp.where(single[:, None, None], x, jnp.nan)


# `hidden` of tokens that attend to what the views say.
def _states(config, params, tokens, positions, views, last, dropout_key):
    def block(x, params, key, local, last):
        rngs = None if key is None else {"dropout": key}
        x, _ = Block(config, local).apply(
            {"params": params}, x, views[local], positions, last, key is not None, rngs=rngs
        )
        return x

    def run(x, params, key, local, last=None):
        once = functools.partial(block, local=local, last=last)
        if config.remat != "off":
            once = jax.checkpoint(once, policy=KEPT[config.remat])
        return once(x, params, key)

    keys = None if dropout_key is None else jax.random.split(dropout_key, config.layers)
    x = _embed(config, params, tokens, positions)
    if config.scan_layers:
        x = _scan(config, run, x, (params["blocks"], keys))
        x = x if last is None else x[:, -last:]
    else:
        for i, block_params in enumerate(layers(params)):
            only = last if i == config.layers - 1 else None
            key = None if keys is None else keys[i]
            x = run(x, block_params, key, config.is_local(i), only)
    return Norm(config).apply({"params": params["final_norm"]}, x)


def _views(config, segments):
    """What tokens attend to, by whether a layer has the window."""
    kinds = {config.is_local(layer) for layer in range(config.layers)}
    return {local: view_of(segments, config.window if local else None) for local in kinds}


def _scan(config, run, x, blocks):
    """`run` over the layers as a loop. Where layers are of two kinds, a turn runs one period."""
    period = config.period
    if period == 1:
        one = lambda x, block: (run(x, *block, config.is_local(0)), None)
        return jax.lax.scan(one, x, blocks)[0]
    looped = config.layers // period * period

    def several(x, blocks):
        for i, block in enumerate(unstacked(blocks)):
            x = run(x, *block, config.is_local(i))
        return x, None

    turns = lambda leaf: leaf[:looped].reshape(-1, period, *leaf.shape[1:])
    x, _ = jax.lax.scan(several, x, jax.tree.map(turns, blocks))
    for i in range(looped, config.layers):
        x = run(x, *jax.tree.map(lambda leaf, i=i: leaf[i], blocks), config.is_local(i))
    return x


def head_matrix(config: TransformerConfig, params: Params) -> jax.Array:
    """The [V, D] matrix that turns hidden states into logits."""
    return params["tokens"] if config.tied_embeddings else params["head"]


def logits(config: TransformerConfig, params: Params, hidden_states: jax.Array) -> jax.Array:
    """Logits [B, T, V] (float32) of hidden states [B, T, D]."""
    dtype = resolve_dtype(config.compute_dtype)
    if "columns" in params:
        found = product("btd,dv->btv", hidden_states.astype(dtype), params["columns"])
    else:
        found = einsum(UNEMBED, hidden_states, head_matrix(config, params), dtype)
    if config.logit_softcap is not None:
        found = config.logit_softcap * jnp.tanh(found / config.logit_softcap)
    return checkpoint_name(found, "logits")


def wide_logits(config: TransformerConfig, params: Params, hidden_states: jax.Array) -> jax.Array:
    """`logits` for losses. On GPUs columns of -1e30 follow, up to a multiple of 128."""
    more = -config.vocab_size % 128 if on_gpu() and not placed() else 0
    given = config, params, hidden_states
    return _wider(*given, more) if more else logits(*given)


# Products with matrices whose rows are not aligned take almost three times as long on GPUs.
def _wider(config, params, hidden_states, more):
    name = "tokens" if config.tied_embeddings else "head"
    matrix = jnp.pad(params[name], ((0, more), (0, 0)))
    found = logits(config, {**params, name: matrix}, hidden_states)
    return jnp.where(jnp.arange(found.shape[-1]) < config.vocab_size, found, HIDDEN)


def for_decoding(config: TransformerConfig, params: Params) -> Params:
    """The parameters with the adapter merged into the matrices, matrices cast to the compute dtype,
    and on CPUs with "columns", the transposed head, so that no decode step repeats this work."""
    if "lora" in params["blocks"]:
        params = lora.merged(config.lora, params)
    dtype = resolve_dtype(config.compute_dtype)

    def cast(path, leaf):
        names = [entry.key for entry in path]
        keep = any(n.endswith(("norm", "bias")) or n in ("positions", "score") for n in names)
        return leaf if keep else leaf.astype(dtype)

    params = jax.tree_util.tree_map_with_path(cast, params)
    return {**params, "columns": transposed(head_matrix(config, params))} if on_cpu() else params


def prefill(
    config: TransformerConfig, params: Params, tokens: jax.Array, segments: jax.Array, room: int
) -> tuple[jax.Array, Cache]:
    """Runs left-padded prompts [B, P]: hidden states [B, 1, D] of the last token, and a cache.

    The cache holds P + room columns, with one pair of buffers for each layer.
    """
    positions, views = positions_of(segments), _views(config, segments)
    x, cache = _embed(config, params, tokens, positions), []
    for i, block_params in enumerate(layers(params)):
        last = 1 if i == config.layers - 1 else None
        local = config.is_local(i)
        block = Block(config, local)
        x, (k, v) = block.apply({"params": block_params}, x, views[local], positions, last)
        cache.append((for_cache(config, k).swapaxes(2, 3), for_cache(config, v)))
    return Norm(config).apply({"params": params["final_norm"]}, x), longer_cache(cache, room)


def columns_of(cache: Cache) -> int:
    """The number of columns of a cache."""
    return cache[0][0].shape[3]


def longer_cache(cache: Cache, more: int) -> Cache:
    """The cache with `more` empty columns at its end."""
    longer = []
    for keys, values in cache:
        keys = jnp.pad(keys, ((0, 0), (0, 0), (0, 0), (0, more)))
        values = jnp.pad(values, ((0, 0), (0, 0), (0, more), (0, 0)))
        keys = place(keys, ("cache_rows", "heads", "head_width", "columns"))
        longer.append((keys, place(values, ("cache_rows", "heads", "columns", "head_width"))))
    return longer


def turned_cache(cache: Cache, start: int, by: jax.Array) -> Cache:
    """The cache with its columns from `start` on turned left by `by` columns."""

    def turned(x, axis):
        still, ring = jnp.split(x, [start], axis=axis)
        return jnp.concatenate([still, jnp.roll(ring, -by, axis=axis)], axis=axis)

    return [(turned(keys, 3), turned(values, 2)) for keys, values in cache]


def decode_step(
    config: TransformerConfig,
    blocks: list[Params],
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    visible: jax.Array,
    ages: jax.Array,
    column: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Hidden states [B, 1, D] of one token per row, tokens [B], and the cache with their keys and
    values at `column`.

    blocks: the parameters of each layer, unstacked once outside the decode loop.
    visible: [B, S], true at the columns that each row attends to, `column` included.
    ages: [B, S], how many tokens the token of a column lies before this one. Layers with a window
        attend to the visible columns whose age is less.
    """
    x = _embed(config, params, tokens[:, None], positions[:, None])
    near = visible
    if config.window is not None:
        near = visible & (ages < config.window)
    new_cache = []
    for i, (block, cached) in enumerate(zip(blocks, cache, strict=True)):
        local = config.is_local(i)
        x, pair = Block(config, local).apply(
            {"params": block}, x, (near if local else visible)[:, None], positions[:, None],
            cached=cached, column=column,
        )  # fmt: skip
        new_cache.append(pair)
    return Norm(config).apply({"params": params["final_norm"]}, x), new_cache
