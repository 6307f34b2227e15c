"""What `adaflow annotate` does: ask models for captions and prompts, and show how far it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from typing_extensions import Self

from .console import err, print_json
from .errors import InputError
from .longv_eval.annotate import Asking, Question, Watch, annotate
from .longv_eval.chat import KEYS, Chat, Endpoint, key_of_environment
from .longv_eval.indexfile import CAPTION, working_index
from .progress import clock

CAPTIONER_KEY = "ADAFLOW_CAPTIONER_API_KEY"
"""Of a captioner elsewhere than the language model, whose key it must not see."""


def annotate_videos(
    place: Path,
    endpoint: str,
    model: str,
    captioner: str | None,
    captioner_endpoint: str | None,
    out: Path | None,
    frames: int,
    frame_size: int,
    only: str | None,
    asks: int,
    retries: int,
    timeout: float,
    as_json: bool,
) -> None:
    """`adaflow annotate`."""
    asking = Asking(frames, frame_size, asks, tuple(name.strip() for name in (only or "").split(",") if name.strip()))
    _check_bounds(asking, retries, timeout)
    home = Endpoint.parse(endpoint)
    other = home if captioner_endpoint is None else Endpoint.parse(captioner_endpoint)
    index, notes = working_index(place, out)
    with _Bar(err) as bar:
        writer, describer = (
            Chat(
                where,
                name,
                key_of_environment(variables),
                timeout=timeout,
                retries=retries,
                key_name=variables[0],
                on_wait=lambda words: bar.say(f"note: {words}"),
            )
            for where, name, variables in (
                (home, model, KEYS),
                (other, captioner or model, KEYS if _same(home, other) else (CAPTIONER_KEY,)),
            )
        )
        for note in notes:
            bar.say(f"note: {note}")
        for host in dict.fromkeys(chat.endpoint.host for chat in (describer, writer) if chat.exposed):
            bar.say(f"note: the key goes to {host} unencrypted; prefer https")
        done = annotate(index, describer, writer, asking, bar)
    records, asked = done.index.records, done.answered + len(done.failed)
    if as_json:
        counts = {"videos": len(records), "edits": done.index.edits, "asked": asked, "answered": done.answered}
        failed = {str(question): why for question, why in done.failed.items()}
        print_json({"index": str(done.index.file), **counts, "failed": failed})
    else:
        err.print(f"{len(records)} videos with {done.index.edits} edits; {done.answered} of {asked} questions answered")
        print(done.index.file)
    if done.failed:
        question, why = next(iter(done.failed.items()))
        raise InputError(
            f"{len(done.failed)} of {asked} questions have no answer, the first being {question}: {why}; "
            "the same command asks them again"
        )


class _Bar(Watch):
    """One bar on a terminal, and a line for every answer; with the time left by the pace of captions and of prompts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bars.add_task("", total=None, left="", visible=False)
        self._waiting: list[Question] = []
        self._of, self._begun = 0, 0.0
        self._pace: dict[bool, tuple[float, int]] = {}  # of captions and of prompts: seconds, and how many

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def plan(self, questions: Sequence[Question]) -> None:
        """See `Watch`."""
        self._waiting, self._of = list(questions), len(questions)
        self._bars.update(self._task, total=self._of, visible=bool(questions))

    def begin(self, question: Question) -> None:
        """See `Watch`."""
        self._begun = time.monotonic()
        self._bars.update(self._task, description=str(question))

    def end(self, question: Question, fault: str | None = None) -> None:
        """See `Watch`."""
        took = time.monotonic() - self._begun
        self._waiting.remove(question)
        if fault is None:
            seconds, count = self._pace.get(question.what == CAPTION, (0.0, 0))
            self._pace[question.what == CAPTION] = seconds + took, count + 1
        left = self._left()
        self._bars.update(self._task, completed=self._of - len(self._waiting), left=left)
        what = f"{question}: {clock(took)}" if fault is None else f"note: {question}: {fault}"
        self._console.print(f"{what} ({self._of - len(self._waiting)} of {self._of}{left and f'; {left}'})")

    def say(self, words: str) -> None:
        """See `Watch`."""
        self._console.print(words)

    def _left(self) -> str:
        if not self._pace or not self._waiting:
            return ""
        paces = {caption: seconds / count for caption, (seconds, count) in self._pace.items()}
        common = sum(paces.values()) / len(paces)
        return f"about {clock(sum(paces.get(q.what == CAPTION, common) for q in self._waiting))} left"


def _same(one: Endpoint, other: Endpoint) -> bool:
    """Whether two endpoints are of one server, so that the key of one may be seen by the other."""
    return (one.scheme, one.host) == (other.scheme, other.host)


def _check_bounds(asking: Asking, retries: int, timeout: float) -> None:
    for name, value, low, high in (
        ("frames", asking.frames, 1, 256),
        ("frame-size", asking.side, 32, 4096),
        ("asks", asking.asks, 1, 100),
        ("retries", retries, 0, 100),
        ("timeout", timeout, 0.01, 86400),
    ):
        if not low <= value <= high:
            raise InputError(f"--{name} is {value}; it must be from {low} to {high}")
