"""Attention's kernel on TPUs: values and gradients against loops, interpreted; when it is taken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.jaxprs import kernel_flops
from rlhf_jax.models import transformer
from rlhf_jax.models.attention import view_of
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.matmul import compiling_for
from rlhf_jax.models.placement import on_parts, placing
from rlhf_jax.models.splash import splash_attention
from rlhf_jax.parallel.layout import MeshShape, layout_of
from rlhf_jax.parallel.runner import JitRunner
from tests.models.test_attention import SCALE, loops

MODEL = TransformerConfig(
    vocab_size=50, layers=3, width=32, heads=4, kv_heads=2, context=400, positions="rotary",
    compute_dtype="bfloat16", attention="fused",
)  # fmt: skip
ROWS, TIME = 4, 256
# Of a layer's products over pairs of positions: 2 forward; 3 for dQ and 4 for dK and dV, which
# compute the scores again. Each takes 2 FLOPs a number.
PAIRS = 2 * ROWS * TIME**2 * MODEL.heads * MODEL.head_width


@pytest.mark.parametrize(
    "window, softcap", [(None, None), pytest.param(150, 2.0, marks=pytest.mark.slow)]
)
def test_packed_and_padded_rows_are_as_in_loops(window, softcap):
    """Three blocks of queries and of keys."""
    rng, time = np.random.default_rng(0), 384
    shapes = (1, 1, 2, time, 8), (1, 1, time, 8), (1, 1, time, 8)
    q, k, v = (rng.normal(size=shape) for shape in shapes)
    g = rng.normal(size=(1, time, 1, 2, 8))
    segments = jnp.array([[0] * 20 + [1] * 130 + [2] * 200 + [0] * 34])
    attend = lambda *x: splash_attention(
        *x, segments, jnp.dtype("float32"), SCALE, softcap, window, interpret=True
    )
    found, pull = jax.vjp(attend, *(jnp.array(x, jnp.float32) for x in (q, k, v)))
    visible = np.asarray(view_of(segments, window).visible)
    wanted = loops(q, k, v, visible, g, softcap)
    for ours, exact in zip((found, *pull(jnp.array(g, jnp.float32))), wanted, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)


def flops(model=MODEL, rows=ROWS, time=TIME, gradient=False, platform="tpu", **how) -> int:
    """FLOPs in the kernels of a pass over rows, traced for a platform."""
    tokens = jnp.ones((rows, time), jnp.int32)
    states = lambda params: transformer.hidden(model, params, tokens, tokens, **how).sum()
    params = jax.eval_shape(lambda key: transformer.init(model, key), jax.random.key(0))
    with compiling_for(platform):
        made = jax.make_jaxpr(jax.grad(states) if gradient else states)(params)
    return kernel_flops(made.jaxpr)


def test_whole_rows_take_the_kernel_on_tpus_and_its_flops_are_counted():
    assert flops() == 3 * 2 * PAIRS
    for remat in ("off", "dots", "full"):  # recomputes all but the kernel
        again = dataclasses.replace(MODEL, remat=remat)
        assert flops(again, gradient=True) == 3 * (2 + 3 + 4) * PAIRS
    assert flops(packed=False) == 3 * 2 * PAIRS
    unrolled = dataclasses.replace(MODEL, scan_layers=False)
    assert flops(unrolled, last=5) == 2 * 2 * PAIRS  # the last layer has few queries


def test_all_else_takes_the_products_and_stderr_says_why(capsys):
    changed = lambda **fields: dataclasses.replace(MODEL, **fields)
    assert flops(changed(attention="product")) == flops(changed(attention="auto")) == 0
    assert flops(time=100) == flops(platform="cpu") == flops(platform="cuda") == 0
    assert capsys.readouterr().err == ""
    assert flops(time=300) == flops(changed(compute_dtype="float32")) == 0
    told = "attention: two products instead of the kernel: "
    assert capsys.readouterr().err.splitlines() == [
        f"{told}300 tokens are no multiple of 128",
        f"{told}it multiplies bfloat16, not float32",
    ]
    with compiling_for("tpu"):
        tokens = jnp.ones((1, TIME), jnp.int32)
        params = transformer.init(MODEL, jax.random.key(0))
        branches = jax.make_jaxpr(lambda p: transformer.hidden_of_branches(
            MODEL, p, tokens, tokens - 1, tokens))(params)  # fmt: skip
    assert kernel_flops(branches.jaxpr) == 0


def test_on_a_mesh_each_device_computes_its_rows_and_heads(capsys):
    runner = JitRunner(layout_of(jax.devices(), MeshShape(2, 2, 2)))
    params = jax.eval_shape(lambda key: transformer.init(MODEL, key), jax.random.key(0))
    states = lambda params, tokens: transformer.hidden(MODEL, params, tokens, tokens)

    def counted(rows, function=states):
        tokens = runner.row_shapes(jax.ShapeDtypeStruct((rows, TIME), jnp.int32))
        with compiling_for("tpu"):
            made = runner.compile(function).trace(runner.layout(params), tokens)
        return kernel_flops(made.jaxpr.jaxpr)

    def gradient(params, tokens):
        model = dataclasses.replace(MODEL, remat="full")
        loss = lambda params: transformer.hidden(model, params, tokens, tokens).sum()
        return jax.grad(loss)(params)

    assert counted(ROWS) == 3 * 2 * PAIRS and capsys.readouterr().err == ""
    assert counted(ROWS, gradient) == 3 * (2 + 3 + 4) * PAIRS
    assert counted(2) == 0  # fewer rows than groups of devices: time is cut
    assert "products instead of the kernel: a row or a head is cut" in capsys.readouterr().err


def test_parts_are_put_together():
    layout = layout_of(jax.devices(), MeshShape(2, 2, 2))
    rng = np.random.default_rng(0)
    x, segments = (rng.integers(0, 9, shape, np.int32) for shape in ((4, 2, 3), (4, 3)))
    sizes = []

    def turned(x, segments):
        sizes.append(x.shape)
        return (x * segments[:, None]).transpose(0, 2, 1)

    axes, result = (("rows", "heads", "time"), ("rows", "time")), ("rows", "time", "heads")

    def run(x, segments):
        with placing(layout.place, layout.on_parts):
            return on_parts(turned, (x, segments), axes, result)

    wanted = turned(x, segments)
    np.testing.assert_array_equal(jax.jit(run)(x, segments), wanted)
    assert set(sizes[1:]) == {(1, 1, 3)}  # of rows over data x fsdp, of heads over tensor
    with placing(layout.place):  # a rule alone does not say which parts a device holds
        assert on_parts(turned, (x, segments), axes, result) is None
