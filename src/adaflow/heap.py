"""The C heap of our own processes: one for all threads, so that less of what a run takes is a matter of chance."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

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
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(ARENA_MAX, 1))
