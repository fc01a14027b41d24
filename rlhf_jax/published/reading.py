"""Published tensors into a model's parameters: one tensor at a time, each cut into the shards of
its place before it goes to the devices."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.errors import UserError
from rlhf_jax.models.families import Published


class Readable(Protocol):
    """A tensor in a file."""

    shape: tuple[int, ...]

    def read(self) -> np.ndarray: ...


def check(where: str, found: Mapping[str, Readable], published: Sequence[Published]) -> None:
    """Raises UserError, naming the tensor, where a file has another shape, lacks a tensor, or has
    one that the model does not use."""
    expected = {each.name: each for each in published}
    for name, each in expected.items():
        if name not in found:
            raise UserError(f"{where}: tensor {name!r}: expected shape {list(each.shape)}, it is "
                            "not there")  # fmt: skip
        if tuple(found[name].shape) != tuple(each.shape):
            raise UserError(f"{where}: tensor {name!r}: expected shape {list(each.shape)} by "
                            f"config.json, got {list(found[name].shape)}")  # fmt: skip
    if extra := sorted(found.keys() - expected.keys()):
        raise UserError(f"{where}: tensor {extra[0]!r}: the model of config.json has no such "
                        f"tensor ({len(extra)} in all)")  # fmt: skip


def parameters(
    found: Mapping[str, Readable],
    published: Sequence[Published],
    shapes: Any,
    told: Callable[[], None] = lambda: None,
) -> Any:
    """The parameters of a model, float32, from published tensors.

    Beyond the parameters one tensor is held at a time, in the file's number format, cut over the
    devices as the parameter that it belongs to.

    shapes: the parameters' shapes with shardings (parallel/layout.py). told: called while each
    tensor is held, for the test that measures memory.
    """
    by_path: dict[str, list[Published]] = {}
    for each in published:
        by_path.setdefault(each.path, []).append(each)

    def parameter(path, laid):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return _parameter(found, by_path[name], laid, told)

    return jax.tree_util.tree_map_with_path(parameter, shapes)


def _parameter(
    found: Mapping[str, Readable], published: Sequence[Published], laid: Any, told: Callable
) -> jax.Array:
    places = [_place(each, laid.shape) for each in published]
    covered = sum(math.prod(size for _, size in place) for place in places)
    if covered != math.prod(laid.shape):
        names = ", ".join(each.name for each in published[:4])
        raise ValueError(f"{names}, ...: {covered} numbers for a parameter of {laid.shape}")
    whole, laid_whole = None, [(0, side) for side in laid.shape]
    for each, place in zip(published, places, strict=True):
        part = _cut(each, found[each.name], laid, place, told)
        if place == laid_whole:
            return part if part.dtype == laid.dtype else _cast(laid.sharding)(part)
        if whole is None:
            whole = _zeros(tuple(laid.shape), laid.sharding)()
        whole = _write(laid.sharding)(whole, part, [start for start, _ in place])
        del part
        whole.block_until_ready()  # otherwise the next tensor is read while this one is still held
    return whole


def _place(each: Published, shape: Sequence[int]) -> list[tuple[int, int]]:
    """(start, size) along each axis of a parameter, the axis over layers included."""
    index = (*(() if each.layer is None else (each.layer,)), *each.index)
    index += (slice(None),) * (len(shape) - len(index))
    found = []
    for part, side in zip(index, shape, strict=True):
        if isinstance(part, slice):
            start, stop, _ = part.indices(side)
            found.append((start, stop - start))
        else:
            found.append((part, 1))
    return found


def _cut(
    each: Published, stored: Readable, laid: Any, place: list[tuple[int, int]], told: Callable
) -> jax.Array:
    """A tensor as the part of a parameter that it is, on the devices, each with its share."""
    region = tuple(size for _, size in place)
    values = each.ours(stored.read()).reshape(region)
    own = lambda index: np.ascontiguousarray(values[index])
    part = jax.make_array_from_callback(region, _sharding_of(laid, region), own)
    told()
    return part


def _sharding_of(laid: Any, region: tuple[int, ...]) -> Sharding:
    """How a part of a parameter is cut: as the parameter, along the axes that it has whole."""
    if isinstance(laid.sharding, SingleDeviceSharding):
        return laid.sharding
    spec = (*laid.sharding.spec, *(None,) * (len(region) - len(laid.sharding.spec)))
    whole = (size == side for size, side in zip(region, laid.shape, strict=True))
    cuts = (cut if full else None for cut, full in zip(spec, whole, strict=True))
    return NamedSharding(laid.sharding.mesh, P(*cuts))


@functools.lru_cache(64)
def _zeros(shape: tuple[int, ...], sharding: Sharding) -> Callable:
    return jax.jit(lambda: jnp.zeros(shape), out_shardings=sharding)


@functools.lru_cache(64)
def _cast(sharding: Sharding) -> Callable:
    return jax.jit(lambda x: x.astype(jnp.float32), out_shardings=sharding)


@functools.lru_cache(64)
def _write(sharding: Sharding) -> Callable:
    """(whole, part, starts) -> whole with the part in it, in the same memory."""

    def write(whole, part, starts):
        return jax.lax.dynamic_update_slice(whole, part.astype(whole.dtype), starts)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)
