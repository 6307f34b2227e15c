"""FRESCO's keyframes: which frames they are, and which of them are edited together (Yang et al., Section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .flow import Picture

SHORT_SIDE = 512
"""Pixels of the short side at which frames are compared."""

FEWEST = 3
"""New keyframes of the last batch; where fewer are left, it takes some of the one before."""

ANCHORS = 2
"""Keyframes that a batch has from earlier ones: the video's first and the former batch's last."""


def changes(frames: Iterable[Picture]) -> NDArray[np.float64]:
    """How much each frame differs from the one before: the mean square of levels, blurred; 0 for the first.

    Args:
        frames: ``[H, W, 3]`` uint8, at least one.
    """
    import cv2  # there, because the flow is: `flow_by` has asked for it

    found: list[float] = []
    before: NDArray[np.float32] | None = None
    for frame in frames:
        scale = SHORT_SIDE / min(frame.shape[:2])
        size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
        large = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_LINEAR)
        now = np.asarray(cv2.GaussianBlur(large, (9, 9), 0), np.float32)
        found.append(0.0 if before is None else float(np.square(now - before, dtype=np.float64).mean()))
        before = now
    return np.array(found)


def chosen(changes: Sequence[float] | NDArray[np.float64], least: int, most: int) -> list[int]:
    """The keyframes: where the video changes most, no nearer than `least` frames and, if it can be, no farther than
    `most`; the first and the last frame are always among them.

    Args:
        changes: Of each frame from the one before (`changes`); not looked at where `least` is `most`.
    """
    n = len(changes)
    if least >= most:
        return sorted({*range(0, n, least), n - 1})
    left = np.array(changes, np.float64)
    left[:least] = left[n - min(least, n) :] = -1.0
    keys = sorted({0, n - 1})
    while max(np.diff(keys), default=0) > most:
        key = int(left.argmax())
        if left[key] < 0:
            break
        left[max(0, key - least) : key + least] = -1.0
        keys = sorted({*keys, key})
    return keys


def batches(keys: int, size: int) -> list[range]:
    """The places of so many keyframes by the batch in which they are new: `size` at first, then fewer by the anchors.

    Args:
        keys: How many there are.
        size: Keyframes of a batch with its anchors, at least 5.
    """
    edges = [0, *range(min(size, keys), keys, size - ANCHORS), keys]
    if len(edges) > 2 and edges[-1] - edges[-2] < FEWEST:
        edges[-2] = edges[-1] - FEWEST
    return [range(a, b) for a, b in pairwise(edges)]


def anchors(batch: range) -> list[int]:
    """The places of the keyframes that a batch has from earlier ones: none for the first batch."""
    return [0, batch.start - 1] if batch.start else []
