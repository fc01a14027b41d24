"""A reward from a Python function: its values, what goes wrong, its processes, its identity."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.durable.fingerprint import fingerprint_of
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.rewards.checked import CheckedReward
from rlhf_jax.rewards.reward import Judged
from rlhf_jax.runs.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import os, subprocess, sys, time

print("imported")


def length(prompt, response, record):
    time.sleep(0.05 if response == "slow" else 0)
    return len(response) * record.get("factor", 1) + (prompt == record["prompt"]) * 1000


def process(prompt, response, record):
    open(os.path.join(response, str(os.getpid())), "w").close()
    limit = time.monotonic() + 10
    while len(os.listdir(response)) < record["at_once"] and time.monotonic() < limit:
        time.sleep(0.01)
    return os.getpid()


def fickle(prompt, response, record):
    print(response)
    match response:
        case "raise": raise ValueError("no\\nway")
        case "exit": sys.exit(3)
        case "nan": return float("nan")
        case "text": return "1"
        case "none": return None
        case "die": os._exit(7)
        case "killed": os.kill(os.getpid(), 9)
        case "hang": time.sleep(600)
        case "asks": return float(input())
    return True


def alone(prompt, response, record):
    lonely = "jax" not in sys.modules and "rlhf_jax" not in sys.modules
    return lonely and os.environ["JAX_PLATFORMS"] == "cpu" and not os.environ["CUDA_VISIBLE_DEVICES"]


def forever(prompt, response, record):
    open(response, "w").write(str(os.getpid()))
    sum(iter(int, 1))


def family(prompt, response, record):
    started = subprocess.Popen(["sleep", "60"])
    open(response, "w").write(f"{os.getpid()} {started.pid}")
    started.wait()


word = "no function"
"""  # noqa: E501
LIMIT = 4.0  # seconds, of a call that hangs


class Host:
    """Of a stage's inputs."""

    def __init__(self):
        self.close = None

    def at_end(self, close):
        self.close = close


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """The experiment's, where Python finds modules."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "judges.py").write_text(MODULE)
    (folder / "other.py").write_text("from judges import length\n")
    (folder / "broken.py").write_text("x = 1\nx / 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def made():
    """made(name): the term of a function with its workers, which start once for all tests."""
    hosts, known = [], {}

    def make(name: str):
        if name not in known:
            seconds = LIMIT if name == "fickle" else 100.0
            term, host = CheckedReward(f"judges:{name}", seconds, 2, on_error=-1.0), Host()
            known[name] = term, term.function(host)
            hosts.append(host)
        return known[name]

    yield make
    for host in hosts:
        host.close()


def asked(responses, **fields):
    return [{"prompt": "p" * 100, **fields} for _ in responses], list(responses)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


def gone(*processes: int) -> bool:
    """Within seconds."""
    limit = time.monotonic() + 10
    while any(map(is_there, processes)) and time.monotonic() < limit:
        time.sleep(0.02)
    return not any(map(is_there, processes))


def test_each_row_has_its_own_number_in_order(made):
    _, function = made("length")
    responses = ["slow", "a", "", "slow", "bb", "ccc", "\ud800\u00e9"]
    assert function(*asked(responses)) == [1004, 1001, 1000, 1004, 1002, 1003, 1002]
    assert function(*asked(["a", "bb"], factor=2.5)) == [1002.5, 1005]
    assert function([], []) == []
    long = "x" * 300_000  # more than a pipe holds
    assert function(*asked([long, "a"])) == [301_000, 1001]


def processes(function, folder: Path, at_once: int, rows: int) -> set[int]:
    folder.mkdir()
    return {int(found) for found in function(*asked([str(folder)] * rows, at_once=at_once))}


def test_two_processes_share_the_rows_and_stay(made, tmp_path):
    _, function = made("process")
    first = processes(function, tmp_path / "first", 2, rows=4)
    assert len(first) == 2 and os.getpid() not in first
    assert all(os.getsid(one) == one for one in first)  # ctrl-C in a terminal passes them by
    assert processes(function, tmp_path / "again", 2, rows=3) == first
    killed = min(first)
    os.kill(killed, signal.SIGKILL)  # one that waits: another takes its place
    assert gone(killed)
    after = processes(function, tmp_path / "after", 2, rows=2)
    assert len(after) == 2 and after & first == first - {killed}


def place(response: str) -> str:
    """Where it goes wrong."""
    before = MODULE[: MODULE.index(f'case "{response}"')]
    return f"judges.py:{1 + before.count(chr(10))}"


FAILS = {
    "raise": f"the function raised ValueError: no way ({place('raise')})",
    "exit": f"the function raised SystemExit: 3 ({place('exit')})",
    "nan": "the function returned nan, which is no finite number",
    "text": "the function returned '1', which is no finite number",
    "none": "the function returned None, which is no finite number",
    "die": "the function was cut short: its process ended with exit code 7",
    "killed": "the function was cut short: its process ended by SIGKILL",
    "hang": "the function took longer than 4 s",
    "asks": f"the function raised EOFError: EOF when reading a line ({place('asks')})",
}


@pytest.mark.parametrize("response", FAILS)
def test_a_call_that_fails_scores_as_said_and_the_others_go_on(made, response, capfd):
    term, function = made("fickle")
    found = function(*asked(["a", response, "b", "c"]))
    assert found == [1.0, None, 1.0, 1.0]
    judged = Judged({}, np.array(found, np.float32), None, None)
    assert term.of(judged).tolist() == [1.0, -1.0, 1.0, 1.0]
    shown = "p" * 57 + "..."
    assert capfd.readouterr().out == (
        f"judges:fickle: 1 of 4 calls failed and score -1; the first: the response to {shown!r}: "
        f"{FAILS[response]}\n"
    )


def test_by_default_a_call_that_fails_ends_the_run_and_no_process_is_left(tmp_path):
    host, before = Host(), set(children())
    function = CheckedReward("judges:process", workers=2).function(host)
    others = processes(function, tmp_path / "two", 2, rows=2)
    with pytest.raises(UserError) as told:  # while the other is at work
        CheckedReward("judges:fickle", 100.0, 2).function(Host())(
            [{"prompt": "short"}] * 2, ["hang", "raise"]
        )
    assert str(told.value) == (
        f"judges:fickle: the response to 'short': {FAILS['raise']}; to go on with such calls, set "
        "on_error = SCORE"
    )
    assert all(map(is_there, others))
    host.close()
    assert gone(*others) and set(children()) == before


def children() -> list[int]:
    """Workers of this process."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = (place / "stat").read_text().rsplit(")", 1)[1].split()[1]
            line = (place / "cmdline").read_text()
        except OSError:
            continue
        if int(parent) == os.getpid() and "rewards/worker.py" in line:
            found.append(int(place.name))
    return found


def test_an_interrupt_leaves_no_process(made, tmp_path):
    before = set(children())
    function = CheckedReward("judges:family", 60, 2).function(Host())
    place = tmp_path / "process"

    def interrupt():
        while not place.is_file() or not place.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # by a worker of xdist
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            function(*asked([str(place)]))
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert gone(*map(int, place.read_text().split())) and set(children()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent")
def test_a_worker_ends_with_what_started_it_even_inside_a_call(folder, tmp_path):
    code = (
        "import sys; from rlhf_jax.rewards.workers import Workers; "
        "workers = Workers('judges:forever', 1, 600.0); row = {'prompt': 'p', 'record': {}}; "
        "workers.call([row | {'response': sys.argv[1]}], print)"
    )
    place, path = tmp_path / "process", f"{ROOT}{os.pathsep}{folder}"
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(place)], env=os.environ | {"PYTHONPATH": path}
    )
    while not place.is_file() or not place.read_text():
        assert started.poll() is None
        time.sleep(0.02)
    worker = int(place.read_text())
    assert is_there(worker)
    started.kill()
    started.wait()
    assert gone(worker)


def test_a_worker_knows_no_devices_and_nothing_of_this_package(made):
    assert made("alone")[1](*asked(["a"])) == [1.0]


@pytest.mark.parametrize(
    ("checker", "message"),
    [
        ("nowhere:f", "raised ModuleNotFoundError: No module named 'nowhere'"),
        ("judges:missing", "raised AttributeError: module 'judges' has no attribute 'missing'"),
        ("judges:word", "raised TypeError: word is no function"),
        ("broken:f", "raised ZeroDivisionError: division by zero (broken.py:2)"),
    ],
)
def test_a_function_that_is_not_there_is_told_before_any_step(checker, message):
    told = f"{checker}: the function cannot be imported: its import {message}"
    for use in (
        CheckedReward(checker).check,
        CheckedReward(checker).identity,
        lambda: CheckedReward(checker, on_error=0.0).function(Host())(*asked(["a"])),
    ):
        with pytest.raises(UserError) as refused:
            use()
        assert str(refused.value) == told
    CheckedReward("judges:length").check()


def test_the_source_of_the_function_is_part_of_the_config(folder):
    sha = lambda name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
    term = CheckedReward("judges:length", weight=2.0)
    before = fingerprint_of(term)
    assert before == {
        "class": "rlhf_jax.rewards.checked:CheckedReward",
        "identity": sha("judges.py"),
        "weight": 2.0,
        "checker": "judges:length",
        "on_error": None,
    }
    # Of the file that defines it, and not of that which names it.
    assert CheckedReward("other:length").identity() == sha("judges.py") != sha("other.py")
    same = dataclasses.replace(term, seconds=3.0, workers=9)
    assert fingerprint_of(same) == before
    with (folder / "judges.py").open("a") as file:
        file.write("\n")
    after = fingerprint_of(term)
    assert after["identity"] == sha("judges.py")
    assert {k for k in before if before[k] != after[k]} == {"identity"}


def test_what_lies_beside_an_experiment_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # in front, wherever it was
    (tmp_path / "judges.py").write_text("def beside(prompt, response, record):\n    return 5\n")
    lines = "import judges_beside\nfrom tests.small_run import config\n"
    (tmp_path / "judges_beside.py").write_text("")
    (tmp_path / "experiment.py").write_text(lines)
    monkeypatch.chdir(tmp_path.parent)
    assert load_experiment(f"{tmp_path.name}/experiment.py").stages
    assert sys.path[0] == str(tmp_path) and sys.path.count(str(tmp_path)) == 1
    host = Host()
    assert CheckedReward("judges:beside").function(host)(*asked(["a"])) == [5.0]
    host.close()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"checker": "judges"}, "checker"),
        ({"checker": "judges:"}, "checker"),
        ({"checker": "judges/a:b"}, "checker"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"workers": 0}, "workers"),
        ({"on_error": float("nan")}, "on_error"),
    ],
)
def test_what_contradicts_itself_is_refused(fields, field):
    with pytest.raises(ConfigError) as refused:
        CheckedReward(**{"checker": "a:b"} | fields)
    assert refused.value.field == field
