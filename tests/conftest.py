"""Shared settings and runs of the tests."""

import contextlib
import fcntl
import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.compiling import xla_flags

# Simulated devices must be asked for before jax starts.
os.environ.setdefault("XLA_FLAGS", xla_flags(8))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests compile for longer than they compute: quickly, and each program once for all workers,
# the processes that they start, and later calls.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / "build" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

from rlhf_jax.parallel import processes

jax.config.update("jax_disable_most_optimizations", True)  # where jax is there already
jax.config.update("jax_numpy_rank_promotion", "raise")

gc.set_threshold(100_000)  # tracing makes many objects, few of them in cycles
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Without the programs of the files before, of which a worker would hold gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def human_data() -> Path:
    """The folder of human feedback: RLHF_JAX_DATA, or ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RLHF_JAX_DATA", default))
    if not (folder / "hh-rlhf").is_dir():
        pytest.skip("human feedback is not on this machine: set RLHF_JAX_DATA to its folder")
    return folder


@pytest.fixture(scope="module")
def optimized():
    """For tests that compute for longer than they compile, or look at what a compiler made."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def two(monkeypatch):
    """two(function): what function(0) and function(1) return in two processes, which are threads
    here: each knows its number, and what one gives the other gets."""
    both, given, own = threading.Barrier(2, timeout=60), [b"", b""], threading.local()

    def gathered(content):
        given[own.number] = content
        both.wait()
        found = list(given)
        both.wait()
        return found

    def start(function, number):
        own.number = number
        return function(number)

    share = lambda count: slice(own.number * count // 2, (own.number + 1) * count // 2)

    def run(function):
        with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
            patch.setattr(processes, "gathered", gathered)
            patch.setattr(processes, "own_share", share)
            patch.setattr(processes, "count", lambda: 2)
            return list(pool.map(start, [function] * 2, range(2)))

    return run


class SmallRun(NamedTuple):
    directory: Path  # of a finished run, all stages
    printed: str  # by its processes
    observed: Path  # tests/observed.py
    drive: Callable  # drive(directory, *actions): another run


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """One worker at a time; a file of `folder` for what is done, which the first one writes."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder / "done"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> SmallRun:
    """The experiment of tests/small_run.py, run once, whichever worker asks first."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "small_run"
    whole, observed = folder / "whole", folder / "observed"
    with _alone(folder) as done:
        if not done.exists():
            done.write_text(drive(whole, "dpo", SMALL_RUN_OBSERVED=str(observed)))
    return SmallRun(whole, done.read_text(), observed, drive)


@pytest.fixture(scope="module")
def chain(small_run):
    """The small run as the tests of the chain read it."""
    from tests.chain import Chain  # not before jax is set

    return Chain(small_run.directory, small_run.observed)


@pytest.fixture(scope="session")
def second_round_run(small_run):
    """The stages of tests/second_round.py, in a copy of the small run, and what was observed."""
    folder = small_run.directory.parent / "second"
    with _alone(folder) as done:
        if not done.exists():
            shutil.copytree(small_run.directory, folder / "run")
            told = {"SMALL_RUN_OBSERVED": str(folder / "observed")}
            done.write_text(call("tests.second_round", folder / "run", **told))
    return folder / "run", folder / "observed"


def drive(directory: Path, *actions: str, **environment: str) -> str:
    """What the driver's processes print; they end as told."""
    printed = call("tests.small_run", directory, *actions, **environment)
    ends = [line.split()[1:] for line in printed.splitlines() if line.startswith("ended")]
    killed = lambda action: action.split(":")[0] not in ("stop", "dpo")
    expected = [[action, "-9" if killed(action) else "0"] for action in actions]
    assert ends == [*expected, ["None", "0"]], printed[-2000:]
    return printed


def call(module: str, directory: Path, *arguments: str, **environment: str) -> str:
    """What a module of the tests prints, run on a directory."""
    command = [sys.executable, "-m", module, str(directory), *arguments]
    # One device as in real use, and its rounding: with another, the small run's few rankings of
    # feedback may all be tied.
    environment |= {"XLA_FLAGS": xla_flags(emitter="")}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
