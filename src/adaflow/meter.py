"""The progress display: a bar for the stage at work, and the time left for all stages together."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from typing_extensions import Self

from .diskarray import format_bytes
from .estimate import Estimate
from .progress import STAGES, Progress


class Meter:
    """A `ProgressCallback` that draws on a console.

    The time left is the estimate of what is not done yet, corrected by how the estimate has done so far in this run.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._expected: dict[str, float] = {}
        self._share: dict[str, float] = {}
        self._worked = 0.0  # estimated seconds of work done since `_started`
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def rough(self, few: Estimate, many: Estimate) -> None:
        """Say what is known before anything is computed."""
        low, high = (e.total_seconds / 60 for e in (few, many))
        self._bars.console.print(
            f"{few.clips} to {many.clips} keyframes: {low:.1f} to {high:.1f} minutes, "
            f"{format_bytes(few.disk_bytes)} to {format_bytes(many.disk_bytes)} of disk",
            soft_wrap=True,
        )

    def expect(self, estimate: Estimate) -> None:
        """The estimate that the time left is counted from."""
        self._expected, self._worked, self._started = dict(estimate.seconds), 0.0, time.monotonic()
        minutes = estimate.total_seconds / 60
        self._bars.console.print(
            f"{estimate.clips} keyframes: about {minutes:.1f} minutes, {format_bytes(estimate.host_bytes)} of memory, "
            f"{format_bytes(estimate.disk_bytes)} of disk",
            soft_wrap=True,
        )

    def __call__(self, progress: Progress) -> None:
        """Show one unit of work."""
        name = progress.stage
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(STAGES[name], total=progress.total, left="")
            self._share[name] = 0.0
        share = progress.done / max(1, progress.total)
        step, self._share[name] = share - self._share[name], share
        self._worked += step * self._expected.get(name, 0.0)
        self._bars.update(self._tasks[name], completed=progress.done, left=self._left() if share < 1 else "")
        if share >= 1:
            self._bars.stop_task(self._tasks[name])

    def _left(self) -> str:
        if not self._expected or self._worked <= 0:
            return ""
        remaining = sum(s * (1 - self._share.get(name, 0.0)) for name, s in self._expected.items())
        pace = (time.monotonic() - self._started) / self._worked
        seconds = round(remaining * pace)
        return f"{seconds // 60}:{seconds % 60:02d} left in all"
