"""The two runners of one pure program: `jit` over a mesh, and `pmap` over replicas.

A program takes a state or parameters, which stay on the devices, and the rows of one batch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.errors import require
from rlhf_jax.models.placement import placing
from rlhf_jax.parallel import replicas
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.layout import ROWS, Layout, MeshShape, layout_of


class Compile(Protocol):
    """How a runner compiles a program.

    rows: indices of the arguments that are rows; the others are whole. returns_rows: the result is
    rows; otherwise it is whole. donate: the memory of the first argument, a state, is reused for
    the first result.
    """

    def __call__(
        self,
        function: Callable,
        *,
        rows: Sequence[int] = (),
        returns_rows: bool = False,
        donate: bool = False,
    ) -> Callable: ...


def one_device(function: Callable, *, rows=(), returns_rows=False, donate=False) -> Callable:
    """`Compile` by plain `jit`, on the device of the arguments."""
    del rows, returns_rows
    return jax.jit(function, donate_argnums=(0,) if donate else ())


class JitRunner:
    """State cut over a mesh by the rules of parallel/layout.py; the compiler adds collectives."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self._everywhere = NamedSharding(layout.mesh, P())
        self._copied_to_all = jax.jit(lambda tree: tree, out_shardings=self._everywhere)

    def state(self, tree: Any) -> Any:
        """Copies of all arrays, laid out over the mesh. They share no buffer with `tree`, so a step
        may donate them while `tree` stays valid."""
        laid = self.layout(tree)
        return jax.tree.map(lambda x, to: _put(x, to.sharding), tree, laid)

    def create(self, function: Callable, *arguments) -> Any:
        """function(*arguments), computed in its layout: no device ever holds the whole result."""
        laid = self.layout(jax.eval_shape(function, *arguments))
        shardings = jax.tree.map(lambda x: x.sharding, laid)
        copied = lambda *a: jax.tree.map(jnp.copy, function(*a))  # forwards no argument's buffer
        return jax.jit(copied, out_shardings=shardings)(*arguments)

    def check_rows(self, field: str, count: int, pieces: int = 1) -> None:
        """Raises ConfigError where a batch of `count` rows in `pieces` micro-batches cannot be cut
        over the devices."""
        groups = self.layout.row_groups
        allowed = (
            f"a multiple or a divisor of the {groups} groups of devices over which rows are cut"
        )
        require(divide(count // pieces, groups), _in_pieces(field, pieces), count, allowed)

    def own_rows(self, count: int) -> slice:
        """The rows that this process loads of a batch of `count`."""
        return _own_rows(self._rows_sharding(count), count)

    def rows(self, batch: Any, count: int) -> Any:
        """A batch of `count` rows on the devices; `batch` holds this process's own rows."""
        sharding = self._rows_sharding(count)
        if self.layout.mesh.size == 1:
            return batch
        return jax.tree.map(lambda x: _place_rows(x, sharding, count), batch)

    def row_shapes(self, batch: Any) -> Any:
        """The shapes of a batch, as `rows` lays it on the devices."""
        laid = lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=self._rows_sharding(x.shape[0])
        )
        return jax.tree.map(laid, batch)

    def gather(self, batch: Any, count: int) -> Any:
        """A batch of `count` rows, whole in every process; `batch` holds this process's rows."""
        if jax.process_count() == 1:
            return batch
        return jax.device_get(self._copied_to_all(self.rows(batch, count)))

    def fetch_rows(self, tree: Any) -> Any:
        """The rows that a program returned, as whole NumPy arrays [B, ...] in every process."""
        if jax.process_count() == 1:
            return jax.device_get(tree)
        return jax.device_get(self._copied_to_all(tree))

    def place_rows(self, whole: Any) -> Any:
        """Puts a batch that every process holds whole on the devices, as rows."""
        return _placed(self, whole)

    def _rows_sharding(self, count: int) -> NamedSharding:
        groups = self.layout.row_groups
        # Fewer rows than groups: the programs cut time instead (parallel/layout.py).
        return NamedSharding(self.layout.mesh, P(ROWS) if count % groups == 0 else P())

    def compile(self, function, *, rows=(), returns_rows=False, donate=False) -> Callable:
        del rows, returns_rows  # on a mesh the arrays themselves say how they are cut
        if self.layout.mesh.size == 1:
            return one_device(function, donate=donate)

        @functools.wraps(function)
        def placed(*arguments):
            layout = self.layout
            with placing(layout.place, layout.on_parts, layout.row_groups):
                result = function(*arguments)
                return (self.layout.keep(result[0]), *result[1:]) if donate else result

        return jax.jit(placed, donate_argnums=(0,) if donate else ())

    def compile_whole(self, function: Callable) -> Callable:
        """As `compile`, but the whole result is on every device."""
        compiled = self.compile(function)
        if self.layout.mesh.size == 1:
            return compiled
        return jax.jit(lambda *a: compiled(*a), out_shardings=self._everywhere)

    def evaluate(self, function: Callable) -> Callable:
        """f(params, *arrays with all rows) -> the whole result of function, as NumPy arrays."""
        whole = self.compile_whole(function)
        if self.layout.mesh.size == 1:
            return lambda *arguments: jax.device_get(whole(*arguments))

        def evaluated(params, *arrays):
            arrays = jax.tree.map(lambda x: _put(x, self.layout(x).sharding), arrays)
            return jax.device_get(whole(params, *arrays))

        return evaluated


class PmapRunner:
    """Every device holds the whole state and its share of the rows: [n, B / n, ...].

    States are passed in and returned as whole arrays, so that each runner can resume the other's
    runs.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        self._replicated = JitRunner(layout_of(list(devices), MeshShape(len(devices), 1, 1)))
        self.layout = self._replicated.layout
        self.state, self.create = self._replicated.state, self._replicated.create
        self.evaluate, self.gather = self._replicated.evaluate, self._replicated.gather
        self.own_rows, self.row_shapes = self._replicated.own_rows, self._replicated.row_shapes

    def check_rows(self, field: str, count: int, pieces: int = 1) -> None:
        devices = self.layout.mesh.size
        ok, allowed = (
            count % (pieces * devices) == 0,
            f"a multiple of the {devices} devices of pmap",
        )
        require(ok, _in_pieces(field, pieces), count, allowed)

    def rows(self, batch: Any, count: int) -> Any:
        del count
        split = lambda x: np.asarray(x).reshape(jax.local_device_count(), -1, *x.shape[1:])
        return jax.tree.map(split, batch)

    def place_rows(self, whole: Any) -> Any:
        return _placed(self, whole)

    def fetch_rows(self, tree: Any) -> Any:
        own = jax.tree.map(_local_rows, tree)
        count = len(jax.tree.leaves(own)[0]) * jax.process_count()
        return self.gather(own, count)

    def compile(self, function, *, rows=(), returns_rows=False, donate=False) -> Callable:
        def replica(number, *arguments):
            del number  # pmap needs one argument that is cut over devices, even without rows
            with replicas.traced():
                return function(*arguments)

        @functools.cache
        def mapped(arguments: int):
            axes = (0, *(0 if i in rows else None for i in range(arguments)))
            out_axes, first = (0 if returns_rows else None), (1,) if donate else ()
            return jax.pmap(
                replica, replicas.AXIS, in_axes=axes, out_axes=out_axes, donate_argnums=first
            )

        def run(*arguments):
            numbers = np.arange(jax.local_device_count())
            result = mapped(len(arguments))(numbers, *arguments)
            return result if returns_rows else self._whole(result)

        return run

    def _whole(self, tree: Any) -> Any:
        """Joins the copies that pmap gives each process into one array, as checkpoints need it."""
        if jax.process_count() == 1:
            return tree
        return jax.tree.map(lambda x: _join(x, self.layout), tree)


Runner = JitRunner | PmapRunner


def make_runner(config: ParallelConfig) -> Runner:
    """The runner of a config over all devices of all processes.

    Raises ConfigError where fsdp x tensor does not divide their number.
    """
    devices = jax.devices()
    if config.runner == "pmap":
        return PmapRunner(devices)
    return JitRunner(layout_of(devices, mesh_shape(config, len(devices))))


def mesh_shape(config: ParallelConfig, devices: int) -> MeshShape:
    """The mesh of a config over so many devices; raises ConfigError where it does not divide."""
    cut = config.fsdp * config.tensor
    require(
        devices % cut == 0,
        "parallel.fsdp x parallel.tensor",
        cut,
        f"a divisor of the {devices} devices",
    )
    return MeshShape(devices // cut, config.fsdp, config.tensor)


def divide(rows: int, groups: int) -> bool:
    """Whether `rows` can be cut over `groups` of devices. Fewer rows than groups must divide the
    groups: then time is cut too."""
    return rows % groups == 0 or groups % rows == 0


def _in_pieces(field: str, pieces: int) -> str:
    return field if pieces == 1 else f"{field} in {pieces} micro-batches"


def _is_key(x) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    """A new copy of an array that every process holds whole, or that is on the devices."""
    if _is_key(x):
        data = _put(jax.random.key_data(x), NamedSharding(sharding.mesh, P()))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if sharding.is_fully_addressable:
        return jax.device_put(jnp.copy(x), sharding)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=sharding)(x)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _placed(runner: "Runner", whole: Any) -> Any:
    count = len(jax.tree.leaves(whole)[0])
    own = runner.own_rows(count)
    return runner.rows(jax.tree.map(lambda x: x[own], whole), count)


def _local_rows(x: jax.Array | np.ndarray) -> np.ndarray:
    """[n, B / n, ...] of replicas -> the rows of this process's replicas, in order."""
    if isinstance(x, np.ndarray):  # as `rows` gives them to the devices
        return x.reshape(-1, *x.shape[2:])
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].indices(x.shape[0]))
    return np.concatenate([np.asarray(shard.data).reshape(-1, *x.shape[2:]) for shard in shards])


def _place_rows(x: np.ndarray, sharding: NamedSharding, count: int) -> jax.Array:
    shape = (count, *x.shape[1:])
    return jax.make_array_from_process_local_data(sharding, np.asarray(x), shape)


def _own_rows(sharding: NamedSharding, count: int) -> slice:
    places = sharding.addressable_devices_indices_map((count,)).values()
    bounds = [place[0].indices(count) for place in places]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def _join(x: jax.Array, layout: Layout) -> jax.Array:
    if _is_key(x):
        data = _join(jax.random.key_data(x), layout)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    parts = [shard.data for shard in x.addressable_shards]
    sharding = NamedSharding(layout.mesh, P())
    return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)
