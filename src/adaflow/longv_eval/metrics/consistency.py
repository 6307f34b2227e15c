"""How alike the pictures of a video are, by vectors that describe them; holds a few vectors, never all."""

from __future__ import annotations

from collections import deque

from torch import Tensor
from torch.nn.functional import normalize

from .mean import Mean


class Consistency:
    """Takes the vectors of a video's frames in order, and then says how alike neighbours and far frames are.

    Cosines below zero count as zero, as in the metrics' references.

    Args:
        lags: Distances, in frames, at which frames are compared; the last ``max(lags)`` vectors are held.
    """

    def __init__(self, lags: tuple[int, ...] = ()) -> None:
        self._first: Tensor | None = None
        self._ring: deque[Tensor] = deque(maxlen=max((1, *lags)))  # the frame before last stands last
        self._adjacent, self._to_first = Mean(), Mean()
        self._far = {lag: Mean() for lag in lags}

    def add(self, vectors: Tensor) -> None:
        """The next frames' vectors ``[b, d]``, of any length but zero."""
        for vector in normalize(vectors.double(), dim=-1):
            if self._first is None:
                self._first = vector
            else:
                self._adjacent.add(likeness(vector, self._ring[-1]))
                self._to_first.add(likeness(vector, self._first))
            for lag, mean in self._far.items():
                if len(self._ring) >= lag:
                    mean.add(likeness(vector, self._ring[-lag]))
            self._ring.append(vector)

    @property
    def adjacent(self) -> float | None:
        """Mean over frames but the first of the likeness to the frame before, in [0, 1]."""
        return self._adjacent.value

    @property
    def to_first(self) -> float | None:
        """The same, to the first frame."""
        return self._to_first.value

    @property
    def both(self) -> float | None:
        """Half of either: VBench's consistency."""
        if self.adjacent is None or self.to_first is None:
            return None
        return (self.adjacent + self.to_first) / 2

    def far(self, lag: int) -> float | None:
        """Mean likeness of all pairs that are ``lag`` frames apart; None where the video has no such pair."""
        return self._far[lag].value


def likeness(a: Tensor, b: Tensor) -> float:
    """Cosine of two normalised vectors, in [0, 1]."""
    return min(1.0, max(0.0, float(a @ b)))
