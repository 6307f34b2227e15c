"""A mean that holds no list."""

from __future__ import annotations


class Mean:
    """The mean of the numbers added so far."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        """One more number."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        """None as long as there is nothing."""
        return self.total / self.count if self.count else None
