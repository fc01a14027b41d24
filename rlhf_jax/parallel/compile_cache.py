"""Compiled programs that later commands read from a folder: JAX's persistent compilation cache.

FOLDER/KEY/*-cache   one program each; KEY names jaxlib's version and the CPU
FOLDER/KEY/checked   when the entries were last checked
FOLDER/KEY/usable    on CPUs: a second process has read what an earlier one wrote
FOLDER/KEY/rejected  on CPUs: it could not
"""

import contextlib
import functools
import hashlib
import os
import platform
import stat
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from rlhf_jax.errors import require
from rlhf_jax.parallel.config import AUTO, ParallelConfig

PROGRAMS = ".programs"  # in the directory of a run with `deterministic`
LARGEST = 2 * 2**30  # bytes of all entries; beyond them the oldest are removed
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # an entry's first bytes where JAX has compressed it by Zstandard
HIT = "/jax/compilation_cache/cache_hits"
OTHER_CPU = "on the host machine"  # XLA says of an entry what the CPU does not support


def use(setting: str | None) -> None:
    """Keeps compiled programs as `ParallelConfig.compile_cache` says. Call it before compiling.

    "auto" leaves a folder that the environment (JAX_COMPILATION_CACHE_DIR) or the caller has given
    to JAX. Where programs cannot be kept, stderr says why, and everything is compiled.
    """
    now, default = jax.config.jax_compilation_cache_dir, user_folder()
    if setting is None:
        _set(None if now and Path(now).parent == default else now)
    if setting is None or (setting == AUTO and now):
        return
    base = default if setting == AUTO else Path(setting)
    try:
        folder = own_folder(base)
        _check(folder)
        _shrink(base)
    except OSError as error:
        _say(str(error))
        return
    _set(str(folder))
    if jax.default_backend() == "cpu" and not _usable(folder):
        _set(None)


def folder_of(config: ParallelConfig, directory: os.PathLike | str) -> str | None:
    """The setting for `use` of a run in this directory: `config.compile_cache`, or on GPUs with
    `deterministic` a folder of the run. JAX keeps XLA's choice of kernels in the same folder, so
    that a resumed run computes with those that it began with.

    Raises ConfigError where the directory of such a run is not on a disk.
    """
    if not config.deterministic or jax.default_backend() not in ("gpu", "cuda"):
        return config.compile_cache
    allowed = "a folder of a disk: parallel.deterministic keeps compiled programs there"
    require("://" not in os.fspath(directory), "out", os.fspath(directory), allowed)
    return str(Path(directory, PROGRAMS))


def user_folder() -> Path:
    """rlhf_jax in the user's cache directory."""
    home = os.environ.get("HOME") or "/nonexistent"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "rlhf_jax"


def key() -> str:
    """Names jaxlib's version and this CPU: a program of one may not run on another."""
    about = {platform.processor()}
    with contextlib.suppress(OSError):  # no Linux
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        about |= {x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))}
    digest = hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()[:12]
    return f"jaxlib-{version('jaxlib')}-{platform.machine()}-{digest}"


def own_folder(base: Path) -> Path:
    """base/KEY, which only this user may read and write: an entry is a program that will run.

    Raises OSError where there is no such folder and it cannot be made.
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = base / key()
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    own = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
    if not own or about.st_mode & 0o077:
        raise OSError(f"{folder}: expected a folder of this user with mode 0700")
    return folder


def _set(folder: str | None) -> None:
    if folder != jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()  # where something is compiled already


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"))


def _check(folder: Path) -> None:
    """Removes entries that a kill has cut short. JAX would warn of each, and never replace it."""
    mark = folder / "checked"
    since = mark.stat().st_mtime if mark.exists() else 0.0
    mark.touch()
    for entry in _entries(folder):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            if entry.stat().st_mtime >= since and not _whole(entry.read_bytes()):
                entry.unlink()


def _whole(content: bytes) -> bool:
    unpacker = zlib.decompressobj()
    if content.startswith(ZSTANDARD):
        try:
            from zstandard import ZstdDecompressor
        except ImportError:
            return True  # from Python 3.14 on JAX needs no such package
        unpacker = ZstdDecompressor().decompressobj()
    try:
        unpacker.decompress(content)
    except Exception:  # each package has its own
        return False
    return unpacker.eof


def _shrink(base: Path) -> None:
    found = []
    for entry in base.glob("*/*-cache"):
        with contextlib.suppress(FileNotFoundError):
            about = entry.stat()
            found.append((max(about.st_atime, about.st_mtime), about.st_size, entry))
    left = sum(size for _, size, _ in found)
    for _, size, entry in sorted(found):
        if left <= LARGEST:
            break
        entry.unlink(missing_ok=True)
        left -= size


def _usable(folder: Path) -> bool:
    """Whether this CPU may read what it has written. A first process cannot know, and writes."""
    if (folder / "usable").exists() or (folder / "rejected").exists():
        return (folder / "usable").exists()
    before = sorted(folder.glob("jit_rlhf_jax_probe-*"))
    hit, said = probe()
    if hit and OTHER_CPU not in said:
        (folder / "usable").touch()
    elif hit or (before and sorted(folder.glob("jit_rlhf_jax_probe-*")) == before):
        (folder / "rejected").touch()
        for entry in _entries(folder):
            entry.unlink(missing_ok=True)
        _say("a program that an earlier process has compiled cannot be read on this CPU")
        return False
    return True


def probe() -> tuple[bool, str]:
    """Compiles a small program: (whether it was read from the folder, what stderr says)."""

    def rlhf_jax_probe(x):
        return (x @ x).sum()

    hits = []
    listen = lambda event, **labels: hits.append(event == HIT)
    jax.monitoring.register_event_listener(listen)
    try:
        with _stderr() as said, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jax.jit(rlhf_jax_probe).lower(np.zeros((8, 8), np.float32)).compile()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    return any(hits), said[0]


@contextlib.contextmanager
def _stderr() -> Iterator[list[str]]:
    """Keeps what C++ code writes to standard error; the list holds it after the block."""
    said: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


@functools.cache
def _say(reason: str) -> None:
    print(f"compiled programs are not kept for later commands: {reason}", file=sys.stderr)
