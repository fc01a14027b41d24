"""What the machine can do: the rate of a large bfloat16 product, the bandwidth of a copy."""

import statistics
import time

import jax
import jax.numpy as jnp


def machine() -> dict:
    on_cpu = jax.default_backend() == "cpu"
    return {
        "platform": "cpu" if on_cpu else "gpu",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "product_flops_per_second": product_rate(2048 if on_cpu else 8192),
        "copy_bytes_per_second": copy_rate(2**28 if on_cpu else 2**31),
    }


def product_rate(side: int) -> float:
    """FLOP/s of a product of two [side, side] matrices of random bfloat16 numbers. The result is
    bfloat16, on CPUs float32: each is the faster there."""
    result = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    a, b = (jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in (0, 1))
    product = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=result))
    return 2 * side**3 / _seconds(product, a, b)


def copy_rate(size: int) -> float:
    """Bytes read and written per second by a copy of `size` bytes."""
    x = jax.random.normal(jax.random.key(0), (size // 4,))
    return 2 * size / _seconds(jax.jit(lambda x: -x), x)


def _seconds(function, *arguments, times: int = 10) -> float:
    for _ in range(3):
        jax.block_until_ready(function(*arguments))
    found = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(times):
            last = function(*arguments)
        jax.block_until_ready(last)
        found.append((time.perf_counter() - started) / times)
    return statistics.median(found)
