"""FLOPs and arrays of small programs, counted by hand."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rlhf_jax.jaxprs import count_flops, largest_arrays


def test_products_and_all_else():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert count_flops(jnp.dot, a, b) == 2 * 3 * 4 * 5
    dense = jax.jit(lambda a, b: jnp.tanh(a @ b))
    assert count_flops(dense, a, b) == 2 * 3 * 4 * 5 + 15
    assert count_flops(dense, a, b, products_only=True) == 2 * 3 * 4 * 5
    assert count_flops(jnp.sum, a) == 12
    assert count_flops(lambda a: a.T.reshape(-1), a) == 0
    assert count_flops(jax.vmap(jnp.dot), jnp.ones((6, 4)), jnp.ones((6, 4))) == 6 * 2 * 4
    unused = jax.jit(lambda a, b: (a @ b, a + 1))
    assert count_flops(lambda a, b: unused(a, b)[1], a, b) == 12


def test_loops_are_multiplied():
    seven = lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, None, length=7)[0]
    assert count_flops(seven, jnp.ones(10)) == 70

    def repeated(x):
        x, _ = jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ x, x)

    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert count_flops(repeated, x, products_only=True, while_turns=7) == (5 + 7) * 2 * 8**3


def test_of_a_choice_the_dearest_branch():
    branches = [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x]
    chosen = lambda n, x: jax.lax.switch(n, branches, x)
    counted = count_flops(chosen, 0, jnp.ones((8, 8)), products_only=True)
    assert counted == 2 * 2 * 8**3


def test_the_largest_arrays_by_name_and_what_loops_keep():
    def layer(x, w):
        weights = checkpoint_name(x @ w, "weights")  # [2, 6]
        return jnp.tanh(weights) @ w.T  # tanh is kept for the gradient: [2, 6]

    def loss(ws, x):
        x, _ = jax.lax.scan(lambda x, w: (layer(x, w), None), x, ws)
        named = checkpoint_name(x @ x.T, "pairs")  # [2, 2]
        return jnp.sum(named**2)

    ws, x = jnp.ones((3, 4, 6)), jnp.ones((2, 4))
    found = largest_arrays(jax.grad(loss), ws, x)
    assert found["pairs"] == 2 * 2 * 4
    assert found["weights"] == 2 * 6 * 4 and found["kept activations"] >= 3 * 2 * 6 * 4
    # A named array that is itself kept counts with all turns, and not as another's.
    linear = lambda ws, x: jnp.sum(
        jax.lax.scan(lambda x, w: (checkpoint_name(x @ w, "weights") @ w, None), x, ws)[0]
    )
    assert largest_arrays(jax.grad(linear), jnp.ones((3, 4, 4)), x) == {
        "weights": 3 * 2 * 4 * 4, "kept activations": 3 * 2 * 4 * 4, "gradients": 3 * 4 * 4 * 4
    }  # fmt: skip

    decode = lambda x: jax.lax.while_loop(
        lambda carry: carry[0] < 5, lambda carry: (carry[0] + 1, carry[1] * 2), (0, x)
    )
    assert largest_arrays(decode, x) == {"loop state": 4 + 2 * 4 * 4}
