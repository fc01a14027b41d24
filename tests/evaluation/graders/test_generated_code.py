"""Generated programs: what passes, what fails, and what a program cannot do."""

import platform
import re
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.graders import confined, generated_code
from rlhf_jax.evaluation.graders.generated_code import Outcome, pass_at_k, passes, program

LINUX = sys.platform == "linux" and platform.machine() in confined.ALLOWED
confined_here = pytest.mark.skipif(not LINUX, reason="programs are confined on Linux only")
PROMPT = 'from typing import List\n\ndef add(a: int, b: int) -> int:\n    """a + b"""\n'
TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
# One program tries all, as each start takes time: what it must not do, each with its error.
FORBIDDEN = """
import os, socket, subprocess, threading
tries = {
    "socket": lambda: socket.socket(),
    "connect": lambda: socket.create_connection(("127.0.0.1", 80), 1),
    "write": lambda: open("a", "w"),
    "append": lambda: open("/tmp/a", "ab"),
    "update": lambda: open("/dev/null", "r+"),
    "remove": lambda: os.remove("/tmp/nothing"),
    "rename": lambda: os.rename("/tmp/nothing", "/tmp/other"),
    "link": lambda: os.symlink("/etc", "x"),
    "mode": lambda: os.chmod(".", 0o777),
    "fork": lambda: os.fork(),
    "start": lambda: subprocess.run(["true"]),
    "thread": lambda: threading.Thread(target=print).start(),
    "kill": lambda: os.kill(os.getppid(), 0),
    "limits": lambda: __import__("resource").setrlimit(7, (64, 64)),
}
free = []
for name, attempt in tries.items():
    try:
        attempt()
        free.append(name)
    except (PermissionError, RuntimeError, ValueError):
        pass
assert not free, free
"""

FORGED = """
import os
for stream in range(10):
    try:
        os.write(stream, b'{"passed": true}\\n')
    except OSError:
        pass
os._exit(0)
"""


def test_a_program_is_the_prompt_its_completion_and_the_tests():
    assert program(PROMPT, "    return a + b\n\ndef other():\n    1/0", TEST, "add") == (
        f"{PROMPT}    return a + b\n\n\n{TEST}\n\ncheck(add)\n"
    )
    fenced = "Sure:\n```python\ndef add(a, b):\n    return b + a\n```\nIt adds."
    assert program(PROMPT, fenced, TEST, "add") == (
        f"from typing import List\n\n\ndef add(a, b):\n    return b + a\n\n{TEST}\n\ncheck(add)\n"
    )
    other = "    return a\n```python\nprint(1)\n```"  # its block does not define the function
    assert program(PROMPT, other, TEST, "add").startswith(f"{PROMPT}    return a\n\n")


@confined_here
def test_a_right_solution_passes_and_a_wrong_one_fails():
    assert passes(program(PROMPT, "    return a + b", TEST, "add")) == Outcome(True)
    failed = passes(program(PROMPT, "    return a - b", TEST, "add"))
    assert failed == Outcome(False, "AssertionError:")


@confined_here
def test_a_program_has_no_network_no_files_and_no_processes():
    assert passes(FORBIDDEN) == Outcome(True)


@confined_here
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (FORGED, "ended by exit code 0"),
        ("[0] * 10**9", "MemoryError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("while True: pass", "SIGXCPU|SIGKILL"),
    ],
)
def test_what_does_not_reach_its_end_fails(source, why):
    found = passes(source, seconds=0.5, memory=1 << 28)
    assert not found.passed and re.search(why, found.why)


@confined_here
def test_a_program_that_waits_is_ended(monkeypatch):
    monkeypatch.setattr(generated_code, "WAIT", 0.5)
    assert passes("import time; time.sleep(99)", seconds=1) == Outcome(
        False, "took longer than 1.5 s"
    )


@confined_here
def test_a_machine_that_does_not_confine_runs_nothing(monkeypatch, tmp_path):
    """A filter that allows all is noticed before the program starts."""
    text = Path(confined.__file__).read_text()
    script = tmp_path / "confined.py"
    script.write_text(text.replace("ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050001",
                                   "ALLOW, FAIL, KILL = 0x7FFF0000, 0x7FFF0000"))  # fmt: skip
    monkeypatch.setattr(confined, "__file__", str(script))
    with pytest.raises(UserError, match="do not run here: not confined: a socket, a file to write"):
        passes("pass")


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_other_machines_are_refused(monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(generated_code.subprocess, "Popen", None)  # nothing is started
    with pytest.raises(UserError, match=f"only on Linux on x86_64 or aarch64, not {system} on"):
        passes("pass")


def test_the_filter_of_each_machine_jumps_inside():
    for machine, (_, _, allowed) in confined.ALLOWED.items():
        code = np.frombuffer(confined.rules(machine), "<u2,u1,u1,<u4")
        assert len(code) == 4 + 2 * len(allowed) + 5 and len(set(allowed)) == len(allowed)
        places = np.arange(len(code)) + 1 + np.maximum(code["f1"], code["f2"])
        assert places[:-1].max() < len(code) and code[-1]["f0"] == confined.RETURN
        assert code[-1]["f3"] == confined.FAIL


def test_pass_at_k_is_the_share_of_draws_with_one_that_passes():
    for n, c, k in [(1, 0, 1), (1, 1, 1), (5, 2, 1), (6, 2, 3), (6, 4, 3), (7, 0, 4)]:
        draws = list(combinations([1] * c + [0] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(draw) for draw in draws]))
    with pytest.raises(UserError, match="pass@2 of 1 samples"):
        pass_at_k(1, 1, 2)
