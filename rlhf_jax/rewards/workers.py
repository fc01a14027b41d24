"""Processes that call the function of a reward term, each one row at a time."""

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

IMPORT = 120.0  # time limit for importing the module, in seconds


class Worker:
    """One process; `number` is the row that it is working on."""

    def __init__(self, checker: str):
        module, function = checker.split(":")
        about = {"path": sys.path, "module": module, "function": function}
        # In a session of its own, so that Ctrl-C reaches only the run, which ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        self.ready, self.number, self._answer = False, None, b""
        self.deadline = time.monotonic() + IMPORT
        with contextlib.suppress(BrokenPipeError):  # the process has ended; `read` reports it
            self._write(about)

    def fileno(self) -> int:
        return self._process.stdout.fileno()

    def send(self, number: int, row: dict, seconds: float) -> bool:
        """Sends a row; returns False if the process has ended."""
        try:
            self._write(row)
        except BrokenPipeError:
            return False
        self.number, self.deadline = number, time.monotonic() + seconds
        return True

    def read(self) -> dict | None:
        """The answer, once its line is complete; None before; {} if the process has ended."""
        part = os.read(self.fileno(), 65536)
        self._answer += part
        if part and not part.endswith(b"\n"):
            return None
        whole, self._answer = self._answer, b""
        self.deadline = math.inf
        return json.loads(whole) if part else {}

    def ended(self) -> str:
        """How the process has ended, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.poll()
        if code is not None and code < 0:
            return f"was cut short: its process ended by {signal.Signals(-code).name}"
        return f"was cut short: its process ended with exit code {code}"

    def kill(self) -> None:
        """Kills the process and all processes that it has started."""
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
    """Up to `count` worker processes, started when they are needed."""

    def __init__(self, checker: str, count: int, seconds: float):
        self._checker, self._count, self._seconds = checker, count, seconds
        self._workers: list[Worker] = []
        self.file: str | None = None  # the function's file, known once a worker has imported it

    def start(self) -> None:
        """Starts one worker, to check that the function can be imported.

        Raises UserError where it cannot.
        """
        self._workers.append(Worker(self._checker))
        self._until(lambda: self._workers[0].ready, lambda number, answer: None)

    def call(self, rows: Sequence[dict], failed: Callable[[int, str], None]) -> list[float | None]:
        """The function's result for each row; None where the call failed. failed(number, why) is
        called for each failed row.

        Raises UserError where the function cannot be imported. After that, and if `failed` raises,
        no worker is left.
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
        """Reads the workers' answers until over(); after an error no worker is left."""
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
        """Removes a worker that has ended or was too slow; `call` starts a new one if needed."""
        self._drop(one)
        if not one.ready:
            raise self._not_there(why)
        if one.number is not None:
            told(one.number, {"failed": why})

    def _drop(self, one: Worker) -> None:
        self._workers.remove(one)
        one.kill()

    def _not_there(self, why: str) -> UserError:
        return UserError(f"{self._checker}: the function cannot be imported: its import {why}")
