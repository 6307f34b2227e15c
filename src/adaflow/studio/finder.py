"""Exact clips, found beside the page: with features of Stable Diffusion's shape they take minutes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillAtWork
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor

from ..config import KeyframeConfig
from ..errors import Cancelled
from ..keyframes import Partition
from .timeline import Analysis, divide_exactly

KEPT = 8
"""Answers held in memory."""
FORGOTTEN = 5.0
"""Seconds after which a question that nobody repeats is given up for the next one; pages repeat theirs about once a
second, though a browser may let those that are not seen wait for a minute."""

Key: TypeAlias = tuple[str, KeyframeConfig]
Answer: TypeAlias = tuple[Partition, Tensor]


class Finder:
    """Answers one question after the other in a thread of its own; any number of pages may ask."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "exact clips")
        self._mutex = threading.Lock()
        self._answers: OrderedDict[Key, Future[Answer]] = OrderedDict()
        self._asked: dict[Key, float] = {}
        self._done: dict[Key, float] = {}
        self._closed = False
        self._hurried = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Meanwhile nothing is found here: somebody waits for the answer that is found in the block."""
        with self._mutex:
            self._hurried += 1
        try:
            yield
        finally:
            with self._mutex:
                self._hurried -= 1

    def close(self) -> None:
        """Give up what is at work."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)

    def ask(self, analysis: Analysis, config: KeyframeConfig, wait: float) -> Answer | float:
        """The exact clips and scores; how much of the work is done, from 0 to 1, where it takes longer than `wait`.

        Args:
            analysis: Of which video.
            config: How it is divided.
            wait: Seconds.

        Raises:
            OSError, AdaFlowError: the features cannot be read, any more or at all.
        """
        key = (str(analysis.features), config)
        with self._mutex:
            self._asked[key] = time.monotonic()
            future = self._answers.get(key)
            if future is None or (future.done() and future.exception() is not None):
                self._done[key] = 0.0
                future = self._answers[key] = self._thread.submit(self._find, key, analysis)
            self._answers.move_to_end(key)
            self._tidy()
        try:
            return future.result(wait)
        except (StillAtWork, Cancelled):
            return self._done.get(key, 0.0)

    def _find(self, key: Key, analysis: Analysis) -> Answer:
        def on_frame(done: int) -> None:
            self._done[key] = done / analysis.shape[0]
            while self._hurried and not self._closed:
                time.sleep(0.005)
            forgotten = time.monotonic() - self._asked[key] > FORGOTTEN
            if self._closed or (forgotten and self._others(key)):
                raise Cancelled("nobody asks any more")

        return divide_exactly(analysis, key[1], on_frame)

    def _others(self, key: Key) -> bool:
        """Whether other questions wait for this one's end."""
        with self._mutex:
            return any(other != key and not future.done() for other, future in self._answers.items())

    def _tidy(self) -> None:
        """Forget answers that were not asked for lately."""
        for key in [key for key, future in self._answers.items() if future.done()][:-KEPT]:
            del self._answers[key], self._asked[key], self._done[key]
