"""Reading ahead and writing behind: what is read for the next run and written of the last while one is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def read_ahead(loads: Sequence[Callable[[], T]]) -> Iterator[Iterator[T]]:
    """Within it, the results of `loads` in order: while one is used, the next is made by a thread.

    An error of one is raised when it is its turn. Two results are held at most.
    """
    with ThreadPoolExecutor(1, "read-ahead") as pool:

        def results() -> Iterator[T]:
            ahead: Future[T] | None = None
            for number in range(len(loads)):
                now = ahead or pool.submit(loads[number])
                found = now.result()
                ahead = pool.submit(loads[number + 1]) if number + 1 < len(loads) else None
                del now
                yield found
                del found

        yield results()


class WriteBehind:
    """Does work in order, in a thread; `most` pieces wait, and then the caller does. Made by `write_behind`."""

    def __init__(self, pool: ThreadPoolExecutor, most: int) -> None:
        self._pool, self._most = pool, most
        self._waiting: deque[Future[None]] = deque()

    def __call__(self, work: Callable[[], None]) -> None:
        """Have `work` done. Raises what earlier work raised."""
        while len(self._waiting) >= self._most:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(work))

    def finish(self) -> None:
        """Wait for all of it. Raises what it raised."""
        while self._waiting:
            self._waiting.popleft().result()


@contextmanager
def write_behind(most: int = 2) -> Iterator[WriteBehind]:
    """Within it, work is done behind the caller's back; all of it is done, or has failed and said so, at the end."""
    with ThreadPoolExecutor(1, "write-behind") as pool:
        writer = WriteBehind(pool, most)
        yield writer
        writer.finish()
