"""One run at a time in a directory."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import tensorstore
from etils import epath

from rlhf_jax.durable.files import absolute, in_bucket
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json

NAME = "lock"
SIGN = 20.0  # seconds between two signs of life in a bucket
SILENCE = 90.0  # seconds without a sign of life after which a holder counts as dead
LOG = logging.getLogger(__name__)
_mine: set[str] = set()  # locks of this process, which may take the same lock twice


@contextlib.contextmanager
def lock(directory: epath.PathLike) -> Iterator[None]:
    """Locks a directory for this process.

    On a disk the operating system releases the lock however the process ends.

    In a bucket the lock is an object. Its holder rewrites it every SIGN seconds as a sign of life;
    each write succeeds only if nobody else has written since, so that of two processes that start
    at once one gets the lock. A holder that ends normally deletes the object. A killed holder
    counts as dead at once on its own host, where its process no longer exists. On other hosts it
    counts as dead after SILENCE seconds without a sign of life, for which a new process waits.
    Not guaranteed: a holder that is alive but gives no sign of life for so long (its machine is
    suspended or has no network) loses the lock to a waiting process. It ends at its next sign of
    life, and until then both processes may write.

    Raises:
        UserError: another process holds the lock; the message names the process.
    """
    path = absolute(directory) / NAME
    if str(path) in _mine:
        yield
        return
    with (_held_object if in_bucket(path) else _held_file)(path):
        _mine.add(str(path))
        try:
            yield
        finally:
            _mine.discard(str(path))


def holder(directory: epath.PathLike) -> str | None:
    """The process that holds the lock; None: nobody. In a bucket this may be a process that was
    killed on another host."""
    path = absolute(directory) / NAME
    if in_bucket(path):
        about = _about(_Object(path).read()[0])
        held = about is not None and (str(path) in _mine or not _is_dead(about))
        return _words(about) if held else None
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return _read(path)
    return None


def _in_use(path: epath.Path, who: str) -> UserError:
    return UserError(
        f"{path.parent} is in use by {who}: wait for its end, or give another directory"
    )


@contextlib.contextmanager
def _held_file(path: epath.Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{path}: cannot be locked: {error.strerror}") from error
            raise _in_use(path, _read(path)) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _read(path: epath.Path) -> str:
    return path.read_text().strip() or "another process"


class _Object:
    """The lock in a bucket. A write names the generation of the object that it replaces."""

    def __init__(self, path: epath.Path):
        bucket, _, name = str(path).removeprefix("gs://").partition("/")
        spec = {"driver": "gcs", "bucket": bucket}
        self._store, self._name = tensorstore.KvStore.open(spec).result(), name

    def read(self) -> tuple[bytes | None, bytes]:
        """(content, generation); the content is None where the object does not exist."""
        found = self._store.read(self._name).result()
        return (found.value if found.state == "value" else None), found.stamp.generation

    def replace(self, content: bytes | None, generation: bytes) -> bytes | None:
        """Writes the content, or deletes the object if it is None. Returns the new generation; None
        where the object no longer has the given generation: nothing is then written."""
        done = self._store.write(self._name, content, if_equal=generation).result()
        return done.generation or None


@contextlib.contextmanager
def _held_object(path: epath.Path) -> Iterator[None]:
    lock_object = _Object(path)
    about = {"process": os.getpid(), "host": socket.gethostname(), "id": uuid.uuid4().hex}
    content = json.dumps(about).encode()
    there, generation = lock_object.read()
    if there is not None:
        _wait_for_silence(path, lock_object, there, generation)
    generation = lock_object.replace(content, generation)
    if generation is None:  # another process was faster
        raise _in_use(path, _words(_about(lock_object.read()[0])))
    ended = threading.Event()
    held = [generation]  # the last generation that this process wrote
    signs = threading.Thread(
        target=_give_signs, args=(path, lock_object, content, held, ended), daemon=True
    )
    signs.start()
    try:
        yield
    finally:
        ended.set()
        signs.join()
        with contextlib.suppress(Exception):  # the next process takes the lock after SILENCE
            lock_object.replace(None, held[0])


def _give_signs(path, lock_object, content: bytes, held: list[bytes], ended) -> None:
    while not ended.wait(SIGN):
        try:
            generation = lock_object.replace(content, held[0])
        except Exception as error:  # for example of the network: it is tried again
            LOG.warning("%s: no sign of life could be written: %s", path, error)
            continue
        if generation is None:
            who = _words(_about(lock_object.read()[0]))
            print(f"rlhf-jax: {path.parent} was taken over by {who}, because this process gave no "
                  f"sign of life for {SILENCE:.0f} s; this process ends",
                  file=sys.stderr, flush=True)  # fmt: skip
            os._exit(2)
        held[0] = generation


def _wait_for_silence(path, lock_object, content: bytes, generation: bytes) -> None:
    """Returns where the holder is dead; raises UserError at its first sign of life."""
    about = _about(content)
    if _is_dead(about):
        return
    print(f"{path.parent}: held by {_words(about)}; waiting up to {SILENCE:.0f} s for a sign of "
          "life", flush=True)  # fmt: skip
    end = time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(SIGN / 10)
        now = lock_object.read()[1]
        if now != generation:
            raise _in_use(path, _words(about))


def _about(content: bytes | None) -> dict | None:
    if content is None:
        return None
    try:
        about = parse_json(content)
    except UserError:
        return {}
    return about if isinstance(about, dict) else {}


def _words(about: dict | None) -> str:
    if not about:
        return "another process"
    return f"process {about.get('process')} on {about.get('host')}"


def _is_dead(about: dict) -> bool:
    """Whether the process ran on this host and no longer exists. A process with our own number
    was an earlier one, for example before a container was restarted."""
    number = about.get("process")
    if about.get("host") != socket.gethostname() or not isinstance(number, int):
        return False
    if number == os.getpid():
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
