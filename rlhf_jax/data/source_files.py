"""Digests of the files that records were read from: a file's identity in any folder."""

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import read_json

NAME = "sources.json"


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Computed once per process, and again if a file changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """{name: sha256 (hex)} of files of a folder.

    Raises:
      UserError: a file cannot be read.
    """
    found = {}
    for name in names:
        path = folder / name
        try:
            about = path.stat()
            found[name] = _sha256(path.resolve(), about.st_size, about.st_mtime_ns)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return found


def write_sources(directory: Path, folder: Path, files: dict[str, str]) -> None:
    """Stores in a data directory from which files it was made."""
    content = {"folder": str(folder.resolve()), "files": files}
    write_atomically(directory / NAME, json.dumps(content, indent=1).encode())


def known(directory: Path) -> dict[str, str] | None:
    """The digests of the files that a data directory was made from; None: from no files."""
    return read_json(directory / NAME)["files"] if (directory / NAME).is_file() else None


def check_sources(directory: Path, folder: Path, files: dict[str, str]) -> None:
    """Compares files with those that `write_sources` stored. Equal files in another folder are
    accepted, and a line says so.

    Raises UserError as `refuse_others` does.
    """
    there = refuse_others(directory, files)
    if there["folder"] != str(folder.resolve()):
        print(f"data: the same records, from {folder} (before: {there['folder']})", flush=True)
        write_sources(directory, folder, files)


def refuse_others(directory: Path, files: dict[str, str]) -> dict:
    """The content that `write_sources` stored in a directory.

    Raises:
      UserError: files have changed; the message names all of them.
    """
    there = read_json(directory / NAME)
    before, names = there["files"], sorted(there["files"].keys() | files.keys())
    if changed := [name for name in names if before.get(name) != files.get(name)]:
        each = "; ".join(
            f"{name} changed: sha256 {(before.get(name) or 'of no file')[:12]} there, "
            f"{(files.get(name) or 'of no file')[:12]} now"
            for name in changed
        )
        raise UserError(
            f"data: {each}. {directory} was made from other records (then in "
            f"{there['folder']}): give those, or another --out"
        )
    return there
