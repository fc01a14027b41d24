"""The matrix product: values and gradients in both dtypes, against NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import matmul
from rlhf_jax.models.matmul import WeightProduct, einsum

SPECS = [
    ("btd,df->btf", (2, 5, 8), (8, 6)),
    ("btd,dkgh->btkgh", (2, 5, 8), (8, 2, 3, 4)),
    ("btd,vd->btv", (2, 5, 8), (11, 8)),
    ("bkgth,bksh->bkgts", (2, 2, 3, 5, 4), (2, 2, 7, 4)),
    ("bkgth,bkhs->bkgts", (2, 2, 3, 5, 4), (2, 2, 4, 7)),
    ("bkgts,bksh->btkgh", (2, 2, 3, 5, 7), (2, 2, 7, 4)),
]


def placed_nowhere(spec: str) -> WeightProduct:
    """Axes of the right number, for one device."""
    operands, out = spec.split("->")
    a, b, out = (("rows",) * len(indices) for indices in (*operands.split(","), out))
    return WeightProduct(spec, a, b, out, a, out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("spec", "a_shape", "b_shape"), SPECS)
def test_values_and_gradients(spec, a_shape, b_shape, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=a_shape), rng.normal(size=b_shape)
    out = np.einsum(spec, a, b)
    g = rng.normal(size=out.shape)
    operands, result = spec.split("->")
    left, right = operands.split(",")
    of = placed_nowhere(spec)

    def run(a, b, g):
        value, pull = jax.vjp(lambda a, b: einsum(of, a, b, jnp.dtype(dtype)), a, b)
        return value, *pull(g)

    value, da, db = jax.jit(run)(*(jnp.asarray(x, jnp.float32) for x in (a, b, g)))
    assert value.dtype == da.dtype == db.dtype == jnp.float32
    tolerance = {"float32": 1e-5, "bfloat16": 6e-2}[dtype]
    for ours, exact in [
        (value, out),
        (da, np.einsum(f"{result},{right}->{left}", g, b)),
        (db, np.einsum(f"{left},{result}->{right}", a, g)),
    ]:
        np.testing.assert_allclose(ours, exact, atol=tolerance * np.abs(exact).max())


def test_bfloat16_sums_in_float32():
    """4,097 times 1 + 2^-7 is exact in float32 sums; bfloat16 has no digits for it."""
    ones = jnp.full((1, 1, 4097), 1 + 2**-7)
    result = einsum(placed_nowhere("btd,df->btf"), ones, jnp.ones((4097, 1)), jnp.dtype("bfloat16"))
    assert float(result[0, 0, 0]) == 4097 * (1 + 2**-7)


def test_cpus_with_instructions_for_bfloat16_multiply_it(tmp_path):
    flags = {
        "amx": "amx_bf16 avx512f", "avx512": "avx512f avx512_bf16", "neither": "avx512f bf16x"
    }  # fmt: skip
    for name, text in flags.items():
        (tmp_path / name).write_text(f"processor\t: 0\nflags\t\t: fpu {text}\n")
    found = {name: matmul._multiplies_bfloat16(tmp_path / name) for name in [*flags, "absent"]}
    assert found == {"amx": True, "avx512": True, "neither": False, "absent": False}
