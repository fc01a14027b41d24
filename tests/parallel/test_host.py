"""A process starts with the allocator's settings, once; a user's own settings stay."""

import os
import platform
import subprocess
import sys

import pytest

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


def run(*command: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | variables
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


def test_other_settings_of_the_user_stay_before_ours():
    theirs = "glibc.malloc.check=1"
    found = large_pages({"GLIBC_TUNABLES": theirs})["GLIBC_TUNABLES"]
    assert found == f"{theirs}:{large_pages({})['GLIBC_TUNABLES']}"


@pytest.mark.parametrize("name", SETTINGS)
def test_where_the_user_has_set_one_nothing_is_set(name):
    assert large_pages({"GLIBC_TUNABLES": f"glibc.malloc.check=1:{name}=0"}) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these settings")
def test_a_process_starts_anew_once_with_its_arguments():
    printed = run("-c", PROGRAM, "a b", "--c")
    assert printed == f"started\nstarted\n{large_pages({})['GLIBC_TUNABLES']} ['a b', '--c']\n"
    assert run("-c", PROGRAM, GLIBC_TUNABLES=HUGE) == f"started\n{HUGE} []\n"


def test_elsewhere_it_does_not(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    started = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    start_with_large_pages()
    assert not started


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_glibc_takes_the_settings():
    """256 MiB that is freed stays with the process, so that it costs page faults once."""
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
