"""Labelers and the owner: tokens, sessions and consent. Tokens are stored as SHA-256 hashes."""

import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_jax.errors import UserError, require
from rlhf_jax.labelling.database import Database

OWNER = "owner"  # the name of the owner, who sees the agreement and the export
LOCAL = "local"  # the labeler and owner at once who opens the page without a token
SESSION = 30 * 24 * 3600.0  # seconds until a session ends
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Person(NamedTuple):
    """Who has signed in."""

    name: str
    owner: bool
    labels: bool
    consented: bool


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def form_token(session: str) -> str:
    """The CSRF token of a session: HMAC-SHA256 of a constant under the session's secret, so that
    nobody can compute it who does not hold the cookie."""
    return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()


def is_form_token(session: str, text: str) -> bool:
    """Whether a text is the CSRF token of a session; its time says nothing of where they differ."""
    return hmac.compare_digest(form_token(session).encode(), text.encode())


class People:
    """The tables `people` and `sessions`."""

    def __init__(self, database: Database):
        self._database = database

    def register(self, labelers: Sequence[str], renewed: Sequence[str] = ()) -> dict[str, str]:
        """New tokens by name: of the owner and each labeler who has none yet, and of `renewed`,
        whose sessions end.

        No labeler is named: the one labeler `local` needs no token.
        Raises UserError where a name is not allowed, or one to renew is not known.
        """
        for name in labelers:
            allowed = "pseudonyms of a-z, 0-9, _ and -, 32 characters at most"
            ok = NAME.fullmatch(name) is not None and name not in (OWNER, LOCAL)
            require(ok, "labelers", name, f"{allowed}; not {OWNER} or {LOCAL}")
        made = {}
        with self._database.writing() as connection:
            if not labelers and not self._names(connection):
                insert = "INSERT INTO people VALUES (?, 1, 1, NULL, NULL)"
                connection.execute(insert, (LOCAL,))
            known = self._names(connection)
            for name in dict.fromkeys((OWNER, *labelers) if labelers else ()):
                if name not in known:
                    made[name] = secrets.token_urlsafe(32)
                    row = (name, name == OWNER, name != OWNER, digest(made[name]))
                    connection.execute("INSERT INTO people VALUES (?, ?, ?, ?, NULL)", row)
            for name in renewed:
                if name not in known | made.keys() or name == LOCAL:
                    raise UserError(f"renew: {name!r} has no token; {_list(known - {LOCAL})}")
                made[name] = secrets.token_urlsafe(32)
                update = "UPDATE people SET token = ? WHERE name = ?"
                connection.execute(update, (digest(made[name]), name))
                connection.execute("DELETE FROM sessions WHERE person = ?", (name,))
            if labelers:  # with tokens, nobody gets in without one
                connection.execute("DELETE FROM sessions WHERE person = ?", (LOCAL,))
        return made

    def _names(self, connection: sqlite3.Connection) -> set[str]:
        return {name for (name,) in connection.execute("SELECT name FROM people")}

    def names(self, labels: bool = True) -> list[str]:
        """All names, or (labels) those of labelers."""
        where = "WHERE labels" if labels else ""
        with self._database.reading() as connection:
            found = connection.execute(f"SELECT name FROM people {where} ORDER BY name")
            return [name for (name,) in found]

    def is_local(self) -> bool:
        """Whether nobody has a token: whoever opens the page on this machine is let in."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT 1 FROM people WHERE token IS NOT NULL LIMIT 1")
            return found.fetchone() is None

    def enter(self, token: str | None) -> str | None:
        """The secret of a new session of the person who has a token; None: nobody has it.

        token: None: of `local`, as long as nobody has a token.
        """
        session, now = secrets.token_urlsafe(32), time.time()
        with self._database.writing() as connection:
            find = "SELECT name FROM people WHERE token = ?"
            if token is None:
                find = ("SELECT name FROM people WHERE name = ? AND NOT EXISTS "
                        "(SELECT 1 FROM people WHERE token IS NOT NULL)")  # fmt: skip
            key = LOCAL if token is None else digest(token)
            person = connection.execute(find, (key,)).fetchone()
            if person is None:
                return None
            connection.execute("DELETE FROM sessions WHERE until < ?", (now,))
            row = (digest(session), person["name"], now + SESSION)
            connection.execute("INSERT INTO sessions VALUES (?, ?, ?)", row)
        return session

    def of_session(self, session: str) -> Person | None:
        """Who has signed in with a session; None: it is not known, or has ended."""
        find = ("SELECT name, owner, labels, consented FROM sessions JOIN people ON name = person "
                "WHERE hash = ? AND until > ?")  # fmt: skip
        with self._database.reading() as connection:
            row = connection.execute(find, (digest(session), time.time())).fetchone()
        if row is None:
            return None
        consented = row["consented"] is not None
        return Person(row["name"], bool(row["owner"]), bool(row["labels"]), consented)

    def leave(self, session: str) -> None:
        with self._database.writing() as connection:
            connection.execute("DELETE FROM sessions WHERE hash = ?", (digest(session),))

    def consent(self, name: str) -> None:
        with self._database.writing() as connection:
            update = "UPDATE people SET consented = ? WHERE name = ? AND consented IS NULL"
            connection.execute(update, (time.time(), name))

    def delete(self, name: str) -> int:
        """Deletes a labeler with all answers, and returns how many answers there were. Other
        labelers get the items. Raises UserError where there is no such labeler."""
        count = "SELECT count(*) FROM assignments WHERE person = ? AND state = 'answered'"
        with self._database.writing() as connection:
            known = self._names(connection) - {OWNER}
            if name not in known:
                raise UserError(f"no labeler {name!r}; {_list(known)}")
            (answers,) = connection.execute(count, (name,)).fetchone()
            connection.execute("DELETE FROM people WHERE name = ?", (name,))
        self._database.forget()
        return answers


def _list(names: set[str]) -> str:
    return f"labelers are {', '.join(sorted(names))}" if names else "there is no labeler"
