"""The host's memory allocator, set up for large short-lived buffers."""

import os
import sys

# mmap_threshold, trim_threshold: pages of freed buffers are kept. hugetlb: of those that are not,
# 2 MB come with one page fault.
SETTINGS = {
    "glibc.malloc.mmap_threshold": str(2**40),
    "glibc.malloc.trim_threshold": str(2**40),
    "glibc.malloc.hugetlb": "1",
}


def large_pages(environment: dict[str, str]) -> dict[str, str]:
    """The variable that glibc reads SETTINGS from, when a process starts; {} where the user has set
    them.

    XLA's CPU backend allocates the temporaries of a program at every call. By default glibc maps
    and unmaps them every time, and the page faults take a fifth of the time of a small step
    (docs/performance.md). Other C libraries ignore the variable.
    """
    given = environment.get("GLIBC_TUNABLES", "")
    if any(name in given for name in SETTINGS):
        return {}
    ours = [f"{name}={value}" for name, value in SETTINGS.items()]
    return {"GLIBC_TUNABLES": ":".join([given] * bool(given) + ours)}


def start_with_large_pages() -> None:
    """Starts this process anew with `large_pages`, once. Call it before any work is done."""
    missing = large_pages(os.environ) if sys.platform == "linux" else {}
    if missing:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | missing)
