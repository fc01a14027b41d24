"""The SQLite file of a labelling folder: its schema, and transactions that survive a kill.

The journal is a write-ahead log with synchronous = FULL: when a transaction returns, its rows are
on the disk. Rows (item, person) of `assignments` are unique, so that no item can be labeled twice
by one person, whatever tabs and processes do.
"""

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from rlhf_jax.durable.formats import LABELS
from rlhf_jax.errors import UserError, require

NAME = "labels.sqlite"
BUSY = 30.0  # seconds to wait for another process that writes
EVERYBODY = 2**31  # `wanted` of an item that each labeler gets
# people.token: SHA-256 of the token; NULL: who opens the page on this machine.
# items.wanted: how many labelers; items.taken: how many have answered it or have it before them.
# assignments.id: in the form of the page; a new one each time that an answer is taken back.
# assignments.places: the number of the output that is shown in each place.
# assignments.given, until, at: when it was given, until when it is kept, when it was answered.
SCHEMA = """
CREATE TABLE people (
    name TEXT PRIMARY KEY,
    owner INTEGER NOT NULL,
    labels INTEGER NOT NULL,
    token BLOB UNIQUE,
    consented REAL
) STRICT;
CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,
    person TEXT NOT NULL REFERENCES people ON DELETE CASCADE,
    until REAL NOT NULL
) STRICT;
CREATE TABLE batches (source TEXT PRIMARY KEY, items INTEGER NOT NULL) STRICT;
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    prompt TEXT NOT NULL,
    gold TEXT,
    digest TEXT NOT NULL UNIQUE,
    wanted INTEGER NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX waiting ON items (taken DESC, id) WHERE taken < wanted AND gold IS NULL;
CREATE INDEX golden ON items (id) WHERE gold IS NOT NULL;
CREATE TABLE outputs (
    item INTEGER NOT NULL REFERENCES items ON DELETE CASCADE,
    number INTEGER NOT NULL,
    text TEXT NOT NULL,
    ended INTEGER NOT NULL,
    origins TEXT NOT NULL,
    PRIMARY KEY (item, number)
) STRICT;
CREATE TABLE assignments (
    id TEXT PRIMARY KEY,
    item INTEGER NOT NULL REFERENCES items ON DELETE CASCADE,
    person TEXT NOT NULL REFERENCES people ON DELETE CASCADE,
    state TEXT NOT NULL CHECK (state IN ('open', 'late', 'answered', 'skipped')),
    places TEXT NOT NULL,
    given REAL NOT NULL,
    until REAL NOT NULL,
    at REAL,
    seconds REAL,
    content TEXT,
    UNIQUE (item, person)
) STRICT;
CREATE INDEX of_person ON assignments (person, state, at);
CREATE INDEX kept ON assignments (until) WHERE state = 'open';
"""
# `taken` is counted again whenever an assignment of the item changes.
COUNTED = """
CREATE TRIGGER counted_{event} AFTER {event} ON assignments BEGIN
    UPDATE items SET taken = (SELECT count(*) FROM assignments
        WHERE item = {row}.item AND state IN ('open', 'answered')) WHERE id = {row}.item;
END;
"""
LOCAL_FUSE = ("fuseblk", "fuse.fuse-overlayfs")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "coda", "davfs",
           "glusterfs", "gpfs", "lustre", "beegfs", "ocfs2", "gfs2", "orangefs", "pvfs2",
           "panfs", "wekafs")  # fmt: skip


def file_system(path: Path, mounts: str) -> str:
    """The kind of file system that holds a path, from the lines of /proc/mounts; "": not known."""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1])
        inside = place == "/" or path == Path(place) or Path(place) in path.parents
        if inside and len(place) >= len(best):
            best, kind = place, fields[2]
    return kind


def refuse_network(folder: Path, mounts: str | None = None) -> None:
    """Raises ConfigError where a folder is on a network file system, whose locks and memory maps
    do not hold what SQLite's write-ahead log needs.

    mounts: the content of /proc/mounts; None: it is read, where the system has it.
    """
    if mounts is None:
        with contextlib.suppress(OSError):
            mounts = Path("/proc/mounts").read_text(errors="surrogateescape")
    kind = file_system(Path(os.path.realpath(folder)), mounts or "")
    remote = kind in NETWORK or (kind.startswith("fuse") and kind not in LOCAL_FUSE)
    require(not remote, "to", str(folder), f"on a local disk; it is on a network file system, "
            f"{kind}")  # fmt: skip


class Database:
    """labels.sqlite of a folder. One connection, which threads use in turn; other processes may
    use the file at the same time.

    Raises UserError where the file cannot be opened, is none of ours, or is of a later version.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder) / NAME
        require(sqlite3.sqlite_version_info >= (3, 37), "sqlite3", sqlite3.sqlite_version,
                "3.37 or newer")  # fmt: skip
        refuse_network(Path(folder))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._turn = threading.RLock()  # a transaction within another is an error, not a deadlock
        try:
            self._open()
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: cannot be opened: {error}") from None

    def _open(self) -> None:
        # A file that is there is not opened: closing it would end the locks of this process on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._connection = sqlite3.connect(
            self.path, timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        self._refuse_other(self._connection)
        (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        require(mode == "wal", "to", str(self.path.parent), "on a disk that a write-ahead log "
                "can be on")  # fmt: skip
        for setting in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {setting}")
        with self.writing() as connection:
            if self._refuse_other(connection) == 0:
                self._create(connection)

    def _refuse_other(self, connection: sqlite3.Connection) -> int:
        """The format of the file; 0: it is empty."""
        (number,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if number or tables:
            LABELS.check(number, self.path)
        return number

    def _create(self, connection: sqlite3.Connection) -> None:
        events = {"INSERT": "NEW", "UPDATE": "NEW", "DELETE": "OLD"}
        made = SCHEMA.split(";\n") + [COUNTED.format(event=e, row=r) for e, r in events.items()]
        for statement in made:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {LABELS.now}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start. When the block ends its rows are
        on the disk; when it raises, nothing has changed."""
        with self._turn:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            try:
                self._connection.execute("COMMIT")
            except BaseException:  # the disk is full, or another process holds the file
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the file."""
        with self._turn:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    def forget(self) -> None:
        """Overwrites what deleted rows have left in the file and its log."""
        with self._turn:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        with self._turn:
            self._connection.close()
