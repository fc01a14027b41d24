"""Tensors of files into parameters: values, shards, and how much memory is held on the way."""

import functools
import gc
import math
import tracemalloc
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from etils.epath import Path

from rlhf_jax.errors import UserError
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.parallel.layout import MeshShape, bytes_a_device, layout_of
from rlhf_jax.published import reading, tensor_file

CONFIG = TransformerConfig(
    vocab_size=512, layers=4, width=256, heads=8, kv_heads=4, context=16, positions="rotary"
)


class Own(NamedTuple):
    """A tensor of a file of our own making: one for each layer of a parameter, turned round; two
    for the queries and for the keys and values."""

    name: str
    shape: tuple[int, ...]
    path: str
    layer: int | None
    index: tuple

    def ours(self, array):
        return array.T

    def theirs(self, array):
        return array.T


@functools.cache
def shapes_of(config):
    return jax.eval_shape(lambda key: transformer.init(config, key), jax.random.key(0))


@functools.cache
def published(config) -> list[Own]:
    found = []
    for path, x in jax.tree_util.tree_leaves_with_path(shapes_of(config)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.startswith("blocks/"):
            found.append(Own(name, x.shape[::-1], name, None, ()))
            continue
        for layer in range(config.layers):
            _, *sides = x.shape
            if name != "blocks/qkv":
                found.append(Own(f"{name}.{layer}", tuple(sides[::-1]), name, layer, ()))
                continue
            groups, (d, h, _, width) = config.heads // config.key_value_heads, sides
            q = (slice(None), slice(None), slice(0, groups))
            found.append(Own(f"q.{layer}", (width, groups, h, d), name, layer, q))
            for number, part in enumerate("kv"):
                one = (slice(None), slice(None), groups + number)
                found.append(Own(f"{part}.{layer}", (width, h, d), name, layer, one))
    return found


def of_params(params, tensor: Own) -> np.ndarray:
    at: Any = params
    for name in tensor.path.split("/"):
        at = at[name]
    at = np.asarray(at)
    return tensor.theirs((at if tensor.layer is None else at[tensor.layer])[tensor.index])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The parameters that are in a folder's files, and their tensors."""
    folder = Path(tmp_path_factory.mktemp("stored"))
    draw = np.random.default_rng(0).standard_normal
    short = lambda x: draw(x.shape, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    params = jax.tree.map(short, shapes_of(CONFIG))
    tensors = [
        tensor_file.Tensor(each.name, each.shape, lambda each=each: of_params(params, each))
        for each in published(CONFIG)
    ]
    tensor_file.write_files(folder, tensors, "bfloat16", 1 << 20)
    return params, tensor_file.tensors_of(folder)


def laid_out(shape: MeshShape | None):
    if shape is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        laid = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
        return jax.tree.map(laid, shapes_of(CONFIG))
    return layout_of(jax.devices()[: shape.chips], shape)(shapes_of(CONFIG))


@pytest.mark.parametrize("shape", [None, MeshShape(2, 2, 2)])
def test_parameters_have_the_file_s_values_and_the_layout_asked_for(stored, shape):
    params, tensors = stored
    laid = laid_out(shape)
    found = reading.parameters(tensors, published(CONFIG), laid)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype("float32")}
    same = jax.tree.map(lambda x, to: x.sharding == to.sharding, found, laid)
    assert all(jax.tree.leaves(same))


def live() -> int:
    """Bytes of all arrays, summed over the devices; arrays of a device may share a buffer."""
    parts = (x.data for array in jax.live_arrays() if not array.is_deleted()
             for x in array.addressable_shards)  # fmt: skip
    held = {(part.device, part.unsafe_buffer_pointer()): part.nbytes for part in parts}
    return sum(held.values())


def of_numpy() -> int:
    """Bytes of NumPy's own arrays since tracemalloc was started; views of files have none."""
    domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([domain]).traces)


def expected_bytes(laid, tensors) -> list[int]:
    """While each tensor is held: the shards of the parameters begun before, and the tensor, of
    whose numbers the devices hold as many copies as of its parameter's."""
    begun, found = 0, []
    for path, x in jax.tree_util.tree_leaves_with_path(laid):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shards = 8 * math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        copies = shards // (x.size * x.dtype.itemsize)
        own = [tensors[each.name].bytes for each in published(CONFIG) if each.path == name]
        found += [begun + (i > 0) * shards + copies * size for i, size in enumerate(own)]
        begun += shards
    return found


def test_one_tensor_is_held_beyond_the_shards(stored):
    """On eight devices, measured while each tensor is held: in JAX's arrays, and in NumPy's, whose
    memory JAX's may share on a CPU."""
    _, tensors = stored
    laid, seen = laid_out(MeshShape(1, 4, 2)), []
    reading.parameters(tensors, published(CONFIG), laid)  # compiles
    gc.collect()
    gc.freeze()  # what is there now is not looked at again: that took ten seconds
    before = live()

    def measure():
        gc.collect()  # tests/conftest.py makes the collection of cycles rare
        seen.append((live() - before, of_numpy()))

    tracemalloc.start()
    found = reading.parameters(tensors, published(CONFIG), laid, measure)
    tracemalloc.stop()
    gc.unfreeze()
    assert live() - before == 8 * bytes_a_device(laid) and found
    assert [on_devices for on_devices, _ in seen] == expected_bytes(laid, tensors)
    starts = 64  # bytes: where the tensor before was written, which jax may still hold
    largest = max(tensor.bytes for tensor in tensors.values())
    assert max(on_host for _, on_host in seen) <= largest + starts


def test_a_tensor_is_read_when_the_one_before_is_written(stored, monkeypatch):
    """Otherwise the device still holds the tensor that it is writing."""
    _, tensors = stored
    events: list[str] = []

    class Whole:
        def block_until_ready(self):
            events.append("written")

    class Stored:
        def __init__(self, tensor):
            self.shape, self._tensor = tensor.shape, tensor

        def read(self):
            events.append("read")
            return self._tensor.read()

    monkeypatch.setattr(reading, "_write", lambda sharding: lambda whole, part, starts: Whole())
    up = [each for each in published(CONFIG) if each.path == "blocks/up"]
    found = {each.name: Stored(tensors[each.name]) for each in up}
    reading.parameters(found, up, {"blocks": {"up": laid_out(None)["blocks"]["up"]}})
    assert events == ["read", "written"] * CONFIG.layers


def test_a_tensor_is_written_in_place():
    """No second copy of the parameter: the result is in the argument's memory."""
    (laid,) = jax.tree.leaves(laid_out(MeshShape(1, 4, 2))["blocks"]["up"])
    part = jax.ShapeDtypeStruct((1, *laid.shape[1:]), ml_dtypes.bfloat16, sharding=laid.sharding)
    memory = reading._write(laid.sharding).lower(laid, part, [0, 0, 0]).compile().memory_analysis()
    assert memory.alias_size_in_bytes == memory.output_size_in_bytes == bytes_a_device(laid)
    assert memory.temp_size_in_bytes <= 4 * part.size / 8


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "other"}, "tensor 'other': expected shape .*, it is not there"),
        (
            {"shape": (9, 9)},
            r"tensor 'tokens': expected shape \[9, 9\] by config.json, got \[256, ",
        ),
        (None, r"tensor 'tokens': the model of config.json has no such tensor \(1 in all\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(stored, change, told):
    expected = [each for each in published(CONFIG) if change is not None or each.name != "tokens"]
    one = lambda each: each._replace(**change) if each.name == "tokens" else each
    with pytest.raises(UserError, match=f"^folder: {told}"):
        reading.check("folder", stored[1], list(map(one, expected)))
