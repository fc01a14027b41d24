"""Whatever a published model's files hold: it is read, or refused with an error of ours."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published import folder, tensor_file
from rlhf_jax.published.gguf_file import GGUF
from tests.faults.test_fuzz import cases, changed, damaged, refused_or
from tests.models.published import CONFIGS

HEADER = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "__metadata__": {"format": "pt"},
}
CONTENT = bytes(range(32))


def file_of(header, content=CONTENT) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


def read_all(path):
    """All numbers of a file that is not refused: its header must not lead outside of it."""
    for stored in tensor_file.read_header(path).values():
        values = stored.read()
        assert values.shape == stored.shape and values.nbytes == stored.bytes
        np.asarray(values).sum()


@cases(60)
@given(damaged(file_of(HEADER)) | changed(HEADER).map(file_of) | st.binary(max_size=60))
def test_safetensors(place, content):
    path = place / "model.safetensors"
    path.write_bytes(content)
    refused_or(read_all, path)


@cases(30)
@given(changed({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}))
def test_an_index(place, index):
    where = place / "indexed"
    where.mkdir(exist_ok=True)
    (where / "1.safetensors").write_bytes(file_of(HEADER))
    (where / tensor_file.INDEX).write_text(json.dumps(index))
    refused_or(tensor_file.tensors_of, where)


@cases(60)
@given(st.sampled_from(sorted(CONFIGS)).flatmap(lambda name: changed(CONFIGS[name])))
def test_a_config(place, fields):
    (place / "config.json").write_text(json.dumps(fields))
    found = refused_or(folder.Folder(place).shape)
    assert found is None or isinstance(found, TransformerConfig)


GGUF_FILE = (
    b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    + struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    + struct.pack("<Q", 3) + b"a.b" + struct.pack("<IQIQ", 1, 8, 0, 0) + bytes(64)
)  # fmt: skip


def read_gguf(path):
    for tensor in GGUF(path).tensors.values():
        tensor.read()


@cases(40)
@given(damaged(GGUF_FILE))
def test_gguf(place, content):
    path = place / "some.gguf"
    path.write_bytes(content)
    refused_or(read_gguf, path)


def test_what_is_damaged_above_is_read_as_it_is(place):
    path = place / "whole.safetensors"
    path.write_bytes(file_of(HEADER))
    read_all(path)
    (place / "whole.gguf").write_bytes(GGUF_FILE)
    assert list(GGUF(place / "whole.gguf").tensors) == ["a.b"]
