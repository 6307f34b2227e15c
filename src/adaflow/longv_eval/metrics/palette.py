"""Whether colours wander over a long video: the palette of each part of it against that of the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mean import Mean

EVERY = 4  # pixels, each way: a palette needs no more
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_LEVELS = np.arange(256) / 255
LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
"""Light of each 8-bit level, sRGB (IEC 61966-2-1)."""
Array = NDArray[np.float64]


class Palette:
    """Takes the frames of a video in order.

    Args:
        frames: How many will come.
        parts: Into how many equal parts they are divided.
    """

    def __init__(self, frames: int, parts: int) -> None:
        self._starts = {frames * k // parts for k in range(1, parts)}
        self._count = 0
        self._now = Colours()
        self._first: Colours | None = None
        self._drift = Mean()

    def add(self, frame: NDArray[np.uint8]) -> None:
        """The next frame ``[H, W, 3]``."""
        if self._count in self._starts:
            self._end_part()
        self._now.add(lab(frame[::EVERY, ::EVERY]))
        self._count += 1

    def drift(self) -> float | None:
        """Mean over parts of the distance of their colours to the first part's, in units of Lab; None for one part."""
        self._end_part()
        return self._drift.value

    def _end_part(self) -> None:
        if not self._now.count:
            return
        if self._first is None:
            self._first = self._now
        else:
            self._drift.add(distance(self._first, self._now))
        self._now = Colours()


class Colours:
    """Mean and covariance of colours, added up."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = np.zeros(3)
        self._products = np.zeros((3, 3))

    def add(self, colours: Array) -> None:
        """Some more of them, ``[..., 3]``."""
        flat = colours.reshape(-1, 3)
        self.count += len(flat)
        self._sum += flat.sum(axis=0)
        self._products += flat.T @ flat

    @property
    def mean(self) -> Array:
        """``[3]``."""
        return self._sum / self.count

    @property
    def covariance(self) -> Array:
        """``[3, 3]``."""
        return self._products / self.count - np.outer(self.mean, self.mean)


def distance(a: Colours, b: Colours) -> float:
    """The Wasserstein distance of two normal distributions of colour: 0 for equal ones, the shift for shifted ones."""
    root = _root(a.covariance)
    mixed = _root(root @ b.covariance @ root)
    squared = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * mixed)
    return float(np.sqrt(max(0.0, float(squared))))


def lab(pixels: NDArray[np.uint8]) -> Array:
    """sRGB levels ``[..., 3]`` as CIE L*a*b* under D65: L in [0, 100]."""
    xyz = LINEAR[pixels] @ TO_XYZ.T / WHITE
    bent = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = bent[..., 0], bent[..., 1], bent[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _root(matrix: Array) -> Array:
    """The square root of a symmetric matrix that is not negative but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
