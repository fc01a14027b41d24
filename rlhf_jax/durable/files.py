"""Files of a run, on a disk or in a bucket. Paths are `etils.epath.Path`, such as gs://name/run.

A bucket has no rename, no append and no folders. A file written to it appears whole or not at all.
"""

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator

import fsspec
from etils import epath

from rlhf_jax.errors import require

# Listings are not cached: other processes and TensorStore write to the same bucket.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def in_bucket(path: epath.PathLike) -> bool:
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    return epath.Path(path if in_bucket(path) else os.path.abspath(path))


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file. Whatever interrupts it, even a power cut, the file is then old or new, whole.

    Creates the folder if it is missing. Raises OSError where the file cannot be written.
    """
    path = epath.Path(path)
    if in_bucket(path):
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def sync_directory(path: epath.PathLike) -> None:
    """Makes new and replaced names in a folder durable: a power cut no longer undoes them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: epath.Path) -> None:
    """Removes a file, or a folder with all its content; a missing path is no error."""
    path.rmtree(missing_ok=True)


def entries(folder: epath.Path) -> list[epath.Path]:
    """The paths in a folder, sorted by name; none where the folder does not exist."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def all_files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder."""
    for path in entries(folder):
        if path.is_dir():
            yield from all_files(path)
        else:
            yield path


def modified(path: epath.Path) -> float:
    """When a file was last written, in seconds."""
    return path.stat().mtime if in_bucket(path) else os.stat(path).st_mtime


def place(path: epath.PathLike, field: str) -> epath.Path:
    """The path as an epath. Raises ConfigError for a bucket that is not gs://, as Orbax needs."""
    ours = not in_bucket(path) or os.fspath(path).startswith("gs://")
    require(ours, field, os.fspath(path), "a directory of a disk, or gs://...")
    return epath.Path(path)


def writable_directory(path: epath.PathLike, field: str) -> None:
    """Creates a directory if missing. Raises ConfigError where no file can be written to it."""
    path = place(path, field)
    (_writable_bucket if in_bucket(path) else _writable_folder)(path, field)


def _writable_folder(path: epath.Path, field: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        reason = "it is a file" if path.is_file() else (error.strerror or str(error)).lower()
        require(False, field, str(path), f"a directory that can be written to: {reason}")


def _writable_bucket(path: epath.Path, field: str) -> None:
    probe = path / ".writable"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:  # depends on the library, which may also be missing
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        needs = "gs:// needs pip install 'rlhf-jax[gcs]' and credentials"
        require(False, field, str(path), f"a bucket that can be written to ({needs}): {reason}")


def local_copy(folder: epath.Path, mark: bytes) -> epath.Path:
    """The folder itself, or of a folder in a bucket a copy on disk, removed when the process ends.

    mark: identifies the folder's content, so that a copy of older content is not used.
    """
    if not in_bucket(folder):
        return folder
    name = hashlib.sha256(os.fspath(folder).encode() + b"\n" + mark).hexdigest()
    copy = epath.Path(_scratch().name) / name
    if not copy.exists():
        partial = epath.Path(tempfile.mkdtemp(dir=_scratch().name))
        for path in all_files(folder):
            target = partial / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        os.replace(partial, copy)
    return copy


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="rlhf-jax-")
