"""Safetensors files: their header is checked against the file before any tensor is read.

The format (https://github.com/huggingface/safetensors#format): 8 bytes N, little-endian; N bytes of
JSON, {name: {"dtype", "shape", "data_offsets": [begin, end]}}, with offsets from the end of the
header; then the bytes of the tensors, without gaps.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from etils import epath

from rlhf_jax.durable.files import in_bucket
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json, read_json

DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Bits of a number in each format that a file may hold, of tensors that are not read too.
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
NAMED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # as config.json spells them
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
LARGEST_HEADER = 100_000_000  # bytes, as in the reference implementation
METADATA = "__metadata__"


class Stored(NamedTuple):
    """A tensor in a file. start: the offset of its first byte in the file."""

    file: epath.Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8

    def check_dtype(self) -> None:
        """Raises UserError where its number format is none that parameters are read from."""
        if self.dtype not in DTYPES:
            raise UserError(f"{self.file}: tensor {self.name!r}: dtype: expected one of "
                            f"{', '.join(DTYPES)}, got {self.dtype!r}")  # fmt: skip

    def read(self) -> np.ndarray:
        """The tensor in the file's dtype: on a disk a view of the file, whose pages are read when
        they are used. Raises UserError as `check_dtype` does."""
        self.check_dtype()
        dtype = DTYPES[self.dtype]
        if self.bytes == 0:
            return np.zeros(self.shape, dtype)
        if not in_bucket(self.file):
            return np.memmap(self.file, dtype, "r", self.start, self.shape)
        with self.file.open("rb") as file:
            file.seek(self.start)
            return np.frombuffer(file.read(self.bytes), dtype).reshape(self.shape)


def read_header(file: epath.PathLike) -> dict[str, Stored]:
    """The tensors of a safetensors file, by name.

    Raises UserError naming file and tensor where the header is no such JSON, or where a dtype, a
    shape or an offset does not agree with the others or with the file's size.
    """
    file = epath.Path(file)
    fields, begin, size = _header(file)
    found, parts = {}, []
    for name, about in fields.items():
        if name != METADATA:
            stored, span = _stored(file, name, about, begin, size)
            found[name] = stored
            parts.append((*span, name))
    end = begin
    for start, stop, name in sorted(parts):
        if start != end:
            raise UserError(f"{file}: tensor {name!r} begins at byte {start}, expected {end}, "
                            "where the tensor before it ends")  # fmt: skip
        end = stop
    if end != size:
        raise UserError(f"{file}: has {size} bytes, its header describes {end}")
    return found


def _header(file: epath.Path) -> tuple[dict[str, Any], int, int]:
    """(the header's fields, the offset of the first tensor, the file's size)."""
    try:
        size = file.stat().length
        with file.open("rb") as content:
            first = content.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
                raise UserError(f"{file}: expected a safetensors file, got a header of {length} "
                                f"bytes in a file of {size}")  # fmt: skip
            header = content.read(length)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        fields = parse_json(header, _no_name_twice)
    except UserError as error:
        raise UserError(f"{file}: header: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{file}: header: expected an object, got {type(fields).__name__}")
    return fields, 8 + length, size


def _no_name_twice(pairs: list) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice!r} stands twice")
    return found


def _stored(
    file: epath.Path, name: str, about: Any, begin: int, size: int
) -> tuple[Stored, tuple[int, int]]:
    """A tensor, and where it begins and ends in the file."""
    where = f"{file}: tensor {name!r}"
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{where}: expected dtype, shape and data_offsets, got {about!r}"[:300])
    dtype, shape, offsets = (about[field] for field in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise UserError(f"{where}: dtype: expected one of {', '.join(BITS)}, got {dtype!r}")
    if not _counts(shape):
        raise UserError(f"{where}: shape: expected whole numbers, got {shape!r}")
    if not _counts(offsets) or len(offsets) != 2:
        raise UserError(f"{where}: data_offsets: expected two whole numbers, got {offsets!r}")
    stored = Stored(file, name, dtype, tuple(shape), begin + offsets[0])
    start, stop = begin + offsets[0], begin + offsets[1]
    if stop - start != stored.bytes:
        raise UserError(f"{where}: {dtype} of shape {shape} has {stored.bytes} bytes, its "
                        f"data_offsets {offsets} span {stop - start}")  # fmt: skip
    if stop > size:
        raise UserError(f"{where}: ends at byte {stop} of a file of {size}")
    return stored, (start, stop)


def _counts(value: Any) -> bool:
    whole = lambda each: isinstance(each, int) and not isinstance(each, bool) and each >= 0
    return isinstance(value, list) and all(map(whole, value))


def tensors_of(folder: epath.PathLike) -> dict[str, Stored]:
    """The tensors of a folder, by name: of model.safetensors, or, where it is not there, of the
    files that model.safetensors.index.json lists. transformers reads them in this order.

    Raises UserError where the folder has neither, or where the index and the files do not agree.
    """
    folder = epath.Path(folder)
    if (folder / WHOLE).is_file():
        return read_header(folder / WHOLE)
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder}: expected {WHOLE} or {INDEX}, got {_listed(folder)}")
    where, index = folder / INDEX, read_json(folder / INDEX)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"{where}: weight_map: expected the file of each tensor, by name")
    found: dict[str, Stored] = {}
    for name in sorted(set(files.values())):
        if epath.Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{where}: {name!r}: expected a .safetensors file of this folder")
        if not (folder / name).is_file():
            raise UserError(f"{where} names {name}, which is not there")
        for tensor, stored in read_header(folder / name).items():
            if files.get(tensor) != name:
                raise UserError(f"{where}: tensor {tensor!r}: is in {name}, the index has it in "
                                f"{files.get(tensor, 'no file')}")  # fmt: skip
            found[tensor] = stored
    if missing := sorted(files.keys() - found.keys()):
        raise UserError(f"{where}: tensor {missing[0]!r}: is not in {files[missing[0]]}")
    return found


def _listed(folder: epath.Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickled:
        return f"{pickled[0]}, a pickle, which is never read"
    return ", ".join(names[:8]) or "no file"


class Tensor(NamedTuple):
    """A tensor to write. read: gives its values; called when it is written."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def write_files(
    folder: epath.Path, tensors: Iterable[Tensor], dtype: str, largest: int
) -> dict[str, str]:
    """Writes tensors as float32, float16 or bfloat16, one at a time, into files of at most
    `largest` bytes (a larger tensor has its own); more than one file get an index. Returns the file
    of each tensor."""
    groups = _groups(list(tensors), NAMED[dtype], largest)
    total = sum(math.prod(tensor.shape) for group in groups for tensor in group)
    found = {}
    for number, group in enumerate(groups, 1):
        several = f"model-{number:05}-of-{len(groups):05}.safetensors"
        name = several if len(groups) > 1 else WHOLE
        write_file(folder / name, group, NAMED[dtype])
        found |= {tensor.name: name for tensor in group}
    if len(groups) > 1:
        size = total * DTYPES[NAMED[dtype]].itemsize
        index = {"metadata": {"total_size": size}, "weight_map": found}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return found


def _groups(tensors: Sequence[Tensor], dtype: str, largest: int) -> list[list[Tensor]]:
    groups, size = [[]], 0
    for tensor in tensors:
        own = math.prod(tensor.shape) * DTYPES[dtype].itemsize
        if groups[-1] and size + own > largest:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += own
    return groups


def write_file(path: epath.Path, tensors: Sequence[Tensor], dtype: str) -> None:
    fields: dict[str, Mapping] = {METADATA: {"format": "pt"}}  # transformers refuses other values
    end = 0
    for tensor in tensors:
        start, end = end, end + math.prod(tensor.shape) * DTYPES[dtype].itemsize
        fields[tensor.name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors:
            file.write(_rounded(tensor, DTYPES[dtype]).tobytes())


def _rounded(tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    values = tensor.read()
    if values.shape != tensor.shape:
        raise ValueError(f"{tensor.name}: shape {values.shape}, not {tensor.shape}")
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    if lost := int((np.isfinite(values) & ~np.isfinite(rounded.astype(np.float32))).sum()):
        raise UserError(f"tensor {tensor.name!r}: {lost} of its numbers are beyond {dtype.name}; "
                        "give --dtype bfloat16 or float32")  # fmt: skip
    return rounded
