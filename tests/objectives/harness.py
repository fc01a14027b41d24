"""Each function of objectives/ goes through one comparison with a float64 oracle in plain loops."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RTOL = 2e-5


class Case(NamedTuple):
    """`function(*arguments)` must equal `oracle(*arguments)`, for any leading batch of arguments.

    arguments: NumPy arrays; floats go to the function in float32 and to the oracle in float64.
    wrt: arguments whose gradient must equal the oracle's central differences.
    constant: arguments that must receive no gradient at all.
    gradient_oracle: as oracle, where some of what it reads is held constant; default: the oracle.
    """

    name: str
    function: Callable
    oracle: Callable
    arguments: tuple
    wrt: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()
    gradient_oracle: Callable | None = None

    def __str__(self):
        return self.name


def leaves(outputs) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(outputs)]


def to_jax(arguments):
    """float64 -> float32, int64 -> int32; booleans as they are."""
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return [np.asarray(x, narrow.get(np.asarray(x).dtype)) for x in arguments]


def assert_close(actual, expected, rtol=RTOL, atol=2e-5):
    actual, expected = leaves(actual), leaves(expected)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def projections(outputs) -> list[np.ndarray]:
    """One fixed random direction per output: the gradients of this sum see every entry."""
    rng = np.random.default_rng(7)
    return [rng.normal(size=x.shape) for x in leaves(outputs)]


def central_differences(function, x, step=1e-5) -> np.ndarray:
    """d function / d x of a scalar function, entry by entry."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def check_values_and_gradients(case: Case):
    """Under jit: values equal the oracle's, and so do gradients; constants get none."""
    arguments = to_jax(case.arguments)
    expected = case.oracle(*case.arguments)
    directions = projections(expected)
    differentiated = case.wrt + case.constant

    def projected(*chosen):
        full = list(arguments)
        for index, value in zip(differentiated, chosen, strict=True):
            full[index] = value
        outputs = case.function(*full)
        parts = zip(jax.tree.leaves(outputs), directions, strict=True)
        return sum(jnp.sum(x * d.astype(np.float32)) for x, d in parts), outputs

    run = projected
    if differentiated:
        every = tuple(range(len(differentiated)))
        run = jax.value_and_grad(projected, every, has_aux=True)
    result = jax.jit(run)(*(arguments[i] for i in differentiated))
    (_, outputs), gradients = result if differentiated else (result, ())
    assert_close(outputs, expected)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(outputs)), "results are float32"

    oracle = case.gradient_oracle or case.oracle
    for index, gradient in zip(differentiated, gradients, strict=True):
        if index in case.constant:
            np.testing.assert_array_equal(gradient, 0)
            continue

        def of_argument(x, index=index):
            full = list(case.arguments)
            full[index] = x
            parts = zip(leaves(oracle(*full)), directions, strict=True)
            return sum(float(np.sum(value * d)) for value, d in parts)

        numeric = central_differences(of_argument, np.asarray(case.arguments[index], np.float64))
        assert_close(gradient, numeric, rtol=1e-4, atol=1e-4)


def check_transformations(case: Case, devices: int = 4, each: int = 2):
    """pmap of vmap over new leading axes gives what a Python loop over them gives."""
    # The same numbers in another order each time, so that mixing them up would show.
    batch = [[np.roll(x, i) for x in case.arguments] for i in range(devices * each)]
    expected = [leaves(case.oracle(*arguments)) for arguments in batch]

    def stacked(parts):
        return [np.reshape(x, (devices, each, *np.shape(x[0]))) for x in zip(*parts, strict=True)]

    outputs = jax.pmap(jax.vmap(case.function))(*to_jax(stacked(batch)))
    assert_close(outputs, stacked(expected))


def parametrise(cases):
    """The decorator for the two tests that every file runs over its table of cases."""
    import pytest

    return pytest.mark.parametrize("case", cases, ids=str)


def rows(function, *arrays) -> np.ndarray:
    """function(*scalars) at every index of equal-shaped arrays: the loop of elementwise oracles."""
    out = np.zeros(np.shape(arrays[0]))
    for index in np.ndindex(*out.shape):
        out[index] = function(*(x[index] for x in arrays))
    return out
