"""Processes that call the function of a reward, each one row at a time."""

import collections
import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from rlhf_jax.errors import UserError
from rlhf_jax.rewards import worker

IMPORT = 120.0  # seconds, to import the module


class Worker:
    """One process; `number` is the row that it works on."""

    def __init__(self, checker: str):
        module, function = checker.split(":")
        about = {"path": sys.path, "module": module, "function": function}
        # A session of its own: ctrl-C in a terminal is for the run, which ends its workers itself.
        self._process = subprocess.Popen(
            [sys.executable, worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        self.ready, self.number, self._answer = False, None, b""
        self.deadline = time.monotonic() + IMPORT
        with contextlib.suppress(BrokenPipeError):  # it has ended: `read` says so
            self._write(about)

    def fileno(self) -> int:
        return self._process.stdout.fileno()

    def send(self, number: int, row: dict, seconds: float) -> bool:
        """Whether it took the row."""
        try:
            self._write(row)
        except BrokenPipeError:
            return False
        self.number, self.deadline = number, time.monotonic() + seconds
        return True

    def read(self) -> dict | None:
        """The line that it answers with, once it is whole; {} where it has ended."""
        part = os.read(self.fileno(), 65536)
        self._answer += part
        if part and not part.endswith(b"\n"):
            return None
        whole, self._answer = self._answer, b""
        self.deadline = math.inf
        return json.loads(whole) if part else {}

    def ended(self) -> str:
        """How it has ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.poll()
        if code is not None and code < 0:
            return f"was cut short: its process ended by {signal.Signals(-code).name}"
        return f"was cut short: its process ended with exit code {code}"

    def kill(self) -> None:
        """Ends it, with what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _write(self, line: dict) -> None:
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()


class Workers:
    """As many processes as there are rows, `count` at most; started when they are needed."""

    def __init__(self, checker: str, count: int, seconds: float):
        self._checker, self._count, self._seconds = checker, count, seconds
        self._workers: list[Worker] = []
        self.file: str | None = None  # that defines the function, once a worker has imported it

    def start(self) -> None:
        """One, to see that the function is there.

        Raises UserError where it is not.
        """
        self._workers.append(Worker(self._checker))
        self._until(lambda: self._workers[0].ready, lambda number, answer: None)

    def call(self, rows: Sequence[dict], failed: Callable[[int, str], None]) -> list[float | None]:
        """The function's number of each row; None where it gave none, after failed(number, why).

        Raises UserError where the function cannot be imported; then, and where `failed` raises, no
        worker is left.
        """
        found: dict[int, float | None] = {}
        waiting = collections.deque(range(len(rows)))

        def told(number: int, answer: dict) -> None:
            found[number] = answer.get("score")
            if "failed" in answer:
                failed(number, answer["failed"])

        def over() -> bool:
            for one in [w for w in self._workers if w.ready and w.number is None]:
                if waiting and not one.send(waiting[0], rows[waiting[0]], self._seconds):
                    self._drop(one)
                elif waiting:
                    waiting.popleft()
            for _ in range(len(self._workers), min(self._count, len(rows) - len(found))):
                self._workers.append(Worker(self._checker))
            return len(found) == len(rows)

        self._until(over, told)
        return [found[number] for number in range(len(rows))]

    def close(self) -> None:
        while self._workers:
            self._drop(self._workers[0])

    def _until(self, over: Callable[[], bool], told: Callable[[int, dict], None]) -> None:
        """Hears what the workers say until it is over; none is left where that raises."""
        try:
            while not over():
                with selectors.DefaultSelector() as selector:
                    for one in self._workers:
                        selector.register(one, selectors.EVENT_READ)
                    next_end = min(one.deadline for one in self._workers)
                    wait = None if next_end == math.inf else max(0, next_end - time.monotonic())
                    heard = [key.fileobj for key, _ in selector.select(wait)]
                for one in heard:
                    self._hear(one, told)
                for one in [w for w in self._workers if w.deadline <= time.monotonic()]:
                    limit = self._seconds if one.ready else IMPORT
                    self._lost(one, f"took longer than {limit:g} s", told)
        except BaseException:
            self.close()
            raise

    def _hear(self, one: Worker, told: Callable[[int, dict], None]) -> None:
        answer = one.read()
        if answer is None:
            return
        if not answer:
            self._lost(one, one.ended(), told)
        elif one.ready:
            number, one.number = one.number, None
            told(number, answer)
        elif "failed" in answer:
            raise self._not_there(f"raised {answer['failed']}")
        else:
            one.ready, self.file = True, answer["file"]

    def _lost(self, one: Worker, why: str, told: Callable[[int, dict], None]) -> None:
        """Another takes its place when there is a row for it."""
        self._drop(one)
        if not one.ready:
            raise self._not_there(why)
        if one.number is not None:
            told(one.number, {"failed": why})

    def _drop(self, one: Worker) -> None:
        self._workers.remove(one)
        one.kill()

    def _not_there(self, why: str) -> UserError:
        return UserError(f"{self._checker}: the function is not there: its import {why}")
