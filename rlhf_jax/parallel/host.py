"""The host's memory allocator, set up for large short-lived buffers."""

import contextlib
import os
import sys
from collections.abc import Mapping

# mmap_threshold, trim_threshold: pages of freed buffers are kept. hugetlb: of those that are not,
# 2 MB come with one page fault.
SETTINGS = {
    "glibc.malloc.mmap_threshold": str(2**40),
    "glibc.malloc.trim_threshold": str(2**40),
    "glibc.malloc.hugetlb": "1",
}
THEIRS = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"  # the same settings by other names
OLDEST = (2, 35)  # earlier ones refuse such a threshold
STARTED = "RLHF_JAX_STARTED"  # the process that has started itself anew


def large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that glibc reads SETTINGS from when a process starts; {} where the user has set
    one of them, or with another C library.

    XLA's CPU backend allocates the temporaries of a program at every call. By default glibc maps
    and unmaps them every time, and the page faults take a quarter to a third of a small step
    (docs/performance.md).
    """
    given = environment.get("GLIBC_TUNABLES", "").strip(":")
    theirs = any(name in given for name in SETTINGS) or any(name in environment for name in THEIRS)
    if theirs or glibc() < OLDEST:
        return {}
    ours = [f"{name}={value}" for name, value in SETTINGS.items()]
    return {"GLIBC_TUNABLES": ":".join([given] * bool(given) + ours)}


def glibc() -> tuple[int, ...]:
    """Its version; () for another C library."""
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
    except (AttributeError, ValueError):
        return ()
    return tuple(map(int, version.split("."))) if name == "glibc" else ()


def start_with_large_pages() -> None:
    """Starts this process anew with `large_pages`, once, and not under a debugger. Call it before
    any work is done."""
    missing, process = large_pages(os.environ), str(os.getpid())
    if not missing or os.environ.get(STARTED) == process or sys.gettrace() or not sys.executable:
        return
    with contextlib.suppress(OSError):  # it goes on as it is
        environment = os.environ | missing | {STARTED: process}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
