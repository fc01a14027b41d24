"""Safetensors files, against the reference implementation; headers that lie are refused by name."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils.epath import Path

from rlhf_jax.errors import UserError
from rlhf_jax.published import tensor_file
from rlhf_jax.published.tensor_file import Tensor

VALUES = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "b": np.arange(4, dtype=np.float16).reshape(4, 1) / 3,
    "c": (np.arange(5, dtype=np.float32) / 11).astype(ml_dtypes.bfloat16),
    "none": np.zeros((0, 3), np.float32),
}
HEADER = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
}


def written(path, fields, data=bytes(32), length=None):
    header = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    length = len(header) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + header + data)
    return path


def test_a_file_of_the_reference_implementation_is_read(tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(VALUES, file, {"format": "pt"})
    found = tensor_file.tensors_of(tmp_path)
    assert found.keys() == VALUES.keys()
    for name, values in VALUES.items():
        read = found[name].read()
        assert read.dtype == values.dtype and found[name].shape == values.shape
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("largest", [1 << 30, 24])
def test_the_reference_implementation_reads_what_is_written(tmp_path, dtype, largest):
    values = {name: VALUES[name].astype(np.float32) for name in ("a", "b", "c")}
    tensors = [Tensor(name, x.shape, lambda x=x: x) for name, x in values.items()]
    files = tensor_file.write_files(Path(tmp_path), tensors, dtype, largest)
    assert len(set(files.values())) == (1 if largest > 24 else {"float32": 3}.get(dtype, 2))
    for name, file in files.items():
        there = safetensors.numpy.load_file(tmp_path / file)[name]
        np.testing.assert_array_equal(there, values[name].astype(dtype))
    back = tensor_file.tensors_of(tmp_path)
    assert {name: x.read().tolist() for name, x in back.items()} == {
        name: x.astype(dtype).tolist() for name, x in values.items()
    }


def test_of_a_folder_with_both_the_whole_file_is_read(tmp_path):
    """As transformers reads it."""
    safetensors.numpy.save_file({"a": VALUES["a"]}, tmp_path / "model.safetensors")
    safetensors.numpy.save_file({"a": VALUES["a"] + 1}, tmp_path / "1.safetensors")
    (tmp_path / tensor_file.INDEX).write_text('{"weight_map": {"a": "1.safetensors"}}')
    np.testing.assert_array_equal(tensor_file.tensors_of(tmp_path)["a"].read(), VALUES["a"])


def test_a_number_beyond_float16_is_refused(tmp_path):
    large = Tensor("a", (2,), lambda: np.array([1.0, 7e4], np.float32))
    with pytest.raises(UserError, match=r"tensor 'a': 1 of its numbers.*float16"):
        tensor_file.write_files(Path(tmp_path), [large], "float16", 100)


def changed(tensor, **fields):
    return HEADER | {tensor: HEADER[tensor] | fields}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (changed("a", dtype="F65"), "'a': dtype: expected one of .*BF16.*, got 'F65'"),
        (changed("a", dtype="F64"), r"'a': F64 of shape \[2, 3\] has 48 bytes"),
        (changed("a", dtype="BOOL"), r"'a': BOOL of shape \[2, 3\] has 6 bytes"),
        (changed("a", dtype="F4"), r"'a': F4 of shape \[2, 3\] has 3 bytes"),
        (changed("a", dtype="BF16"), r"'a': BF16 of shape \[2, 3\] has 12 bytes, its data_offsets"),
        (changed("a", shape=[2, 2]), r"'a': F32 of shape \[2, 2\] has 16 bytes"),
        (changed("a", shape=[2, -3]), r"'a': shape: expected whole numbers, got \[2, -3\]"),
        (changed("a", shape=[2, True]), "'a': shape: expected whole numbers"),
        (changed("a", shape="6"), "'a': shape: expected whole numbers"),
        (changed("a", data_offsets=[24, 0]), "'a': F32 of shape .* span -24"),
        (changed("a", data_offsets=[8, 32]), "'a' begins at byte .*, expected"),
        (changed("b", data_offsets=[28, 36]), "'b': ends at byte"),
        (changed("b", data_offsets=[24]), "'b': data_offsets: expected two whole numbers"),
        (changed("b", more=1), "'b': expected dtype, shape and data_offsets"),
        ({"a": HEADER["a"]}, "its header describes"),
        ({"a": []}, "'a': expected dtype, shape and data_offsets"),
        ([], "expected an object, got list"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b"{ ", "expected JSON"),
        (b"\xff\xff", "expected UTF-8"),
    ],
)
def test_a_header_that_lies_is_refused_by_name(tmp_path, fields, told):
    file = written(tmp_path / "model.safetensors", fields)
    with pytest.raises(UserError, match=told) as raised:
        tensor_file.tensors_of(tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"1234", (1 << 60).to_bytes(8, "little") + b"{}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="expected a safetensors file"):
        tensor_file.tensors_of(tmp_path)


def test_a_folder_without_safetensors_names_what_it_has(tmp_path):
    with pytest.raises(UserError, match=r"expected model.safetensors or .*, got no file"):
        tensor_file.tensors_of(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model.bin, a pickle, which is never read"):
        tensor_file.tensors_of(tmp_path)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (
            {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"},
            "names 2.safetensors, which is not there",
        ),
        ({"a": "1.safetensors"}, "tensor 'b': is in 1.safetensors, the index has it in no file"),
        (
            {"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"},
            "tensor 'c': is not in 1.safetensors",
        ),
        ({"a": "../1.safetensors"}, "expected a .safetensors file of this folder"),
        ({"a": 1}, "weight_map: expected the file of each tensor"),
        (None, "weight_map: expected the file of each tensor"),
    ],
)
def test_an_index_that_lies_is_refused_by_name(tmp_path, weights, told):
    written(tmp_path / "1.safetensors", HEADER)
    (tmp_path / tensor_file.INDEX).write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(UserError, match=told):
        tensor_file.tensors_of(tmp_path)
