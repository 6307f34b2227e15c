"""The C heap: one for all threads in our own processes, and what is free given back between the stages of a run."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

ARENA_MAX = -8  # glibc's M_ARENA_MAX


def one_for_all_threads() -> bool:
    """Have this process keep one heap; to be called before threads start.

    By itself glibc gives every thread a heap, and what one thread has freed is of no use to another. To have memory
    given back at once as well (M_MMAP_THRESHOLD) would take a tenth less, and more than half as long again.

    Returns:
        Whether it does now: not with another C library than glibc, nor where the user has settings of their own.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(ARENA_MAX, 1))


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
