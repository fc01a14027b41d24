"""The host's memory allocator, set up for large short-lived buffers."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # <malloc.h>
LARGEST = 2**31 - 1


def keep_pages() -> bool:
    """Makes glibc keep the pages of freed buffers; returns whether the C library accepted it.

    XLA's CPU backend allocates the temporaries of a program at every call. By default glibc maps
    and unmaps them every time, and the page faults take a fifth of the time of a small step. A
    single arena lets all threads reuse the pages. Call it once, before jax starts its threads. On
    other C libraries it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = (M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST)
    return all([mallopt(name, value) == 1 for name, value in settings])
