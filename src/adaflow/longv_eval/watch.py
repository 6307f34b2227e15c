"""What a long run of the benchmark shows: which edit is at work, how far it is, and the time left for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from typing_extensions import Self

from ..meter import clock
from ..progress import STAGES, Progress


@contextmanager
def frame_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told of frames done and of all; nothing where it is no terminal."""
    columns = (TextColumn("scoring"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} frames"))
    with Bars(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@dataclass(frozen=True)
class Work:
    """One row to come: a method on an edit of a case, and how many frames it has."""

    method: str
    case: str
    edit: str
    frames: int

    def __str__(self) -> str:
        return f"{self.method} · {self.case} · {self.edit}"


class Watch:
    """Is told what a run of the benchmark does; this one keeps quiet."""

    def plan(self, works: Sequence[Work]) -> None:
        """All that is to be done, in order."""

    def begin(self, work: Work) -> None:
        """A row is begun."""

    def __call__(self, progress: Progress) -> None:
        """A unit of its work is done; raising `Cancelled` stops the run, to be gone on with."""

    def end(self, work: Work) -> None:
        """The row is written."""

    def say(self, words: str) -> None:
        """Something to know."""


class Bar(Watch):
    """One bar on a terminal, one line for each row otherwise; with the time left for all rows.

    The time left is that of the rows to come by the pace of their methods, in seconds a frame, so far.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.fields[number]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[stage]:<20}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._waiting: list[Work] = []
        self._of, self._begun = 0, 0.0
        self._pace: dict[str, tuple[float, int]] = {}  # seconds and frames of each method's rows so far

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def plan(self, works: Sequence[Work]) -> None:
        """See `Watch`."""
        self._waiting, self._of = list(works), len(works)

    def begin(self, work: Work) -> None:
        """See `Watch`."""
        self._begun = time.monotonic()
        number = f"{self._of - len(self._waiting) + 1}/{self._of}"
        self._task = self._bars.add_task(str(work), total=1.0, number=number, stage="", left=self._left())

    def __call__(self, progress: Progress) -> None:
        """See `Watch`."""
        if self._task is not None:
            share = progress.done / max(1, progress.total)
            self._bars.update(self._task, completed=share, stage=STAGES.get(progress.stage, progress.stage))

    def end(self, work: Work) -> None:
        """See `Watch`."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        took = time.monotonic() - self._begun
        seconds, frames = self._pace.get(work.method, (0.0, 0))
        self._pace[work.method] = seconds + took, frames + work.frames
        self._waiting.remove(work)
        done = self._of - len(self._waiting)
        left = f"; {left}" if (left := self._left()) else ""
        self._console.print(f"{work}: {clock(took)} ({done} of {self._of}{left})")

    def say(self, words: str) -> None:
        """See `Watch`."""
        self._console.print(words)

    def _left(self) -> str:
        frames = sum(frames for _, frames in self._pace.values())
        if not frames or not self._waiting:
            return ""
        common = sum(seconds for seconds, _ in self._pace.values()) / frames
        paces = {method: seconds / count for method, (seconds, count) in self._pace.items() if count}
        return f"about {clock(sum(w.frames * paces.get(w.method, common) for w in self._waiting))} left"
