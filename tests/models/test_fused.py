"""Attention by the fused kernel, and what else only GPUs compute, against float64 and the products.

On CPUs jax.nn.dot_product_attention multiplies twice, in float32 here. `make test-gpu` runs this
file on a GPU, where it is cuDNN's kernel in bfloat16.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from rlhf_jax.models import attention, transformer
from rlhf_jax.models.block import add_bias
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.matmul import WeightProduct, compiling_for, einsum
from rlhf_jax.objectives.likelihood import entropy, token_log_probs

ON_GPU = jax.default_backend() == "gpu"
DTYPE, TOLERANCE = (jnp.bfloat16, 0.02) if ON_GPU else (jnp.float32, 1e-5)
# Columns, heads of keys, queries that share one, head width: where kernels change their mind, and
# lengths for which cuDNN's dQ had NaN elsewhere.
KERNELS = [
    (64, 2, 1, 64), (100, 2, 2, 64), (129, 1, 3, 128), (1023, 2, 1, 64), (1024, 1, 2, 64),
    (500, 1, 2, 80), (2048, 1, 1, 128), (256, 1, 1, 256), (1, 2, 1, 64), (77, 1, 4, 32),
]  # fmt: skip
on_gpu = pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="needs an NVIDIA GPU")
SHAPES = [(5, 2, 1, 8), (7, 1, 3, 8)] + [pytest.param(*shape, marks=on_gpu) for shape in KERNELS]
SCALE = 0.3

pytestmark = pytest.mark.usefixtures("optimized") if ON_GPU else []


def exact(q, k, v, g):
    """Causal attention and the gradients of sum(g x result) in float64. q, g: [B, T, KV, G, hd];
    k, v: [B, T, KV, hd]."""
    scores = SCALE * np.einsum("btkgh,bskh->bkgts", q, k)
    scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.einsum("btkgh,bskh->bkgts", g, v)
    ds = SCALE * p * (dp - (p * dp).sum(-1, keepdims=True))
    return {
        "o": np.einsum("bkgts,bskh->btkgh", p, v),
        "dq": np.einsum("bkgts,bskh->btkgh", ds, k),
        "dk": np.einsum("bkgts,btkgh->bskh", ds, q),
        "dv": np.einsum("bkgts,btkgh->bskh", p, g),
    }


@pytest.mark.parametrize(("time", "heads", "groups", "width"), SHAPES)
def test_values_and_gradients(time, heads, groups, width):
    rng = np.random.default_rng(time)
    draw = lambda *shape: np.asarray(jnp.asarray(rng.normal(size=shape), DTYPE), np.float64)
    q, g = (draw(2, time, heads, groups, width) for _ in range(2))
    k, v = (draw(2, time, heads, width) for _ in range(2))
    g[1, 2 * time // 3 :] = 0  # padding: nothing reads its result

    def attend(q, k, v):
        turned = q.transpose(0, 2, 3, 1, 4), *(x.transpose(0, 2, 1, 3) for x in (k, v))
        return attention.fused_attention(*turned, DTYPE, SCALE)

    @jax.jit
    def run(q, k, v, g):
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(g)

    for _ in range(3 if ON_GPU else 1):  # a race would not show every time
        found = run(*(jnp.asarray(x, DTYPE) for x in (q, k, v, g)))
        for ours, (name, true) in zip(found, exact(q, k, v, g).items(), strict=True):
            error = np.abs(np.asarray(ours.astype(jnp.float32), np.float64) - true).max()
            assert error <= TOLERANCE * np.abs(true).max(), name


LENGTH = 160 if ON_GPU else 16
GPT = TransformerConfig(
    vocab_size=61, layers=2, width=128 if ON_GPU else 16, heads=2, context=LENGTH,
    compute_dtype="auto" if ON_GPU else "float32", attention="fused",
)  # fmt: skip
LLAMA = dataclasses.replace(
    GPT, heads=4, kv_heads=2, positions="rotary", norm="rms", activation="swiglu", biases=False
)


def rows():
    """Tokens and segments: no padding, on the left, on the right, on both sides, only padding."""
    tokens = np.random.default_rng(0).integers(4, 61, (5, LENGTH)).astype(np.int32)
    segments = np.ones_like(tokens)
    quarter = LENGTH // 4
    segments[1, :quarter] = segments[2, -quarter:] = 0
    segments[3, :quarter] = segments[3, -quarter:] = segments[4] = 0
    return tokens, segments


@pytest.mark.parametrize(("last", "scan_layers"), [(None, True), (4, False)])
def test_rows_with_padding_on_either_side(last, scan_layers):
    tokens, segments = rows()
    config = dataclasses.replace(LLAMA if scan_layers else GPT, scan_layers=scan_layers)
    params = transformer.init(config, jax.random.key(0))
    shown = (segments if last is None else segments[:, -last:])[..., None]
    g = np.random.default_rng(1).normal(size=(*shown.shape[:2], config.width)) * shown

    def run(way):
        model = dataclasses.replace(config, attention=way)
        states = lambda p: transformer.hidden(model, p, tokens, segments, last=last, packed=False)
        found, pull = jax.vjp(states, params)
        return found * shown, pull(jnp.asarray(g, jnp.float32))[0]

    ours, plain = (jax.tree.leaves(jax.jit(run, static_argnums=0)(a)) for a in ("fused", "product"))
    allowed = 0.05 if ON_GPU else 2e-5
    for found, wanted in zip(ours, plain, strict=True):
        np.testing.assert_allclose(found, wanted, atol=allowed * np.abs(wanted).max() + 1e-6)


def test_states_of_a_packed_row_are_nan():
    tokens, segments = rows()
    segments[0, LENGTH // 2 :] = 2
    params = transformer.init(GPT, jax.random.key(0))

    @functools.partial(jax.jit, static_argnums=0)
    def run(packed):
        return transformer.hidden(GPT, params, tokens, segments, packed=packed)

    assert np.isnan(run(False)[0]).all() and np.isfinite(run(False)[1:]).all()
    assert np.isfinite(run(True)).all()


REFUSED = {
    "softcap": ({"attention_softcap": 5.0}, "soft cap"),
    "window": ({"window": 3}, "window"),
    "too wide": ({"head_size": 2048}, ""),
}


@pytest.mark.parametrize("case", ["softcap", "window", pytest.param("too wide", marks=on_gpu)])
def test_what_the_kernel_refuses_takes_the_products_with_one_line(case, capsys):
    changes, reason = REFUSED[case]
    tokens, segments = rows()
    model = dataclasses.replace(GPT, **changes)
    params = transformer.init(model, jax.random.key(0))
    attention._say.cache_clear()
    forced, plain = (
        transformer.hidden(
            dataclasses.replace(model, attention=way), params, tokens, segments, packed=False
        )
        for way in ("fused", "product")
    )
    np.testing.assert_array_equal(forced, plain)
    assert attention.fused(model, 8) is False  # the same line is not told again
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attention: two products instead of the fused kernel: ")
    assert reason in line


@pytest.mark.skipif(ON_GPU, reason="there the kernel is compiled")
def test_a_kernel_that_is_not_compiled_takes_the_products_with_one_line(capsys):
    attention._say.cache_clear()
    model = dataclasses.replace(GPT, compute_dtype="bfloat16", attention="auto")
    with compiling_for("cuda"):  # as on a GPU without cuDNN
        assert attention.fused(model, LENGTH) is False
        assert not attention.fused(dataclasses.replace(model, attention="product"), LENGTH)
    assert attention.fused(model, LENGTH) is False  # no kernel is wanted on a CPU: no line
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attention: two products instead of the fused kernel: ")


PRODUCT = WeightProduct("btd,df->btf", *[("rows", "tokens", "width"), ("width", "feed_forward")],
                        *[("rows", "tokens", "feed_forward"), ("rows", "tokens", "width")],
                        ("rows", "tokens", "feed_forward"))  # fmt: skip


def test_results_are_bfloat16_and_gradients_of_weights_float32():
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.normal(size=(2, 50, 4)), jnp.bfloat16)
    b = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    out, pull = jax.vjp(lambda a, b: einsum(PRODUCT, a, b, jnp.dtype("bfloat16")), a, b)
    da, db = pull(out)
    assert (out.dtype, da.dtype, db.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    given, g = np.asarray(a, np.float64), np.asarray(out, np.float64)
    np.testing.assert_allclose(db, np.einsum("btd,btf->df", given, g), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        np.asarray(da, np.float64),
        np.einsum("btf,df->btd", g, np.asarray(b.astype(jnp.bfloat16), np.float64)),
        atol=0.02 * np.abs(g).max(),
    )


def test_a_bias_sums_its_gradient_in_float32():
    y, bias = jnp.zeros((4, 1000, 3), jnp.bfloat16), jnp.zeros(3)
    g = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, y.shape), jnp.bfloat16)
    out, pull = jax.vjp(add_bias, y, bias)
    assert out.dtype == jnp.bfloat16
    exact = np.asarray(g, np.float64).sum(axis=(0, 1))
    np.testing.assert_allclose(pull(g)[1], exact, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_columns_after_the_vocabulary(tied):
    """On GPUs: the logits before them are the same, and so are log-probabilities and gradients."""
    model = dataclasses.replace(GPT, tied_embeddings=tied, logit_softcap=20.0)
    params = transformer.init(model, jax.random.key(0))
    states = jax.random.normal(jax.random.key(1), (2, 5, model.width))
    targets = jax.random.randint(jax.random.key(2), (2, 5), 0, model.vocab_size)

    def run(logits):
        def total(params, states):
            found = logits(model, params, states)
            return (2 * token_log_probs(found, targets, 0.7) + entropy(found, 0.7)).sum()

        with compiling_for("cuda"):
            return logits(model, params, states), jax.grad(total, (0, 1))(params, states)

    both = jax.jit(lambda: (run(transformer.wide_logits), run(transformer.logits)))
    (wide, ours), (plain, wanted) = both()
    assert wide.shape[-1] == 128 and (wide[..., model.vocab_size :] == -1e30).all()
    np.testing.assert_allclose(wide[..., : model.vocab_size], plain, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=(1e-2 if ON_GPU else 1e-5) * np.abs(b).max() + 1e-7)


@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_a_gpu_computes_what_a_cpu_computes(config):
    """Norms that are computed again."""
    tokens, segments = rows()
    model = dataclasses.replace(config, attention="product", compute_dtype="float32")
    params = transformer.init(model, jax.random.key(0))

    def run(platform, params):
        def loss(params):
            states = transformer.hidden(model, params, tokens, segments) * segments[..., None]
            return jnp.sin(states).sum()

        with compiling_for(platform):
            return jax.value_and_grad(loss)(params)

    ours, wanted = (jax.tree.leaves(jax.jit(run, static_argnums=0)(p, params)) for p in PLATFORMS)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max() + 1e-7)


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_results_between_products_are_bfloat16_on_accelerators(platform):
    tokens, segments = rows()
    model = dataclasses.replace(GPT, attention="product", compute_dtype="bfloat16")
    params = jax.eval_shape(lambda: transformer.init(model, jax.random.key(0)))
    with compiling_for(platform):
        made = jax.make_jaxpr(lambda p: transformer.hidden(model, p, tokens, segments))(params)
    results = {str(v.aval) for v in _results(made.jaxpr, "dot_general")}
    assert made.out_avals[0].dtype == jnp.float32
    found = {
        name
        for name in ("bfloat16", "float32")
        for result in results
        if result.startswith(name) and result.endswith(f",{model.feed_forward_width}]")
    }
    assert found == {"float32" if platform == "cpu" else "bfloat16"}


PLATFORMS = ("cuda", "cpu")


def _results(jaxpr, primitive):
    """Results of the primitive's equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield from equation.outvars
        for inner in jaxprs_in_params(equation.params):
            yield from _results(inner, primitive)
