"""A reward term computed by a Python function."""

import dataclasses
import functools
import hashlib
import math
import re
import sys
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp

from rlhf_jax.errors import UserError, require
from rlhf_jax.fields import NOT_FINGERPRINTED
from rlhf_jax.rewards.reward import Reward
from rlhf_jax.rewards.workers import Workers

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
SHOWN = 60  # characters of a prompt in a message


@dataclasses.dataclass(frozen=True)
class CheckedReward(Reward):
    """The number that your Python function f(prompt, response, record) returns, on the host.

    checker   "module:function"; the module may be a file in the experiment's folder
    seconds   the time limit of a call
    workers   processes that call the function, each one row at a time, without accelerators
    on_error  the score of a response whose call raises an error, returns no finite number or takes
              too long; None: the run ends

    record is a dict of JSON values: the prompt, an `answer` if the data have one, and all other
    fields of the prompt's record. A resume checks that the file with the function has not changed;
    it does not check the modules that this file imports.
    """

    on_host: ClassVar = True
    checker: str
    seconds: float = dataclasses.field(default=10.0, metadata=NOT_FINGERPRINTED)
    workers: int = dataclasses.field(default=4, metadata=NOT_FINGERPRINTED)
    on_error: float | None = None

    def __post_init__(self):
        super().__post_init__()
        named = isinstance(self.checker, str) and NAME.fullmatch(self.checker) is not None
        require(named, "checker", self.checker, "'module:function'")
        require(0 < self.seconds < math.inf, "seconds", self.seconds, "positive and finite")
        require(self.workers > 0, "workers", self.workers, "positive")
        ok = self.on_error is None or math.isfinite(self.on_error)
        require(ok, "on_error", self.on_error, "finite, or None")

    def check(self):
        file_of(self.checker, tuple(sys.path))

    def identity(self):
        """The SHA-256 of the file that defines the function; None if it is not in a file."""
        file = file_of(self.checker, tuple(sys.path))
        return file and hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def function(self, host):
        workers = Workers(self.checker, self.workers, self.seconds)
        host.at_end(workers.close)

        def function(records, responses):
            lines = []

            def failed(number: int, why: str) -> None:
                prompt = records[number]["prompt"]
                shown = prompt if len(prompt) <= SHOWN else prompt[: SHOWN - 3] + "..."
                lines.append(f"the response to {shown!r}: the function {why}")
                if self.on_error is None:
                    way = "to go on with such calls, set on_error = SCORE"
                    raise UserError(f"{self.checker}: {lines[0]}; {way}")

            pairs = zip(records, responses, strict=True)
            rows = [{"prompt": r["prompt"], "response": text, "record": r} for r, text in pairs]
            found = workers.call(rows, failed)
            if lines:
                count = f"{len(lines)} of {len(rows)} calls failed and score {self.on_error:g}"
                print(f"{self.checker}: {count}; the first: {lines[0]}", flush=True)
            return found

        return function

    def of(self, judged):
        found = judged.found
        return found if self.on_error is None else jnp.where(jnp.isnan(found), self.on_error, found)


@functools.cache
def file_of(checker: str, path: tuple[str, ...]) -> str | None:
    """The file that defines a function; None if it is not in a file.

    A worker process imports it; the result is cached. path: `sys.path`, where modules are found.
    Raises UserError where the function cannot be imported.
    """
    workers = Workers(checker, 1, math.inf)
    try:
        workers.start()
        return workers.file
    finally:
        workers.close()
