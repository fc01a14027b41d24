"""A decoder-only transformer as plain functions of a nested dict of parameters.

Flax Linen describes one block. The loop over layers is written out here, because training scans
over stacked layers while decoding runs them one by one, each with its own cache buffer.
Segments (0 = padding, 1.. = document) give the mask, the packing and the positions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from rlhf_jax.errors import require
from rlhf_jax.models.attention import attention, cached_attention
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.matmul import (
    WeightProduct,
    cache_dtype,
    einsum,
    on_cpu,
    product,
    resolve_dtype,
    transposed,
)
from rlhf_jax.models.placement import place

Params = dict[str, Any]
Cache = list[tuple[jax.Array, jax.Array]]  # per layer: keys [B, KV, hd, S], values [B, KV, S, hd]

# The logical axes of every parameter. A config decides which it has, and `axis_sizes` their sizes.
PARAMETERS = {
    "tokens": ("vocabulary", "width"),
    "positions": ("context", "width"),
    "head": ("vocabulary", "width"),
    "final_norm/scale": ("features",),
    "final_norm/bias": ("features",),
    "blocks/attention_norm/scale": ("layers", "features"),
    "blocks/attention_norm/bias": ("layers", "features"),
    "blocks/qkv": ("layers", "width", "heads", "projections", "head_width"),
    "blocks/qkv_bias": ("layers", "heads", "projections", "head_width"),
    "blocks/out": ("layers", "attended", "width"),
    "blocks/out_bias": ("layers", "features"),
    "blocks/mlp_norm/scale": ("layers", "features"),
    "blocks/mlp_norm/bias": ("layers", "features"),
    "blocks/up": ("layers", "width", "feed_forward"),
    "blocks/up_bias": ("layers", "feed_forward"),
    "blocks/gate": ("layers", "width", "feed_forward"),
    "blocks/gate_bias": ("layers", "feed_forward"),
    "blocks/down": ("layers", "feed_forward", "width"),
    "blocks/down_bias": ("layers", "features"),
}
TOKENS, STREAM = ("rows", "tokens", "width"), ("rows", "spread", "stream")
STATES, LOGITS = ("rows", "spread", "final_width"), ("logit_rows", "spread", "vocabulary")


def _first(name: str, spec: str) -> WeightProduct:
    """The first of two products: the tokens of a row are gathered, and each chip computes its share
    of the heads or of the feed-forward width."""
    weights = PARAMETERS[f"blocks/{name}"][1:]
    shares = ("rows", "tokens", *weights[1:])
    return WeightProduct(spec, TOKENS, weights, shares, STREAM, shares)


def _second(name: str, spec: str) -> WeightProduct:
    """The second of two products: it sums over the chips' shares. The residual stream that the sum
    is added to may be cut along time (Korthikanti et al. 2022)."""
    weights = PARAMETERS[f"blocks/{name}"][1:]
    shares = ("rows", "tokens", weights[0])
    return WeightProduct(spec, shares, weights, STREAM, shares, TOKENS)


PRODUCTS = {  # of a layer, by the name of the matrix
    "qkv": _first("qkv", "btd,dkgh->btkgh"),
    "out": _second("out", "bte,ed->btd"),
    "up": _first("up", "btd,df->btf"),
    "gate": _first("gate", "btd,df->btf"),
    "down": _second("down", "btf,fd->btd"),
}
UNEMBED = WeightProduct("btd,vd->btv", STATES, PARAMETERS["tokens"], LOGITS, STATES, LOGITS)
# What the forward pass keeps for the backward pass, by `TransformerConfig.remat`.
KEPT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
# The backward pass recomputes tanh: one array of the feed-forward width less is kept.
gelu = jax.checkpoint(functools.partial(jax.nn.gelu, approximate=True))


def _shape(config: TransformerConfig, name: str) -> tuple[int, ...]:
    """The shape of a parameter, without the axis over layers."""
    if name not in PARAMETERS:
        raise ValueError(f"parameter {name} has no axes: declare them in PARAMETERS, {__name__}")
    return tuple(config.axis_sizes[axis] for axis in PARAMETERS[name] if axis != "layers")


class Norm(nn.Module):
    """Layer norm, or RMS norm, in float32."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        shape = _shape(self.config, "final_norm/scale")
        if self.config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.config.norm_epsilon)
        x = x * jnp.broadcast_to(self.param("scale", nn.initializers.ones, shape), x.shape)
        if self.config.norm == "layer":
            x = x + jnp.broadcast_to(self.param("bias", nn.initializers.zeros, shape), x.shape)
        return x


class Block(nn.Module):
    """Attention and feed-forward; each reads the normed residual stream and adds to it."""

    config: TransformerConfig

    def _dense(self, name, x, scale=1.0):
        """The product of x with the matrix of this name, plus its bias."""
        c = self.config
        normal, zeros = nn.initializers.normal(0.02 * scale), nn.initializers.zeros
        kernel = self.param(name, normal, _shape(c, f"blocks/{name}"))
        y = einsum(PRODUCTS[name], x, kernel, resolve_dtype(c.compute_dtype))
        if c.biases:
            bias = self.param(f"{name}_bias", zeros, _shape(c, f"blocks/{name}_bias"))
            y = y + jnp.broadcast_to(bias, y.shape)
        return y

    def _project(self, x, positions):
        """Queries [B, KV, G, T, hd], keys and values [B, KV, T, hd]; G queries share a key."""
        c = self.config
        groups = c.heads // c.key_value_heads
        x = Norm(c, name="attention_norm")(x)
        qkv = self._dense("qkv", x)
        qkv = qkv.transpose(0, 2, 3, 1, 4)
        q, k, v = jax.lax.split(qkv, (groups, 1, 1), axis=2)
        if c.positions == "rotary":
            q, k = rotate(q, positions, c.rotary_base), rotate(k, positions, c.rotary_base)
        return q, k[:, :, 0], v[:, :, 0]

    def _mix(self, x, attended, drop):
        c = self.config
        depth_scale = (2 * c.layers) ** -0.5
        batch, time = attended.shape[:2]
        attended = place(attended, ("rows", "time", "heads", "groups", "head_width"))
        out = self._dense("out", attended.reshape(batch, time, c.width), depth_scale)
        x = x + drop(out)
        y = Norm(c, name="mlp_norm")(x)
        up = self._dense("up", y)
        if c.activation == "swiglu":
            gate = self._dense("gate", y)
            up = jax.nn.silu(gate) * up
        else:
            up = gelu(up)
        down = self._dense("down", up, depth_scale)
        return place(x + drop(down), STREAM)

    @nn.compact
    def __call__(self, x, visible, positions, last=None, training=False, cached=None, column=None):
        """One layer over x [B, T, D]: (output, (keys, values)).

        visible: [B, T, S], true where a query attends to a key. last: computes only the last `last`
        queries. cached, column: attends to these keys and values; x's own are written at `column`.
        """
        rate = self.config.dropout if training else 0.0
        drop = nn.Dropout(rate, deterministic=rate == 0.0)
        dtype = resolve_dtype(self.config.compute_dtype)
        q, k, v = self._project(x, positions)
        if cached is not None:
            keys, values = cached
            k, v = _cached(self.config, k), _cached(self.config, v)
            k = jax.lax.dynamic_update_slice_in_dim(keys, k.swapaxes(2, 3), column, axis=3)
            v = jax.lax.dynamic_update_slice_in_dim(values, v, column, axis=2)
            return self._mix(x, cached_attention(q, k, v, visible, dtype), drop), (k, v)
        if last is not None:
            x, q, visible = x[:, -last:], q[:, :, :, -last:], visible[:, -last:]
        return self._mix(x, attention(q, k, v, visible, dtype), drop), (k, v)


def _cached(config, x):
    """x rounded to the compute dtype and stored in the cache's dtype."""
    dtype = config.compute_dtype
    return x.astype(resolve_dtype(dtype)).astype(cache_dtype(dtype))


def rotate(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
    """Rotary position embedding of x [B, KV, G, T, hd] (Su et al. 2021); rotates the two halves."""
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[:, None, None, :, None] * frequency[None, None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def positions_of(segments: jax.Array) -> jax.Array:
    """Position of each token inside its segment: [B, T] int32, from 0 in every segment."""
    time = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return time - jax.lax.cummax(jnp.where(starts, time, 0), axis=1)


def visible_pairs(segments: jax.Array) -> jax.Array:
    """[B, T, T], true where query t attends to key s: s <= t, both in the same segment."""
    same = segments[:, :, None] == segments[:, None, :]
    return same & jnp.tri(segments.shape[1], dtype=bool)[None]


def init(config: TransformerConfig, key: jax.Array) -> Params:
    """Float32 parameters from normal(0.02), in residual projections divided by sqrt(2 x layers)
    (Radford et al. 2019). Blocks are stacked over a leading layer axis."""
    token_key, position_key, head_key, block_key = jax.random.split(key, 4)
    x = jnp.zeros((1, 1, config.width))
    visible, positions = jnp.ones((1, 1, 1), bool), jnp.zeros((1, 1), jnp.int32)
    block = lambda k: Block(config).init(k, x, visible, positions)["params"]
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
    return params


def layers(params: Params) -> list[Params]:
    """The parameters of each block.

    `lax.split` instead of indexing: its gradient is one concatenation, not a sum of padded layers.
    """
    stacked, tree = jax.tree.flatten(params["blocks"])
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
) -> jax.Array:
    """Normed hidden states [B, T, D] (float32), or [B, last, D] with `last`.

    Args:
      tokens: [B, T] ids.
      segments: [B, T] ints, 0 = padding, documents numbered from 1.
      last: returns the last positions only; the final layer skips its other queries.
      dropout_key: turns dropout on.
    """
    require(tokens.shape[1] <= config.context, "context", config.context, f">= {tokens.shape[1]}")
    positions, visible = positions_of(segments), visible_pairs(segments)

    def block(x, params, key, *, last=None):
        rngs = None if key is None else {"dropout": key}
        x, _ = Block(config).apply(
            {"params": params}, x, visible, positions, last, key is not None, rngs=rngs
        )
        return x

    def run(x, params, key, last=None):
        once = functools.partial(block, last=last)
        if config.remat != "off":
            once = jax.checkpoint(once, policy=KEPT[config.remat])
        return once(x, params, key)

    keys = None if dropout_key is None else jax.random.split(dropout_key, config.layers)
    x = _embed(config, params, tokens, positions)
    if config.scan_layers:
        x, _ = jax.lax.scan(lambda x, one: (run(x, *one), None), x, (params["blocks"], keys))
        x = x if last is None else x[:, -last:]
    else:
        for i, block_params in enumerate(layers(params)):
            only = last if i == config.layers - 1 else None
            x = run(x, block_params, None if keys is None else keys[i], only)
    return Norm(config).apply({"params": params["final_norm"]}, x)


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
    return checkpoint_name(found, "logits")


def for_decoding(config: TransformerConfig, params: Params) -> Params:
    """The parameters with matrices cast to the compute dtype, and on CPUs with "columns", the
    transposed head, so that no decode step repeats this work."""
    dtype = resolve_dtype(config.compute_dtype)
    small = {"attention_norm", "mlp_norm", "final_norm", "positions", "score"}

    def cast(path, leaf):
        names = {entry.key for entry in path}
        keep = names & small or path[-1].key.endswith("bias")
        return leaf if keep else leaf.astype(dtype)

    params = jax.tree_util.tree_map_with_path(cast, params)
    return {**params, "columns": transposed(head_matrix(config, params))} if on_cpu() else params


def prefill(
    config: TransformerConfig, params: Params, tokens: jax.Array, segments: jax.Array, room: int
) -> tuple[jax.Array, Cache]:
    """Runs left-padded prompts [B, P]: hidden states [B, 1, D] of the last token, and a cache.

    The cache holds P + room columns, with one pair of buffers for each layer.
    """
    total = tokens.shape[1] + room
    require(total <= config.context, "context", config.context, f">= prompt + response = {total}")
    positions, visible = positions_of(segments), visible_pairs(segments)
    x, cache = _embed(config, params, tokens, positions), []
    for i, block_params in enumerate(layers(params)):
        last = 1 if i == config.layers - 1 else None
        x, (k, v) = Block(config).apply({"params": block_params}, x, visible, positions, last)
        pad = ((0, 0), (0, 0), (0, room), (0, 0))
        k, v = (jnp.pad(_cached(config, x), pad) for x in (k, v))
        keys = place(k.swapaxes(2, 3), ("cache_rows", "heads", "head_width", "columns"))
        cache.append((keys, place(v, ("cache_rows", "heads", "columns", "head_width"))))
    return Norm(config).apply({"params": params["final_norm"]}, x), cache


def decode_step(
    config: TransformerConfig,
    blocks: list[Params],
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    visible: jax.Array,
    column: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Hidden states [B, 1, D] of one token per row, tokens [B], and the cache with their keys and
    values at `column`.

    blocks: the parameters of each layer, unstacked once outside the decode loop.
    visible: [B, S], true at the columns that each row attends to, `column` included.
    """
    x = _embed(config, params, tokens[:, None], positions[:, None])
    new_cache = []
    for block, cached in zip(blocks, cache, strict=True):
        x, pair = Block(config).apply(
            {"params": block}, x, visible[:, None], positions[:, None],
            cached=cached, column=column,
        )  # fmt: skip
        new_cache.append(pair)
    return Norm(config).apply({"params": params["final_norm"]}, x), new_cache
