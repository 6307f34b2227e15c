"""What the stages of a run have taken: seconds, and memory at the peak."""

from __future__ import annotations

import time
from types import TracebackType

import torch
from typing_extensions import Self

from .longv_eval.cost import PeakMemory
from .progress import Progress, ProgressCallback

OTHER = "other"
"""Where time goes that belongs to no stage, such as that for estimates."""


class StageClock:
    """A `ProgressCallback` that books what passed since the last report under the stage that has got on.

    Attributes:
        seconds: By stage.
        peak_bytes: By stage, the most memory of this process meanwhile, page cache apart, and of the CUDA device, where
            there is one, whichever is more.

    Args:
        on_progress: Told of each report as well.
    """

    def __init__(self, on_progress: ProgressCallback | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}
        self._on_progress = on_progress
        self._share: dict[str, float] = {}
        self._memory = PeakMemory(0.05)
        self._last = 0.0

    def __enter__(self) -> Self:
        self._memory.__enter__()
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.__exit__(kind, error, trace)

    def __call__(self, progress: Progress) -> None:
        """Book the time since the last report; a stage that reports what it had reported before has not got on."""
        now, share = time.perf_counter(), progress.done / max(1, progress.total)
        name = progress.stage if share > self._share.get(progress.stage, 0.0) else OTHER
        self._share[progress.stage] = max(share, self._share.get(progress.stage, 0.0))
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), self._memory.take(), _device_peak())
        self._last = now
        if self._on_progress:
            self._on_progress(progress)


def _device_peak() -> int:
    """The most memory that tensors had on the CUDA device since this was asked last; 0 without one."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return 0
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak
