"""Memory beside tensors: one C heap for all threads, nothing kept for shapes that are past, what is free given back."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1  # glibc's numbers of these options
LARGE = 8 << 20
"""Bytes from which on a block is the system's own, and goes back to it when it is freed."""
KEPT = 64 << 20
"""Bytes that may lie free at the heap's end before they are given back: less, and that is done all the time."""


def one_for_all_threads() -> bool:
    """Have this process keep one heap, and give large blocks back at once; to be called before threads start.

    By itself glibc gives every thread a heap, and what one thread has freed is of no use to another; and it raises the
    size from which on blocks are the system's own to that of any such block freed, up to 32 MiB, so that the heap holds
    what large tensors have left behind.

    Returns:
        Whether it does now: not with another C library than glibc, nor where the user has settings of their own.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    libc = _glibc()
    options = ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, KEPT))
    return libc is not None and all([bool(libc.mallopt(*option)) for option in options])


def keep_no_shapes() -> None:
    """Have torch keep nothing for the shapes of former calls on the CPU; to be called before torch computes anything.

    By itself it keeps a thousand prepared calls of every kind, so that memory grows with each new number of rows. What
    oneDNN has compiled is kept all the same, up to a limit of its own, so that calls take no longer. A user's own
    setting stays.
    """
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")  # which torch reads at its first call of oneDNN


def give_back() -> None:
    """Return to the system what the heap holds without use, as glibc by itself does for its end alone.

    Else the peak of a stage would be that of its own work and what an earlier one has left lying about.
    """
    if libc := _glibc():
        libc.malloc_trim(ctypes.c_size_t(0))


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
