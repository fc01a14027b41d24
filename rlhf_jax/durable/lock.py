"""One run at a time in a directory."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from rlhf_jax.errors import UserError

NAME = "lock"
_mine: set[Path] = set()  # held by this process: to hold one twice is no conflict


@contextlib.contextmanager
def lock(directory: str | Path) -> Iterator[None]:
    """Holds a directory; however the process ends, the system lets it go.

    Raises:
        UserError: another process holds it; the message names it.
    """
    path = Path(directory).absolute() / NAME
    if path in _mine:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{path}: cannot be locked: {error.strerror}") from error
            raise UserError(
                f"{directory} is in use by {_read(path)}: wait for its end, or give another "
                "directory"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        _mine.add(path)
        try:
            yield
        finally:
            _mine.discard(path)


def holder(directory: str | Path) -> str | None:
    """Who holds the directory now; None: nobody."""
    path = Path(directory) / NAME
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return _read(path)
    return None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() or "another process"
