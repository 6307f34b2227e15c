"""What an edit costs: seconds by stage, UNet rows, floating-point operations and peak memory.

A `CostMeter` listens to the progress of a run: what happened since the last report belongs to the stage that reports.
Operations are those of `calls.CallCounter`, memory that of `PeakMemory`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from ..backbone import Backbone
from ..progress import Progress
from .calls import CallCounter

SAMPLED_EVERY = 0.05
"""Seconds between two looks at the process's memory."""


@dataclass(frozen=True)
class Spent:
    """What some work took; sums add up, but of the peaks the higher one counts.

    Attributes:
        seconds: Wall time.
        unet_rows: Rows of all UNet calls, those that are ended early included.
        flops: Floating-point operations, two per multiply-add.
        peak_bytes: The most memory of the process meanwhile, page cache apart.
    """

    seconds: float = 0.0
    unet_rows: int = 0
    flops: int = 0
    peak_bytes: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            self.unet_rows + other.unet_rows,
            self.flops + other.flops,
            max(self.peak_bytes, other.peak_bytes),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class CostMeter:
    """A `ProgressCallback` that adds up what each stage takes, while the ``with`` lasts.

    Args:
        backbone: The model whose calls are counted; it is given back without hooks.
        known: Operations by kind of call, as far as met: handed from meter to meter of the same backbone.
        on_progress: Told of each report as well; its time is not counted.
    """

    def __init__(
        self,
        backbone: Backbone,
        known: dict[Hashable, Fraction] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.stages: dict[str, Spent] = {}
        self._calls = CallCounter(backbone, {} if known is None else known)
        self._memory = PeakMemory(SAMPLED_EVERY)
        self._on_progress = on_progress
        self._last, self._rows, self._flops = 0.0, 0, 0

    def __enter__(self) -> Self:
        self._memory.__enter__()
        self._calls.__enter__()
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.__exit__(kind, error, trace)
        self._memory.__exit__(kind, error, trace)

    def __call__(self, progress: Progress) -> None:
        """Book what was spent since the last report under the stage that reports."""
        rows, flops = self._calls.unet_rows, self._calls.flops
        seconds = time.perf_counter() - self._last
        spent = Spent(seconds, rows - self._rows, flops - self._flops, self._memory.take())
        self.stages[progress.stage] = self.stages.get(progress.stage, Spent()) + spent
        self._rows, self._flops = rows, flops
        if self._on_progress:
            self._on_progress(progress)
        self._last = time.perf_counter()

    def skip(self) -> None:
        """Forget what was spent since the last report: it is no part of the edit."""
        self._rows, self._flops = self._calls.unet_rows, self._calls.flops
        self._memory.take()
        self._last = time.perf_counter()


class PeakMemory:
    """The most ``RssAnon + RssShmem`` of this process, sampled; the page cache is not counted."""

    def __init__(self, every: float = 0.01) -> None:
        self.bytes = 0
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> int:
        """The most since the last time it was taken, now included; starts anew."""
        peak, self.bytes = max(self.bytes, anonymous_bytes()), 0
        return peak

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.bytes = max(self.bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """This process's memory now, page cache apart; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
