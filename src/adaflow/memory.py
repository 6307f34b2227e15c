"""Memory: what running out of it looks like, how much a process holds, and how much a piece of work would need."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

WORDS = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")
"""How libraries without an exception of their own say that memory ran out: torch's CPU allocator, oneDNN."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, of the device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)


def release(device: torch.device) -> None:
    """Give back what is held without being used, after running out of memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def held_bytes(device: torch.device) -> int:
    """What this process holds of the device now; of the host, its private writable memory, as RLIMIT_DATA counts it."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else psutil.Process().memory_info().rss


def resident_bytes() -> int:
    """What this process holds of the host's memory now, the page cache apart: RssAnon + RssShmem."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return sum(int(kb) * 1024 for kb in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status))


def free_bytes(device: torch.device) -> int:
    """What could be had of the device, or of the host, beside what this process holds."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


class Tally(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it and still live; views cost nothing.

    Attributes:
        live: Bytes now.
        peak: The most since the beginning, or since `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def restart(self) -> None:
        """Forget the peak."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and count what it makes."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for x in tree_iter(out):
                if isinstance(x, Tensor):
                    self._count(x.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self._gone(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self.live -= size
        del self._known[key]


@contextmanager
def shapes_only() -> Iterator[Tally]:
    """Within it torch computes shapes alone, in no time and without memory; the tally tells what would be held.

    A module's real weights may take part and are not counted. What asks for values (`tolist`, `item`) cannot be run.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), Tally() as tally:
        yield tally


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that `work` would hold at once, beyond what is there before it."""
    with shapes_only() as tally:
        work()
        return tally.peak
