"""Whether generated Python programs pass their tests, each run in a confined process."""

import json
import math
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.graders import confined
from rlhf_jax.strict_json import parse_json

SECONDS, MEMORY = 10.0, 1 << 30
WAIT = 60.0  # seconds by the clock, beyond those of CPU time
# Where a completion of a function ends: at the next top-level statement.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```", "\nassert")
BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)


class Outcome(NamedTuple):
    """Whether a program ran to its end without an error, and if not, why."""

    passed: bool
    why: str = ""


def program(prompt: str, response: str, test: str, entry_point: str) -> str:
    """The source of a HumanEval item: the function with its completion, then its tests.

    A response with a block of code that defines the function is that block behind the prompt's
    imports; other responses continue the prompt up to the next top-level statement.
    """
    blocks = [block for block in BLOCK.findall(response) if f"def {entry_point}" in block]
    if blocks:
        code = prompt[: prompt.index(f"def {entry_point}")] + "\n" + blocks[0]
    else:
        code = prompt + cut(response, STOPS)
    return f"{code}\n\n{test}\n\ncheck({entry_point})\n"


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first of these strings."""
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


def passes(source: str, seconds: float = SECONDS, memory: int = MEMORY) -> Outcome:
    """Runs a program in a process of its own (graders/confined.py).

    seconds: of CPU time; by the clock it has WAIT more. memory: bytes of address space.
    Raises UserError where this machine cannot confine it: not Linux on x86_64 or aarch64, or a
    kernel that does not enforce what is asked of it. The program does not run then.
    """
    if sys.platform != "linux" or platform.machine() not in confined.ALLOWED:
        machine = f"{sys.platform} on {platform.machine()}"
        raise UserError(f"generated programs run only on Linux on x86_64 or aarch64, not {machine}")
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", confined.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        token = secrets.token_hex(16)  # so that what a program prints is not taken for success
        asked = {"program": source, "seconds": seconds, "memory": memory, "token": token}
        try:
            out, _ = process.communicate(json.dumps(asked).encode() + b"\n", timeout=seconds + WAIT)
        except subprocess.TimeoutExpired:
            return Outcome(False, f"took longer than {seconds + WAIT:g} s")
        finally:
            _kill(process)
    return _outcome(out, process.returncode, token)


def _kill(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def _outcome(out: bytes, code: int, token: str) -> Outcome:
    lines = out.splitlines()
    try:
        answer = parse_json(lines[-1]) if lines else {}
    except UserError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    if "refused" in answer:
        raise UserError(f"generated programs do not run here: not confined: {answer['refused']}")
    passed = answer.get("passed") == token
    if not passed and "failed" not in answer:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Outcome(False, f"its process ended by {name}")
    return Outcome(passed, "" if passed else str(answer["failed"]))


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The probability that one of k of the samples passes: 1 - C(n - c, k) / C(n, k), without bias.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise UserError(f"pass@{k} of {samples} samples, {passed} passed: 1 <= k <= samples needed")
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)
