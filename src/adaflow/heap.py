"""The C heap of our own processes: steady, so that what a run takes does not depend on which thread asked for what."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

SETTINGS = {-8: 1, -3: 1 << 20}
"""glibc's `mallopt`: M_ARENA_MAX, one heap for all threads; M_MMAP_THRESHOLD, what is larger is given back when freed.

By itself glibc gives every thread a heap and raises the threshold to what was freed last, up to 32 MiB: then memory
that one thread has freed is of no use to another, and runs of the same edit differ in their peak.
"""


def steady() -> bool:
    """Have the heap of this process behave so; to be called before threads start and much is allocated.

    Returns:
        Whether it does now: not with another C library than glibc, nor where the user has settings of their own.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) for name, value in SETTINGS.items()])
