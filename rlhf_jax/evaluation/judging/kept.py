"""A judge's answers on disk, one JSON line each, so that no question is asked or paid for twice."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.durable.formats import FIELD, JUDGED
from rlhf_jax.errors import UserError


class Known(NamedTuple):
    """An answer; None: the judge gave an empty one.

    tokens: of its prompt and of itself; None: not known. In a file they are known, or the highest
      possible number.
    """

    answer: str | None
    tokens: tuple[int | None, int | None] = (0, 0)


class Kept:
    """Answers of one judge by request, in a file that is only appended to.

    spent: the tokens of the prompts and of the answers in the file.
    A line that a kill has cut is left out, and its question is asked again.
    Raises UserError where the file is of another format or cannot be read or written.
    """

    def __init__(self, folder: Path, judge: str):
        name = hashlib.sha256(judge.encode()).hexdigest()[:16]
        self.path, self.cut = folder / f"{name}.jsonl", 0
        self.spent = [0, 0]
        self._found: dict[str, Known] = {}
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._read(self.path.read_bytes(), judge)
        except OSError as error:
            raise UserError(f"{self.path}: the judge's answers cannot be kept there: "
                            f"{error.strerror}") from None  # fmt: skip

    def _read(self, content: bytes, judge: str) -> None:
        if b"\n" not in content:  # new, or a kill has cut the first line
            os.ftruncate(self._file, 0)
            os.write(self._file, _line({FIELD: JUDGED.now, "judge": judge}))
            return
        first, *lines = content.split(b"\n")
        JUDGED.check(_parsed(first).get(FIELD, -1), self.path)
        for line in filter(None, lines):
            record = _parsed(line)
            answer, tokens = record.get("answer"), record.get("tokens")
            if "key" not in record or not _counts(tokens):
                self.cut += 1
                continue
            self._add(record["key"], Known(answer, tuple(tokens)))
        if not content.endswith(b"\n"):
            os.write(self._file, b"\n")

    def _add(self, key: str, known: Known) -> None:
        self._found[key] = known
        self.spent = [a + b for a, b in zip(self.spent, known.tokens, strict=True)]

    def get(self, request: Mapping[str, Any]) -> Known | None:
        """The answer to a request; None where it is not known."""
        return self._found.get(_key(request))

    def put(self, request: Mapping[str, Any], known: Known) -> None:
        """Keeps an answer; it is on disk when this returns."""
        key = _key(request)
        with self._lock:
            self._add(key, known)
            record = {"key": key, "answer": known.answer, "tokens": list(known.tokens)}
            os.write(self._file, _line(record))
            os.fsync(self._file)


def _key(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _counts(tokens: Any) -> bool:
    """Whether these are two numbers of tokens."""
    return isinstance(tokens, list) and [type(n) for n in tokens] == [int, int]


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's object; an empty one where it is not whole."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
