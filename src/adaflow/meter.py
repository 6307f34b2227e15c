"""The progress display: a bar for the stage at work, and the time left for all stages together; or lines of JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from typing_extensions import Self

from .disk import format_bytes
from .errors import ConfigError
from .estimate import Estimate
from .progress import STAGES, Progress, clock

QUIET = 60.0  # seconds between two lines of one stage where there is no terminal
EAGER = 0.2  # and between two lines of JSON
LEFT = ("invert", "match")  # stages of which `AdaFlowPipeline.inspect` estimates what is left


class Meter:
    """A `ProgressCallback` that draws bars on a terminal, and writes a line for each stage to anything else.

    The time left is the estimate of what is not done yet, corrected by how the estimate has done so far in this run.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._finished: set[str] = set()  # stages of which the last line is written
        self._said = self._begun = time.monotonic()  # the last line; the end of the last stage
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
        keyframes = " to ".join(dict.fromkeys(str(e.clips) for e in (few, many)))
        times = dict.fromkeys(clock(s) for s in sorted(e.total_seconds for e in (few, many)))
        sizes = dict.fromkeys(format_bytes(e.disk_bytes) for e in (few, many))
        self._console.print(f"keyframes: {keyframes}; about {' to '.join(times)}, {' to '.join(sizes)} of disk")

    def expect(self, estimate: Estimate) -> None:
        """The estimate that the time left is counted from."""
        self._expected, self._worked, self._started = dict(estimate.seconds), 0.0, time.monotonic()
        self._console.print(
            f"keyframes: {estimate.clips}; about {clock(estimate.total_seconds)}, "
            f"{format_bytes(estimate.host_bytes)} of memory, {format_bytes(estimate.disk_bytes)} of disk"
        )

    def __call__(self, progress: Progress) -> None:
        """Show one unit of work."""
        name = progress.stage
        share = progress.done / max(1, progress.total)
        step, self._share[name] = share - self._share.get(name, 0.0), share
        self._worked += step * self._expected.get(name, 0.0)
        left = self._left() if share < 1 else ""
        if self._bars.disable:
            self._line(name, share, left)
        else:
            self._bar(name, progress, left)

    def _bar(self, name: str, progress: Progress, left: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(STAGES[name], total=progress.total, left="")
        self._bars.update(self._tasks[name], completed=progress.done, left=left)
        if progress.done >= progress.total:
            self._bars.stop_task(self._tasks[name])

    def _line(self, name: str, share: float, left: str) -> None:
        now = time.monotonic()
        if name in self._finished or (share < 1 and now - self._said < QUIET):
            return
        if share < 1:
            state = f"{share:.0%} {left}"
        else:
            self._finished.add(name)
            state = f"done in {clock(now - self._begun)}" if now - self._begun >= 0.5 else "done"
            self._begun = now
        self._said = now
        self._console.print(f"{STAGES[name]}: {state}".rstrip())

    def seconds_left(self) -> float | None:
        """Until all stages are done; None while nothing is known."""
        if not self._expected or self._worked <= 0:
            return None
        remaining = sum(s * (1 - self._share.get(name, 0.0)) for name, s in self._expected.items())
        return remaining * (time.monotonic() - self._started) / self._worked

    def _left(self) -> str:
        left = self.seconds_left()
        return "" if left is None else f"{round(left) // 60}:{round(left) % 60:02d} left in all"


class JsonMeter(Meter):
    """A `Meter` for programs: one JSON object a line (docs/cli.md, "Progress for programs")."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars.disable = True
        self._met: set[str] = set()  # stages reported since the last estimate
        self._spent = 0.0  # seconds that `_worked` took
        self._last = time.monotonic()  # the last report

    def rough(self, few: Estimate, many: Estimate) -> None:
        """The least and the most that an edit may take; the time left is counted from what lies between."""
        self._begin({name: (s + many.seconds.get(name, s)) / 2 for name, s in few.seconds.items()})
        self._say("rough", least=few.to_json(), most=many.to_json())

    def expect(self, estimate: Estimate) -> None:
        """The estimate that the time left is counted from."""
        self._begin(estimate.seconds)
        self._say("estimate", estimate=estimate.to_json())

    def __call__(self, progress: Progress) -> None:
        """Tell of one unit of work; of very many, a few a second."""
        name, now = progress.stage, time.monotonic()
        share = progress.done / max(1, progress.total)
        if name in self._met:
            self._worked += (share - self._share.get(name, 0.0)) * self._expected.get(name, 0.0)
            self._spent += now - self._last
        elif name in LEFT and share < 1:  # begun by an earlier run: the estimate counts only what that one left
            self._expected[name] = self._expected.get(name, 0.0) / (1 - share)
        self._share[name], self._last = share, now
        if name in self._finished or (share < 1 and name in self._met and now - self._said < EAGER):
            return
        self._met.add(name)
        self._said = now
        if share >= 1:
            self._finished.add(name)
        left = self.seconds_left()
        fields = {"stage": name, "words": STAGES[name], "done": progress.done, "total": progress.total}
        self._say("progress", **fields, seconds_left=None if left is None else round(left, 1))

    def seconds_left(self) -> float | None:
        """The estimate of what is not done, by the pace of this run: not of the units that an earlier one did."""
        if not self._expected:
            return None
        remaining = sum(s * (1 - self._share.get(name, 0.0)) for name, s in self._expected.items())
        return remaining * (self._spent / self._worked if self._worked > 0 and self._spent > 0 else 1.0)

    def _begin(self, expected: Mapping[str, float]) -> None:
        self._expected, self._worked, self._spent = dict(expected), 0.0, 0.0
        self._met.clear()
        self._last = time.monotonic()

    def _say(self, event: str, **fields: Any) -> None:
        self._console.print(json.dumps({"event": event, **fields}))


def meter_for(kind: str, console: Console) -> Meter:
    """The display that `--progress` names; raises `ConfigError` for another word."""
    if kind not in KINDS:
        raise ConfigError(f"--progress is {kind!r}; it must be one of {', '.join(KINDS)}")
    return KINDS[kind](console)


KINDS: dict[str, type[Meter]] = {"bar": Meter, "json": JsonMeter}
