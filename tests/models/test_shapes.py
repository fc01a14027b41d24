"""What the families add to a layer: each option against loops in float64, with gradients and the
KV cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import transformer
from rlhf_jax.models.block import Norm
from rlhf_jax.models.config import RotaryScaling, TransformerConfig

_BASE = TransformerConfig(
    vocab_size=21, layers=3, width=12, heads=2, mlp_width=10, context=16, positions="rotary",
    rotary_base=50.0, compute_dtype="float32",
)  # fmt: skip
# Between them they have every option of a family, and windows that repeat with and without a rest.
SHAPES = {
    "neox": dataclasses.replace(
        _BASE, layers=2, rotary_fraction=0.4, activation="exact_gelu",
        parallel_residual=True, tied_embeddings=False, rotary_scaling=RotaryScaling(1.7),
    ),
    "gemma": dataclasses.replace(
        _BASE, heads=4, kv_heads=2, head_size=4, norm="rms", norm_offset=True, activation="geglu",
        biases=False, scaled_embeddings=True, branch_norms=True, score_width=7.0, window=3,
        global_every=2, attention_softcap=1.5, logit_softcap=2.0,
    ),
    "qwen": dataclasses.replace(
        _BASE, layers=4, head_size=8, norm="rms", activation="swiglu", biases=False,
        qkv_bias=True, qk_norm=True, window=2, global_every=2, rotary_local_base=9.0,
        rotary_scaling=RotaryScaling(3.0, low=0.6, high=1.5, context=8),
    ),
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 21, (2, 12)).astype(np.int32)
# Left padding before one document; two packed documents and padding behind them.
SEGMENTS = np.array([[0] * 3 + [1] * 9, [1] * 4 + [2] * 7 + [0]], np.int32)
WEIGHTS = np.random.default_rng(1).normal(size=(2, 12, 21)) * (SEGMENTS > 0)[..., None]


def erf(x):
    """By the trapezoidal rule, to 1e-9 for |x| < 6."""
    grid = np.linspace(0, 1, 4001)
    return 2 / np.sqrt(np.pi) * np.trapezoid(np.exp(-((x[..., None] * grid) ** 2)), grid) * x


ACTIVATIONS = {
    "exact_gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "geglu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "swiglu": lambda x: x / (1 + np.exp(-x)),
}


def norm(c, x, p):
    if c.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * (p["scale"] + c.norm_offset) + p.get("bias", 0.0)


def angles(c, local):
    """One frequency at a time."""
    width = int(c.head_width * c.rotary_fraction)
    own = local and c.rotary_local_base is not None
    base, scaling = (c.rotary_local_base, None) if own else (c.rotary_base, c.rotary_scaling)
    found = []
    for i in range(width // 2):
        f = base ** (-2 * i / width)
        if scaling is not None and scaling.low is None:
            f /= scaling.factor
        elif scaling is not None:
            wave = 2 * np.pi / f
            if wave > scaling.context / scaling.low:
                f /= scaling.factor
            elif wave > scaling.context / scaling.high:
                smooth = (scaling.context / wave - scaling.low) / (scaling.high - scaling.low)
                f = (1 - smooth) * f / scaling.factor + smooth * f
        found.append(f)
    return np.array(found)


def turned(x, frequencies):
    half = len(frequencies)
    angle = np.exp(1j * np.arange(len(x))[:, None] * frequencies)
    pairs = (x[:, :half] + 1j * x[:, half : 2 * half]) * angle
    return np.concatenate([pairs.real, pairs.imag, x[:, 2 * half :]], -1)


def capped(x, cap):
    return x if cap is None else cap * np.tanh(x / cap)


def attended(c, p, y, local):
    """Attention of one document, one head and one query at a time."""
    groups, frequencies, found = c.heads // c.key_value_heads, angles(c, local), []
    bias = p["qkv_bias"] if c.biases or c.qkv_bias else np.zeros(p["qkv"].shape[1:])
    for h in range(c.heads):
        shared, own = divmod(h, groups)
        q, k, v = (y @ p["qkv"][:, shared, j] + bias[shared, j] for j in (own, groups, groups + 1))
        if c.qk_norm:
            q, k = norm(c, q, p["q_norm"]), norm(c, k, p["k_norm"])
        q, k, out = turned(q, frequencies), turned(k, frequencies), []
        for t in range(len(y)):
            first = max(0, t - c.window + 1) if local else 0
            scores = k[first : t + 1] @ q[t] / np.sqrt(c.score_width or c.head_width)
            e = np.exp(capped(scores, c.attention_softcap))
            out.append(e @ v[first : t + 1] / e.sum())
        found.append(out)
    return np.concatenate(found, -1) @ p["out"] + p.get("out_bias", 0.0)


def loops(c, f, tokens):
    """One document [T] -> [T, V]; f: parameters in float64."""
    x = f["tokens"][tokens] * (np.sqrt(c.width) if c.scaled_embeddings else 1)
    act = ACTIVATIONS[c.activation]
    for i in range(c.layers):
        p = jax.tree.map(lambda a, i=i: a[i], f["blocks"])
        local = c.window is not None and (i + 1) % (c.global_every or c.layers + 1) != 0
        out = attended(c, p, norm(c, x, p["attention_norm"]), local)
        if c.branch_norms:
            out = norm(c, out, p["attention_out_norm"])
        y = norm(c, x if c.parallel_residual else x + out, p["mlp_norm"])
        up = y @ p["up"] + p.get("up_bias", 0.0)
        down = (act(y @ p["gate"]) * up if "gate" in p else act(up)) @ p["down"]
        down = down + p.get("down_bias", 0.0)
        if c.branch_norms:
            down = norm(c, down, p["mlp_out_norm"])
        x = x + out + down
    head = f["tokens"] if c.tied_embeddings else f["head"]
    return capped(norm(c, x, f["final_norm"]) @ head.T, c.logit_softcap)


def batch(c, f):
    """`loops` of each document of TOKENS; 0 in padding."""
    found = np.zeros((*TOKENS.shape, c.vocab_size))
    for row, document in ((0, 1), (1, 1), (1, 2)):
        place = SEGMENTS[row] == document
        found[row, place] = loops(c, f, TOKENS[row, place])
    return found


def random(config):
    """Parameters of which every bias and scale takes part."""
    shapes = jax.eval_shape(lambda key: transformer.init(config, key), jax.random.key(0))
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda x: jnp.array(0.3 * rng.normal(size=x.shape), jnp.float32), shapes)


@functools.cache
def computed(name, **change):
    """(parameters, logits, gradients of sum(WEIGHTS logits)) of ours."""
    config = dataclasses.replace(SHAPES[name], **change)

    def loss(params):
        states = transformer.hidden(config, params, jnp.array(TOKENS), jnp.array(SEGMENTS))
        logits = transformer.logits(config, params, states)
        return jnp.sum(logits * WEIGHTS), logits

    params = random(config)
    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    return params, np.asarray(logits), gradient


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_loops_in_float64(name):
    params, logits, _ = computed(name)
    f = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    real = SEGMENTS > 0
    np.testing.assert_allclose(logits[real], batch(SHAPES[name], f)[real], atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_equal_differences_of_the_loops(name):
    """Of each parameter, along one direction."""
    params, _, gradient = computed(name)
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), params))
    rng, step = np.random.default_rng(2), 1e-5
    for i, g in enumerate(jax.tree.leaves(gradient)):
        towards = rng.normal(size=g.shape)
        moved = [
            tree.unflatten([*leaves[:i], leaves[i] + sign * step * towards, *leaves[i + 1 :]])
            for sign in (1, -1)
        ]
        above, below = ((batch(SHAPES[name], f) * WEIGHTS).sum() for f in moved)
        exact = (above - below) / (2 * step)
        scale = np.linalg.norm(g) * np.linalg.norm(towards)
        assert np.sum(np.asarray(g, np.float64) * towards) == pytest.approx(exact, abs=2e-4 * scale)


@pytest.mark.parametrize("name", ["gemma", "qwen"])
def test_layers_of_two_kinds_unrolled_and_recomputed_give_the_same(name):
    """A scan runs a period at a time, with a rest in one of them."""
    _, logits, gradient = computed(name)
    change = {"scan_layers": False} if name == "gemma" else {"remat": "full"}
    _, again, other = computed(name, **change)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("name", SHAPES)
def test_decoding_with_a_cache_gives_the_logits_of_the_sequence(name):
    """Row 0 is a left-padded prompt of six tokens and what it goes on with."""
    config, (params, logits, _) = SHAPES[name], computed(name)
    tokens, segments = jnp.array(TOKENS[:1]), jnp.array(SEGMENTS[:1])
    params = transformer.for_decoding(config, params)
    blocks = transformer.decoding_layers(params)
    states, cache = jax.jit(transformer.prefill, static_argnums=(0, 4))(
        config, params, tokens[:, :9], segments[:, :9], 3
    )
    step = jax.jit(transformer.decode_step, static_argnums=0)
    for column in range(9, 13):
        found = transformer.logits(config, params, states)[0, 0]
        np.testing.assert_allclose(found, logits[0, column - 1], atol=1e-4)
        if column < 12:
            visible = (jnp.arange(12) >= 3) & (jnp.arange(12) <= column)
            states, cache = step(
                config, blocks, params, tokens[:, column], jnp.array([column - 3]),
                visible[None], column - jnp.arange(12)[None], jnp.int32(column), cache,
            )  # fmt: skip


def test_a_norm_starts_with_a_gain_of_1():
    x = jnp.array([[3.0, 4.0]])
    for shape in (SHAPES["gemma"], SHAPES["qwen"]):
        found, _ = Norm(shape).init_with_output(jax.random.key(0), x)
        np.testing.assert_allclose(found, x / np.sqrt(12.5), rtol=1e-5)


def test_each_layer_of_a_scan_over_periods_drops_by_its_own_key():
    config = dataclasses.replace(SHAPES["gemma"], dropout=0.5)
    params = jax.eval_shape(lambda key: transformer.init(config, key), jax.random.key(0))
    drop = lambda p, key: transformer.hidden(config, p, TOKENS, SEGMENTS, dropout_key=key)
    assert jax.eval_shape(drop, params, jax.random.key(0)).shape == (2, 12, 12)


def test_norms_and_biases_stay_float32_in_decoding():
    for shape in SHAPES.values():
        config = dataclasses.replace(shape, compute_dtype="bfloat16")
        params = jax.eval_shape(lambda key, c=config: transformer.init(c, key), jax.random.key(0))
        cast = jax.eval_shape(functools.partial(transformer.for_decoding, config), params)
        for path, leaf in jax.tree_util.tree_leaves_with_path(cast):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            exact = any(part in name for part in ("norm", "bias"))
            assert leaf.dtype == ("float32" if exact else "bfloat16"), name
