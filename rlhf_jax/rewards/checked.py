"""The number that a Python function gives."""

import dataclasses
import functools
import hashlib
import math
import re
import sys
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp

from rlhf_jax.durable.fingerprint import NOT_FINGERPRINTED
from rlhf_jax.errors import UserError, require
from rlhf_jax.rewards.reward import Reward
from rlhf_jax.rewards.workers import Workers

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
SHOWN = 60  # characters of a prompt in a message


@dataclasses.dataclass(frozen=True)
class CheckedReward(Reward):
    """f(prompt, response, record) of a module, called on the host.

    checker   "module:function"; the module may lie in the experiment's folder
    seconds   a call may take so long
    workers   processes that call it, each a row at a time; they see no accelerator
    on_error  what a response scores whose call raises, returns no finite number or takes too long;
              None: the run ends

    record is a dict of JSON values: the prompt, an `answer` where the data have one, and whatever
    other fields the prompt's record has. The file that defines the function is part of the run's
    config; what it imports is not.
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
        """The SHA-256 of the file that defines the function; None where that is no file."""
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
                    raise UserError(f"{self.checker}: {lines[0]}; on_error = SCORE would go on")

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
    """The file that defines a function; None where that is no file. A process imports it, once for
    all times that a run asks; path: where modules are found.

    Raises UserError where it cannot be imported.
    """
    workers = Workers(checker, 1, math.inf)
    try:
        workers.start()
        return workers.file
    finally:
        workers.close()
