"""One layer of the transformer, and the logical axes of every parameter."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from rlhf_jax.models import lora
from rlhf_jax.models.attention import (
    attention,
    by_segments,
    cached_attention,
    fused_attention,
)
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.matmul import (
    WeightProduct,
    cache_dtype,
    einsum,
    on_gpu,
    resolve_dtype,
    result_dtype,
)
from rlhf_jax.models.placement import place
from rlhf_jax.models.rotary import frequencies, rotate

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
    "blocks/q_norm/scale": ("layers", "head_width"),
    "blocks/q_norm/bias": ("layers", "head_width"),
    "blocks/k_norm/scale": ("layers", "head_width"),
    "blocks/k_norm/bias": ("layers", "head_width"),
    "blocks/out": ("layers", "attended", "width"),
    "blocks/out_bias": ("layers", "features"),
    "blocks/attention_out_norm/scale": ("layers", "features"),
    "blocks/attention_out_norm/bias": ("layers", "features"),
    "blocks/mlp_norm/scale": ("layers", "features"),
    "blocks/mlp_norm/bias": ("layers", "features"),
    "blocks/up": ("layers", "width", "feed_forward"),
    "blocks/up_bias": ("layers", "feed_forward"),
    "blocks/gate": ("layers", "width", "feed_forward"),
    "blocks/gate_bias": ("layers", "feed_forward"),
    "blocks/down": ("layers", "feed_forward", "width"),
    "blocks/down_bias": ("layers", "features"),
    "blocks/mlp_out_norm/scale": ("layers", "features"),
    "blocks/mlp_out_norm/bias": ("layers", "features"),
}
PARAMETERS |= lora.parameters(PARAMETERS)
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
ADAPTERS = {name: lora.products(product) for name, product in PRODUCTS.items()}
# The backward pass recomputes tanh: one array of the feed-forward width less is kept.
gelu = jax.checkpoint(lambda x: jax.nn.gelu(x.astype(jnp.float32), approximate=True))
exact_gelu = jax.checkpoint(lambda x: jax.nn.gelu(x.astype(jnp.float32), approximate=False))
silu = lambda x: jax.nn.silu(x.astype(jnp.float32))
ACTIVATIONS = {"gelu": gelu, "exact_gelu": exact_gelu, "swiglu": silu, "geglu": gelu}


def _shape(config: TransformerConfig, name: str) -> tuple[int, ...]:
    """The shape of a parameter, without the axis over layers."""
    if name not in PARAMETERS:
        raise ValueError(f"parameter {name} has no axes: declare them in PARAMETERS, {__name__}")
    return tuple(config.axis_sizes[axis] for axis in PARAMETERS[name] if axis != "layers")


def _normed(config, x, scale, bias):
    x = x.astype(jnp.float32)
    if config.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.norm_epsilon)
    x = x * jnp.broadcast_to(1 + scale if config.norm_offset else scale, x.shape)
    return x if bias is None else x + jnp.broadcast_to(bias, x.shape)


class Norm(nn.Module):
    """Layer norm, or RMS norm, over the last axis, in float32. On GPUs the backward pass computes
    it again, which takes less time than reading it."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        c, shape = self.config, x.shape[-1:]
        start = nn.initializers.zeros if c.norm_offset else nn.initializers.ones
        scale = self.param("scale", start, shape)
        bias = self.param("bias", nn.initializers.zeros, shape) if c.norm == "layer" else None
        normed = functools.partial(_normed, c)
        return (jax.checkpoint(normed) if on_gpu() else normed)(x, scale, bias)


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y plus a bias of its last axes, in the dtype of y; the bias's gradient is a float32 sum."""
    return y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)


def _bias_gradients(axes, g):
    return g, g.astype(jnp.float32).sum(axis=axes)


add_bias.defvjp(
    lambda y, bias: (add_bias(y, bias), tuple(range(y.ndim - bias.ndim))), _bias_gradients
)


class Block(nn.Module):
    """Attention and feed-forward; each reads the normed residual stream and adds to it.

    local: whether the layer has the window and its rotary base.
    """

    config: TransformerConfig
    local: bool = False

    def _dense(self, name, x, scale=1.0):
        """The product of x with the matrix of this name, plus those of its adapter and its bias."""
        c = self.config
        normal, zeros = nn.initializers.normal(0.02 * scale), nn.initializers.zeros
        kernel = self.param(name, normal, _shape(c, f"blocks/{name}"))
        dtype = resolve_dtype(c.compute_dtype)
        x = x.astype(result_dtype(c.compute_dtype))
        y = einsum(PRODUCTS[name], x, kernel, dtype)
        adapter = self.get_variable("params", "lora", {})  # none while the block is initialised
        if f"{name}_a" in adapter:
            into, back = ADAPTERS[name]
            low = einsum(into, x, adapter[f"{name}_a"], dtype)
            y = y + c.lora.scale * einsum(back, low, adapter[f"{name}_b"], dtype)
        if c.biases or (c.qkv_bias and name == "qkv"):
            bias = self.param(f"{name}_bias", zeros, _shape(c, f"blocks/{name}_bias"))
            y = add_bias(y, bias)
        return y

    def _project(self, x, positions):
        """Queries [B, KV, G, T, hd], keys and values [B, KV, T, hd]; G queries share a key."""
        c = self.config
        groups = c.heads // c.key_value_heads
        x = Norm(c, name="attention_norm")(x)
        qkv = self._dense("qkv", x)
        qkv = qkv.transpose(0, 2, 3, 1, 4)
        q, k, v = jax.lax.split(qkv, (groups, 1, 1), axis=2)
        if c.qk_norm:
            q, k = Norm(c, name="q_norm")(q), Norm(c, name="k_norm")(k)
        if c.positions == "rotary":
            frequency = frequencies(c, self.local)
            q, k = rotate(q, positions, frequency), rotate(k, positions, frequency)
        return q.astype(v.dtype), k.astype(v.dtype)[:, :, 0], v[:, :, 0]

    def _mix(self, x, attended, drop):
        """The residual stream x with what attention and the feed-forward layer add."""
        c = self.config
        depth_scale = (2 * c.layers) ** -0.5
        attended = place(attended, ("rows", "time", "heads", "groups", "head_width"))
        out = self._dense("out", attended.reshape(*attended.shape[:2], -1), depth_scale)
        if c.branch_norms:
            out = Norm(c, name="attention_out_norm")(out)
        mixed = x + drop(out)
        y = Norm(c, name="mlp_norm")(x if c.parallel_residual else mixed)
        up, act = self._dense("up", y), ACTIVATIONS[c.activation]
        up = act(self._dense("gate", y)) * up if c.gated else act(up)
        down = self._dense("down", up, depth_scale)
        if c.branch_norms:
            down = Norm(c, name="mlp_out_norm")(down)
        return place(mixed + drop(down), STREAM)

    @nn.compact
    def __call__(self, x, view, positions, last=None, training=False, cached=None, column=None):
        """One layer over x [B, T, D]: (output, (keys, values)).

        view: what each token attends to; None: its own column and those before it.
        last: computes only the last `last` queries.
        cached, column: attends to these keys and values, of which `view` is a mask [B, T, S]; x's
        own are written at `column`.
        """
        c = self.config
        rate = c.dropout if training else 0.0
        drop = nn.Dropout(rate, deterministic=rate == 0.0)
        scores = (resolve_dtype(c.compute_dtype), c.score_scale, c.attention_softcap)
        q, k, v = self._project(x, positions)
        if cached is not None:
            keys, values = cached
            k, v = for_cache(c, k), for_cache(c, v)
            k = jax.lax.dynamic_update_slice_in_dim(keys, k.swapaxes(2, 3), column, axis=3)
            v = jax.lax.dynamic_update_slice_in_dim(values, v, column, axis=2)
            return self._mix(x, cached_attention(q, k, v, view, *scores), drop), (k, v)
        if view is None:
            return self._mix(x, fused_attention(q, k, v, *scores[:2]), drop), (k, v)
        if last is not None:
            x, q = x[:, -last:], q[:, :, :, -last:]
        attended = by_segments(c, q, k, v, view) if last is None else None
        if attended is None:
            attended = attention(q, k, v, view.last(last), *scores)
        return self._mix(x, attended, drop), (k, v)


def for_cache(config, x):
    """x rounded to the compute dtype and stored in the cache's dtype."""
    dtype = config.compute_dtype
    return x.astype(resolve_dtype(dtype)).astype(cache_dtype(dtype))
