"""A batch on disk for `rlhf-jax replay`: arrays and JSON in a .npz file, nothing pickled."""

import io
import json
import zipfile
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json

ABOUT = "about.json"


def write_batch(path: epath.PathLike, batch: Any, about: dict) -> None:
    """Writes nested dicts of arrays, and JSON values `about` them, atomically."""
    leaves = jax.tree.flatten_with_path(batch)[0]
    name = lambda p: jax.tree_util.keystr(p, simple=True, separator="/")
    arrays = {name(p): np.asarray(x) for p, x in leaves}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{ABOUT: text}, **arrays)
    write_atomically(path, content.getvalue())


def read_batch(path: epath.PathLike) -> tuple[Any, dict]:
    """The batch, and the `about` that was written with it.

    Raises:
        UserError: the file is absent, is not such a file, or holds pickled Python objects.
    """
    try:
        with np.load(io.BytesIO(epath.Path(path).read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = parse_json(arrays.pop(ABOUT).tobytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError,
            zipfile.BadZipFile, zlib.error, RuntimeError, UserError):  # fmt: skip
        # NumPy's own message is not shown: it advises to unpickle the file.
        told = "expected a batch saved for replay, got another file or a damaged one"
        raise UserError(f"{path}: {told}") from None
    if not isinstance(about, dict):
        raise UserError(f"{path}: expected a batch saved for replay, got other JSON")
    batch: dict = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        place = batch
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return batch.get("", batch), about
