"""A process starts with the allocator's settings, once; a user's own settings stay."""

import os
import subprocess
import sys

import pytest

from rlhf_jax.parallel import host
from rlhf_jax.parallel.host import SETTINGS, large_pages, start_with_large_pages

HUGE = "glibc.malloc.hugetlb=1"
# What a program prints of the settings that it runs with, and of its arguments.
PROGRAM = """
import os, sys
from rlhf_jax.parallel import host
print("started", flush=True)
host.start_with_large_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""
needs_glibc = pytest.mark.skipif(host.glibc() < host.OLDEST, reason="needs glibc 2.35")


@pytest.fixture(autouse=True)
def with_glibc(monkeypatch):
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35", raising=False)


def run(*command: str, **variables: str) -> str:
    set_ = ("GLIBC_TUNABLES", *host.THEIRS)
    environment = {k: v for k, v in os.environ.items() if k not in set_} | variables
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def test_the_variable_has_every_setting():
    (variable,) = large_pages({}).values()
    assert variable.split(":") == [
        f"glibc.malloc.mmap_threshold={2**40}",
        f"glibc.malloc.trim_threshold={2**40}",
        HUGE,
    ]


@pytest.mark.parametrize("theirs", ["glibc.malloc.check=1", "glibc.malloc.check=1:"])
def test_other_settings_of_the_user_stay_before_ours(theirs):
    found = large_pages({"GLIBC_TUNABLES": theirs})["GLIBC_TUNABLES"]
    assert found == f"glibc.malloc.check=1:{large_pages({})['GLIBC_TUNABLES']}"


@pytest.mark.parametrize("name", SETTINGS)
def test_where_the_user_has_set_one_nothing_is_set(name):
    assert large_pages({"GLIBC_TUNABLES": f"glibc.malloc.check=1:{name}=0"}) == {}


@pytest.mark.parametrize("name", host.THEIRS)
def test_where_the_user_has_set_one_by_its_other_name_nothing_is_set(name):
    assert large_pages({name: "65536"}) == {}


@pytest.mark.parametrize("library", ["glibc 2.34", "other 3.1", None])
def test_with_another_library_nothing_is_set(monkeypatch, library):
    monkeypatch.setattr(os, "confstr", lambda name: library)
    assert large_pages({}) == {}


def test_a_system_without_the_name_of_its_library_has_another(monkeypatch):
    def unknown(name):
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(os, "confstr", unknown)
    assert host.glibc() == ()


@needs_glibc
def test_a_process_starts_anew_once_with_its_arguments():
    printed = run("-c", PROGRAM, "a b", "--c")
    assert printed == f"started\nstarted\n{large_pages({})['GLIBC_TUNABLES']} ['a b', '--c']\n"
    assert run("-c", PROGRAM, GLIBC_TUNABLES=HUGE) == f"started\n{HUGE} []\n"


@pytest.fixture
def starts(monkeypatch):
    """What would have been started."""
    found = []
    monkeypatch.setattr(os, "execve", lambda *given: found.append(given))
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    for name in ("GLIBC_TUNABLES", host.STARTED, *host.THEIRS):
        monkeypatch.delenv(name, raising=False)
    return found


def test_a_process_whose_variable_was_lost_does_not_start_a_third_time(starts, monkeypatch):
    start_with_large_pages()
    ((program, command, environment),) = starts
    assert (program, command) == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
    monkeypatch.setenv(host.STARTED, environment[host.STARTED])
    start_with_large_pages()
    assert len(starts) == 1


def test_a_debugger_keeps_its_process(starts, monkeypatch):
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    start_with_large_pages()
    assert not starts


def test_where_it_cannot_start_anew_it_goes_on(starts, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    start_with_large_pages()
    assert not starts
    monkeypatch.undo()
    monkeypatch.setattr(host, "large_pages", lambda environment: {"GLIBC_TUNABLES": HUGE})
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(sys, "executable", "/absent")
    start_with_large_pages()


@needs_glibc
def test_glibc_takes_the_settings():
    """256 MiB that are freed stay with the process, so that they cost page faults once."""
    program = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
faults = []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(2**28))
    ctypes.memset(block, 1, 2**28)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""
    first, second = map(int, run("-c", program, **large_pages({})).split())
    assert second < 100 < first  # 65,536 small pages, or 128 large ones
