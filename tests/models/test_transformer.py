"""The transformer: causality, padding, packing, and the same values in every form."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.models import transformer
from rlhf_jax.models.config import SIZES, RotaryScaling, TransformerConfig, from_json

GPT = TransformerConfig(
    vocab_size=37, layers=3, width=16, heads=4, context=24, compute_dtype="float32"
)
LLAMA = dataclasses.replace(
    GPT, kv_heads=2, positions="rotary", norm="rms", activation="swiglu", biases=False,
    tied_embeddings=False, mlp_width=40,
)  # fmt: skip


@pytest.fixture(params=[GPT, LLAMA], ids=["gpt", "llama"])
def config(request):
    return request.param


def noisy(config, seed=0):
    """Parameters far from their initial values, so that every bias and scale takes part."""
    params = transformer.init(config, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten([leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in pairs])


def run(config, params, tokens, segments, **kwargs):
    return np.asarray(forward(config, params, tokens, segments, **kwargs))


@functools.partial(jax.jit, static_argnums=0, static_argnames="last")
def forward(config, params, tokens, segments, **kwargs):
    states = transformer.hidden(config, params, tokens, segments, **kwargs)
    return transformer.logits(config, params, states)


def tokens_of(length, rows=2, seed=3):
    return np.random.default_rng(seed).integers(4, 37, (rows, length)).astype(np.int32)


def numpy_gpt(params, tokens):
    """GPT-2 as loops over layers and heads in float64, one unpadded sequence [T] -> [T, V]."""
    f = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, p):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    x = f["tokens"][tokens] + f["positions"][: len(tokens)]
    for i in range(GPT.layers):
        p = jax.tree.map(lambda a, i=i: a[i], f["blocks"])
        y = norm(x, p["attention_norm"])
        heads = []
        for h in range(GPT.heads):
            q, k, v = (y @ p["qkv"][:, h, j] + p["qkv_bias"][h, j] for j in range(3))
            weights = np.zeros((len(x), len(x)))
            for t in range(len(x)):
                e = np.exp(q[t] @ k[: t + 1].T / np.sqrt(GPT.head_width))
                weights[t, : t + 1] = e / e.sum()
            heads.append(weights @ v)
        x = x + np.concatenate(heads, -1) @ p["out"] + p["out_bias"]
        y = norm(x, p["mlp_norm"]) @ p["up"] + p["up_bias"]
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + y @ p["down"] + p["down_bias"]
    return norm(x, f["final_norm"]) @ f["tokens"].T


def numpy_llama(params, tokens):
    """A Llama the same way; a pair of halves is turned as a complex number is."""
    f = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    groups, half = LLAMA.heads // LLAMA.kv_heads, LLAMA.head_width // 2

    def norm(x, p):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"]

    def turned(x):
        frequency = LLAMA.rotary_base ** (-np.arange(half) / half)
        angle = np.exp(1j * np.arange(len(x))[:, None] * frequency)
        pairs = (x[:, :half] + 1j * x[:, half:]) * angle
        return np.concatenate([pairs.real, pairs.imag], -1)

    x = f["tokens"][tokens]
    for i in range(LLAMA.layers):
        p = jax.tree.map(lambda a, i=i: a[i], f["blocks"])
        y, heads = norm(x, p["attention_norm"]), []
        for h in range(LLAMA.heads):
            shared, own = divmod(h, groups)
            q, k, v = (y @ p["qkv"][:, shared, j] for j in (own, groups, groups + 1))
            q, k, weights = turned(q), turned(k), np.zeros((len(x), len(x)))
            for t in range(len(x)):
                e = np.exp(q[t] @ k[: t + 1].T / np.sqrt(LLAMA.head_width))
                weights[t, : t + 1] = e / e.sum()
            heads.append(weights @ v)
        x = x + np.concatenate(heads, -1) @ p["out"]
        y = norm(x, p["mlp_norm"])
        gate = y @ p["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ p["up"])) @ p["down"]
    return norm(x, f["final_norm"]) @ f["head"].T


@pytest.mark.parametrize("config, oracle", [(GPT, numpy_gpt), (LLAMA, numpy_llama)],
                         ids=["gpt", "llama"])  # fmt: skip
def test_equals_loops_in_float64(config, oracle):
    params, tokens = noisy(config), tokens_of(9, rows=1)
    ours = run(config, params, tokens, np.ones_like(tokens))[0]
    np.testing.assert_allclose(ours, oracle(params, tokens[0]), atol=2e-4)


def test_a_head_of_its_own_makes_the_logits():
    params, tokens = noisy(LLAMA), tokens_of(9)
    states = transformer.hidden(LLAMA, params, tokens, np.ones_like(tokens))
    expected = np.asarray(states, np.float64) @ np.asarray(params["head"], np.float64).T
    ours = run(LLAMA, params, tokens, np.ones_like(tokens))
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_future_tokens_change_nothing(config):
    params, tokens = noisy(config), tokens_of(9)
    changed = tokens.copy()
    changed[:, 6:] = 5
    ones = np.ones_like(tokens)
    before, after = run(config, params, tokens, ones), run(config, params, changed, ones)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-2


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 5), (3, 4)])
def test_padding_changes_nothing(config, left, right):
    params, tokens = noisy(config), tokens_of(9)
    width = ((0, 0), (left, right))
    padded = np.pad(tokens, width, constant_values=7)
    segments = np.pad(np.ones_like(tokens), width)
    plain = run(config, params, tokens, np.ones_like(tokens))
    np.testing.assert_allclose(
        run(config, params, padded, segments)[:, left : left + 9], plain, atol=1e-5
    )


def test_packed_documents_do_not_see_each_other(config):
    params, a, b = noisy(config), tokens_of(5, seed=1), tokens_of(7, seed=2)
    packed = np.concatenate([a, b], axis=1)
    segments = np.array([[1] * 5 + [2] * 7] * 2)
    logits = run(config, params, packed, segments)
    np.testing.assert_allclose(logits[:, :5], run(config, params, a, np.ones_like(a)), atol=1e-5)
    np.testing.assert_allclose(logits[:, 5:], run(config, params, b, np.ones_like(b)), atol=1e-5)


@pytest.mark.parametrize("change", [{"scan_layers": False}, {"remat": "dots"}, {"remat": "full"}])
def test_scan_unroll_and_remat_agree_with_gradients(config, change):
    tokens = jnp.array(tokens_of(9))
    segments = jnp.ones_like(tokens)

    def gradient(config):
        def loss(params):
            return jnp.sum(jnp.sin(forward(config, params, tokens, segments, last=4)))

        return jax.jit(jax.value_and_grad(loss))(noisy(config))

    for a, b in zip(
        jax.tree.leaves(gradient(config)),
        jax.tree.leaves(gradient(dataclasses.replace(config, **change))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_last_keeps_the_last_positions(config):
    params, tokens = noisy(config), tokens_of(9)
    ones = np.ones_like(tokens)
    for scan in (True, False):
        form = dataclasses.replace(config, scan_layers=scan)
        whole = run(form, params, tokens, ones)
        np.testing.assert_allclose(
            run(form, params, tokens, ones, last=3), whole[:, -3:], atol=1e-5
        )


def test_dropout_needs_a_key_and_differs_by_key(config):
    config = dataclasses.replace(config, dropout=0.5)
    params, tokens = noisy(config), tokens_of(9)
    ones = np.ones_like(tokens)
    plain = run(config, params, tokens, ones)
    np.testing.assert_array_equal(plain, run(config, params, tokens, ones))
    one, two = (run(config, params, tokens, ones, dropout_key=jax.random.key(i)) for i in (1, 2))
    assert np.abs(one - plain).max() > 1e-2
    assert np.abs(one - two).max() > 1e-2


def test_both_branches_drop():
    """Attention's and the feed-forward's, each where the other one adds nothing."""
    config = dataclasses.replace(GPT, dropout=0.5)
    params, tokens = noisy(config), tokens_of(9)
    ones = np.ones_like(tokens)
    for silent in ("out", "down"):
        names = (silent, f"{silent}_bias")
        zero = {name: jnp.zeros_like(params["blocks"][name]) for name in names}
        one_branch = {**params, "blocks": params["blocks"] | zero}
        plain = run(config, one_branch, tokens, ones)
        dropped = run(config, one_branch, tokens, ones, dropout_key=jax.random.key(1))
        assert np.abs(dropped - plain).max() > 1e-2


def test_rotary_positions_are_relative():
    params, tokens = noisy(LLAMA), tokens_of(6)
    shifted = np.pad(tokens, ((0, 0), (4, 0)), constant_values=9)
    segments = np.pad(np.ones_like(tokens), ((0, 0), (4, 0)))
    np.testing.assert_allclose(
        run(LLAMA, params, shifted, segments)[:, 4:],
        run(LLAMA, params, tokens, np.ones_like(tokens)),
        atol=1e-5,
    )
    reordered = tokens[:, ::-1].copy()
    last = run(LLAMA, params, tokens, np.ones_like(tokens))[:, -1]
    reordered[:, -1] = tokens[:, -1]
    assert np.abs(run(LLAMA, params, reordered, np.ones_like(tokens))[:, -1] - last).max() > 1e-3


def test_positions_restart_with_each_segment():
    segments = jnp.array([[0, 0, 1, 1, 1, 2, 2], [1, 1, 2, 3, 3, 0, 0]])
    expected = [[0, 1, 0, 1, 2, 0, 1], [0, 1, 0, 0, 1, 0, 1]]
    np.testing.assert_array_equal(transformer.positions_of(segments), expected)


def test_a_fully_padded_row_stays_finite(config):
    tokens = tokens_of(5)
    assert np.isfinite(run(config, noisy(config), tokens, np.zeros_like(tokens))).all()


@pytest.mark.parametrize(
    "name, shape",
    [("gpt2", (12, 768, 12, 1024)), ("gpt3-1.3b", (24, 2048, 16, 2048)),
     ("gpt3-6.7b", (32, 4096, 32, 2048)), ("gpt3-175b", (96, 12288, 96, 2048))],
)  # fmt: skip
def test_named_sizes_are_those_of_the_papers(name, shape):
    """Radford et al. 2019, table 2; Brown et al. 2020, table 2.1, heads of 128 throughout."""
    size = SIZES[name]
    assert (size.layers, size.width, size.heads, size.context) == shape
    assert (size.vocab_size, size.feed_forward_width) == (50257, 4 * size.width)
    assert (size.positions, size.norm, size.activation) == ("learned", "layer", "gelu")
    assert size.biases and size.tied_embeddings and size.key_value_heads == size.heads


def test_parameter_count_of_gpt2():
    shapes = jax.eval_shape(lambda key: transformer.init(SIZES["gpt2"], key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 124_439_808


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads = 3: must be a divisor of 16"),
        ({"kv_heads": 3}, "kv_heads = 3: must be a divisor of heads = 4"),
        ({"dropout": 1.0}, r"dropout = 1.0: must be in \[0, 1\)"),
        ({"layers": 0}, "layers = 0: must be positive"),
        (
            {"heads": 16, "positions": "rotary"},
            "such that the 1 numbers of a head that are rotated are even",
        ),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(GPT, **change)


@pytest.mark.parametrize("fields", [(0.0,), (2.0, 1.0), (2.0, 4.0, 1.0, 8), (2.0, 1.0, 4.0, 0)])
def test_impossible_scalings_are_refused(fields):
    with pytest.raises(ConfigError, match=r"factor|low|context"):
        RotaryScaling(*fields)


def test_a_config_is_read_back_from_json_and_an_earlier_one_lacks_fields():
    shape = dataclasses.replace(LLAMA, rotary_scaling=RotaryScaling(8.0, 1.0, 4.0, 16), window=3)
    assert from_json(json.loads(json.dumps(dataclasses.asdict(shape)))) == shape
    fields = [f for f in dataclasses.fields(GPT) if f.metadata != ADDED_LATER]
    assert len(fields) == 19
    assert from_json({f.name: getattr(GPT, f.name) for f in fields}) == GPT


def test_too_long_for_the_context_is_refused():
    tokens = tokens_of(25)
    with pytest.raises(ConfigError, match="context = 24: must be >= 25"):
        run(GPT, noisy(GPT), tokens, np.ones_like(tokens))
