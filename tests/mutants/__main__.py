"""Applies every mutant to a copy and runs its test: all must be killed.

    python -m tests.mutants [--only SUBSTRING] [--jobs N]

First all named tests run on the unchanged copy and must pass. A mutant is killed if its test ran
and failed by the error that the table names; a test that cannot be collected, is skipped, fails by
another error or runs too long has not killed it. What was killed is written to build/mutants.json
and not tried again until a file changes.
"""

import argparse
import compileall
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import SimpleQueue

from tests.mutants import ROOT, DoesNotApply, Mutant, apply
from tests.mutants.forked import CONTEXT, preload, run_pytest
from tests.mutants.table import TABLE

COPIED = ("rlhf_jax", "tests", "experiments", "docs", "notebooks", "benchmarks", "launch",
          "README.md", "Makefile", "pyproject.toml", "setup.py")  # fmt: skip
RESULTS = ROOT / "build" / "mutants.json"
TIMEOUT = 300  # seconds, of one test
# How pytest words the failure of an assertion, of np.testing, and of pytest.raises.
WORDED = {"AssertionError": r"AssertionError|assert |Failed: |Failed:?$|\s*$"}


def environment(copy: Path) -> dict[str, str]:
    """Imports come from the copy; compiled programs are shared by all runs."""
    env = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "jax"))
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    env.setdefault("RLHF_JAX_DATA", str(ROOT.parent / "shared" / "data"))
    return env


def make_copy(folder: Path) -> Path:
    folder.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.ipynb")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy2(source, folder / name)
    # By its content, so that no mutant runs as the file before it.
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


def run_tests(
    copy: Path, nodes: Iterable[str], timeout: float | None = TIMEOUT, jobs: int = 1
) -> tuple[int | None, list[ElementTree.Element], str]:
    """pytest's exit code (None: too long), its test cases, and the end of what it printed."""
    report, output = copy / "report.xml", copy / "output.txt"
    report.unlink(missing_ok=True)
    arguments = ["-q", "-m", "", "-p", "no:cacheprovider", "--tb=short", "--durations=0",
                 f"--junitxml={report}"]  # fmt: skip
    arguments += ["-x"] if jobs == 1 else ["-n", str(jobs), "--dist", "loadfile"]
    process = CONTEXT.Process(
        target=run_pytest, args=(copy, environment(copy), [*arguments, *nodes], output)
    )
    process.start()
    process.join(timeout)
    code = process.exitcode
    with contextlib.suppress(ProcessLookupError):  # with all that a test has started
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    printed = output.read_text(encoding="utf-8", errors="replace")
    cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    return code, cases, printed[-3000:]


def verdict(code: int | None, cases: Sequence[ElementTree.Element], error: str) -> str:
    """ "killed", or why the test did not kill it."""
    if code is None:
        return f"ran longer than {TIMEOUT} s"
    failures = [part for case in cases for part in case if part.tag in ("failure", "error")]
    if code == 1 and failures:
        message = failures[0].get("message", "")
        message = re.sub(r'^failed on (setup|teardown) with "', "", message)
        worded = "|".join(WORDED.get(name, name) for name in error.split("|"))
        if re.match(rf"(\w+\.)*({worded})", message):
            return "killed"
        return f"another error than {error}: {message.splitlines()[0][:200]}"
    if code == 0:
        skipped = any(part.tag == "skipped" for case in cases for part in case)
        return "skipped" if skipped else "survived"
    return f"pytest ended with exit code {code}"


def try_one(mutant: Mutant, copy: Path) -> tuple[str, str]:
    """(verdict, what pytest printed); the copy is as before."""
    path = copy / mutant.path
    source = path.read_text(encoding="utf-8")
    try:
        path.write_text(apply(mutant, source), encoding="utf-8")
        code, cases, printed = run_tests(copy, [mutant.node])
    finally:
        path.write_text(source, encoding="utf-8")
    return verdict(code, cases, mutant.error), printed


def digest() -> str:
    """Of every file that a mutant's fate depends on."""
    sums = hashlib.sha256()
    for name in COPIED:
        for path in sorted([ROOT / name, *(ROOT / name).rglob("*")]):
            if path.is_file() and path.suffix not in (".pyc", ".ipynb"):
                sums.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return sums.hexdigest()


def unchanged_tests_pass(chosen: Sequence[Mutant], copy: Path, jobs: int) -> dict[str, float]:
    """Seconds of each test function; ends the program where one fails or is skipped."""
    nodes = sorted({mutant.node for mutant in chosen})
    print(f"{len(nodes)} tests on the unchanged code", flush=True)
    code, cases, printed = run_tests(copy, nodes, timeout=None, jobs=jobs)
    if code != 0:
        sys.exit(f"{printed}\nthe unchanged code does not pass")
    if skipped := [case.get("name") for case in cases if case.find("skipped") is not None]:
        sys.exit(f"skipped on the unchanged code: {skipped}")
    seconds: dict[str, float] = {}
    for case in cases:
        name = case.get("name", "").split("[")[0]
        seconds[name] = seconds.get(name, 0) + float(case.get("time", 0))
    return seconds


def run(chosen: Sequence[Mutant], jobs: int, known: set[str], stamp: str) -> dict[str, str]:
    """{mutant: verdict} of all, those already known to be killed included."""
    results = {str(mutant): "killed" for mutant in chosen if str(mutant) in known}
    waiting = [mutant for mutant in chosen if str(mutant) not in known]
    if not waiting:
        return results
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for i in range(jobs):
            copies.put(make_copy(Path(folder, str(i))))
        first = copies.get()
        seconds = unchanged_tests_pass(waiting, first, jobs)
        copies.put(first)
        name = lambda mutant: mutant.node.split("::")[-1].split("[")[0]
        waiting.sort(key=lambda mutant: -seconds.get(name(mutant), 0))

        def one(mutant: Mutant) -> tuple[str, str]:
            copy = copies.get()
            try:
                return try_one(mutant, copy)
            finally:
                copies.put(copy)

        pool = ThreadPoolExecutor(jobs)
        try:
            futures = {pool.submit(one, mutant): mutant for mutant in waiting}
            for done, future in enumerate(as_completed(futures), 1):
                mutant, (result, printed) = futures[future], future.result()
                results[str(mutant)] = result
                if result != "killed":
                    print(f"{printed}\n{mutant}\n  {mutant.test}: {result}", flush=True)
                print(f"{done} of {len(waiting)}: {result:8} {mutant}"[:150], flush=True)
                write_results(results, stamp)
        finally:  # an interrupt waits for the tests that run, and for no more
            pool.shutdown(cancel_futures=True)
    return results


def write_results(results: dict[str, str], stamp: str) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    text = json.dumps({"digest": stamp, "results": results}, indent=1)
    RESULTS.write_text(text, encoding="utf-8")


def read_results(stamp: str) -> dict[str, str]:
    if not RESULTS.is_file():
        return {}
    held = json.loads(RESULTS.read_text(encoding="utf-8"))
    return held["results"] if held["digest"] == stamp else {}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        default="",
        help="those about which the table says this, as in details.md, kl.py, test_ppo",
    )
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    preload(environment(ROOT))
    chosen = [mutant for mutant in TABLE if options.only in mutant.about]
    bad = {}
    for mutant in chosen:
        try:
            apply(mutant, (ROOT / mutant.path).read_text(encoding="utf-8"))
        except DoesNotApply as error:
            bad[str(mutant)] = f"no longer applies: {error}"
    stamp = digest()
    held = read_results(stamp)
    known = {name for name, result in held.items() if result == "killed"}
    able = [mutant for mutant in chosen if str(mutant) not in bad]
    results = held | run(able, options.jobs, known, stamp) | bad
    write_results(results, stamp)
    alive = [mutant for mutant in chosen if results[str(mutant)] != "killed"]
    for mutant in alive:
        print(f"NOT KILLED {mutant}\n  {mutant.test}: {results[str(mutant)]}")
    killed, minutes = len(chosen) - len(alive), (time.monotonic() - start) / 60
    print(f"{killed} of {len(chosen)} mutants killed in {minutes:.1f} minutes")
    return 1 if alive or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
