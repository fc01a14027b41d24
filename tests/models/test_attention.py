"""Attention in both dtypes against loops in float64, gradients too; a cache like a sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.attention import View, _sums, attention, cached_attention, view_of
from rlhf_jax.models.matmul import compiling_for

SHAPES = {"q": (2, 2, 3, 5, 4), "k": (2, 2, 7, 4), "v": (2, 2, 7, 4)}
DTYPES = {"float32": 1e-5, "bfloat16": 4e-2}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=shape) for shape in SHAPES.values())
    visible = rng.random((2, 5, 7)) < 0.6
    visible[:, :, 0] = True
    return q, k, v, visible


SCALE = 0.4  # of scores; not a power of the width of a head


def attend(q, k, v, visible, dtype="float32", softcap=None):
    view = View(None, jnp.array(visible), None)
    return attention(q, k, v, view, jnp.dtype(dtype), SCALE, softcap)


def loops(q, k, v, visible, g, softcap=None):
    """The result, and the gradients of sum(g x result), one query at a time."""
    out, dq, dk, dv = np.zeros(g.shape), np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for b, h, group, t in np.ndindex(q.shape[:4]):
        seen = np.flatnonzero(visible[b, t])
        keys, values, scores = (
            k[b, h, seen],
            v[b, h, seen],
            SCALE * k[b, h, seen] @ q[b, h, group, t],
        )
        slope = np.ones_like(scores)
        if softcap is not None:
            scores, slope = softcap * np.tanh(scores / softcap), 1 / np.cosh(scores / softcap) ** 2
        e = np.exp(scores)
        p, do = e / e.sum(), g[b, t, h, group]
        out[b, t, h, group] = p @ values
        ds = (np.diag(p) - np.outer(p, p)) @ (values @ do) * slope * SCALE
        dq[b, h, group, t] = ds @ keys
        dk[b, h, seen] += np.outer(ds, q[b, h, group, t])
        dv[b, h, seen] += np.outer(p, do)
    return out, dq, dk, dv


def test_a_view_ends_at_the_token_at_its_segment_and_at_the_window():
    segments = jnp.array([[0, 0, 1, 1, 1, 1, 2, 2]])
    for window in (None, 1, 3):
        view = view_of(segments, window)
        for t, s in np.ndindex(8, 8):
            seen = s <= t and segments[0, s] == segments[0, t] and t - s < (window or 8)
            assert view.visible[0, t, s] == seen
        np.testing.assert_array_equal(view.last(3).visible, view.visible[:, -3:])


def close(ours, exact, dtype):
    np.testing.assert_allclose(ours, exact, atol=DTYPES[dtype] * np.abs(exact).max())


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(dtype, softcap):
    q, k, v, visible = arrays()
    g = np.random.default_rng(1).normal(size=(2, 5, 2, 3, 4))

    def run(q, k, v, g):
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, visible, dtype, softcap), q, k, v)
        return out, *pull(g)

    ours = jax.jit(run)(*(jnp.asarray(x, jnp.float32) for x in (q, k, v, g)))
    for array, exact in zip(ours, loops(q, k, v, visible, g, softcap), strict=True):
        assert array.dtype == jnp.float32
        close(array, exact, dtype)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("width", [4, 24, 48])
def test_sums_over_the_width_of_a_head(width, platform):
    x = np.arange(12.0 * width).reshape(1, 2, 3, 2, width)
    with compiling_for(platform):
        found = _sums(jnp.array(x, jnp.float32))
    np.testing.assert_array_equal(found, x.sum(-1).transpose(0, 2, 3, 1))


def test_hidden_keys_have_no_gradient_and_a_query_that_sees_nothing_stays_finite():
    q, k, v, visible = arrays()
    visible[:, :, 3], visible[0, 2] = False, False
    out, pull = jax.vjp(
        lambda *qkv: attend(*qkv, visible), *(jnp.asarray(x, jnp.float32) for x in (q, k, v))
    )
    assert np.isfinite(out).all()
    # Nobody asks for what a query of padding answers: its gradient is 0.
    g = jnp.ones_like(out).at[0, 2].set(0.0)
    gradients = pull(g)
    assert all(np.isfinite(x).all() for x in gradients)
    assert not np.any(gradients[1][:, :, 3]) and not np.any(gradients[2][:, :, 3])
    assert not np.any(gradients[0][0, :, :, 2])


@pytest.mark.parametrize("groups, softcap", [(1, None), (3, 1.5)])
@pytest.mark.parametrize(
    "platform, dtype", [("cpu", "float32"), ("cpu", "bfloat16"), ("tpu", "float32")]
)
def test_a_cache_gives_what_the_sequence_gives(platform, dtype, groups, softcap):
    q, k, v, visible = arrays()
    q, visible = q[:, :, :groups, :1], visible[:, :1]
    rounded = lambda x: jnp.asarray(x, jnp.float32).astype(dtype).astype(jnp.float32)
    q, k, v, visible, dtype = *map(rounded, (q, k, v)), jnp.array(visible), jnp.dtype(dtype)
    with compiling_for(platform):
        step = jax.jit(lambda *arrays: cached_attention(*arrays, dtype, SCALE, softcap))
        cached = step(q, k.swapaxes(2, 3), v, visible)
    np.testing.assert_allclose(cached, attend(q, k, v, visible, dtype, softcap), atol=1e-5)
