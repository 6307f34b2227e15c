"""Measures along the true motion: warp error, flicker, drift, seams, and whether anything moves at all.

One pass; what is kept is a ring of at most 33 frames. Definitions and traps: docs/benchmark-metrics.md.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .images import sample
from .mean import Mean

if TYPE_CHECKING:
    from ..suites import Case, Edit

Array = NDArray[np.float32]
EDITED, TARGET = 0, 1  # the videos in a stack
DRIFT_LAG = 32  # frames
DRIFT_STRIDE = 4  # every fourth frame is compared with the one DRIFT_LAG later: those between say the same
SHORTEST_SHOT = 8  # frames; drift within a shorter shot means nothing
FEWEST = 0.01  # share of the pixels that must have a known motion for a pair of frames to count
ROUNDING = math.sqrt(1 / 6)  # levels: rms difference of two pictures that differ by their rounding alone


@dataclass(frozen=True)
class Tracks:
    """Pixels of one frame that another frame shows too."""

    here: NDArray[np.intp]  # [P] places in the flattened frame
    x: Array  # [P] columns in the other frame
    y: Array  # [P] rows in the other frame

    def __len__(self) -> int:
        return len(self.here)

    def only(self, chosen: NDArray[np.bool_]) -> Tracks:
        """Some of them, by a mask `[P]`."""
        return Tracks(self.here[chosen], self.x[chosen], self.y[chosen])


def tracks(case: Case, edit: Edit, first: int, second: int) -> Tracks:
    """Where the pixels of frame `first` are in frame `second`, as both the source and the target have it.

    Colour, background and style leave the motion as it is; another object has another outline, and where the two videos
    move differently there is no telling which motion an edited video should follow.
    """
    displacement, valid = case.film.flow(first, second)
    if "object" in edit.changes:
        other, also_valid = edit.target.flow(first, second)
        valid = valid & also_valid & (displacement == other).all(axis=-1)
    here = np.flatnonzero(valid)
    moves = displacement.reshape(-1, 2)[here]
    width = valid.shape[1]
    return Tracks(
        here, (here % width).astype(np.float32) + moves[:, 0], (here // width).astype(np.float32) + moves[:, 1]
    )


class Motion:
    """Takes the frames of an edited video in order, and then says how steady it is.

    Args:
        case: The source video.
        edit: The edit, whose target says what a perfect result would score.
        count: How many frames will be added.
        borders: First frames of the method's clips, without frame 0; None: it has none.
    """

    def __init__(self, case: Case, edit: Edit, count: int, borders: Sequence[int] | None) -> None:
        self._case, self._edit = case, edit
        self._starts = [0, *(cut for cut in case.film.cuts if cut < count)]
        self._stops = [*self._starts[1:], count]
        self._borders = None if borders is None else frozenset(borders)
        self._ring: deque[NDArray[np.uint8]] = deque(maxlen=DRIFT_LAG + 1)
        self._count = 0
        self._warp, self._target_warp = Mean(), Mean()
        self._flicker, self._drift = Mean(), Mean()
        self._straddling, self._others = Mean(), Mean()
        self._change, self._target_change = Mean(), Mean()

    def add(self, edited: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """The next frame of the two videos, `[H, W, 3]` each."""
        now, self._count = self._count, self._count + 1
        self._ring.append(np.stack((edited, target), axis=2))  # [H, W, 2 videos, 3]
        shot = bisect.bisect_right(self._starts, now) - 1
        start, stop = self._starts[shot], self._stops[shot]
        if now > start:
            self._pair(now - 1, now - 1 > start)
        lag = min(DRIFT_LAG, (stop - start) // 2)
        if stop - start >= SHORTEST_SHOT and now - lag >= start and (now - lag - start) % DRIFT_STRIDE == 0:
            self._far_pair(now - lag, now)

    def results(self) -> dict[str, float | None]:
        """`warp`, `warp_relative`, `flicker`, `drift`, `seam`, `motion`; None for what no pair of frames could tell."""
        warp, target_warp = self._warp.value, self._target_warp.value
        seam, others = self._straddling.value, self._others.value
        change, target_change = self._change.value, self._target_change.value
        relative = None
        if warp is not None and target_warp is not None:
            relative = max(warp, ROUNDING) / max(target_warp, ROUNDING)
        return {
            "warp": warp,
            "warp_relative": relative,
            "flicker": self._flicker.value,
            "drift": self._drift.value,
            "seam": seam / others if seam is not None and others else None,
            "motion": change / target_change if change is not None and target_change else None,
        }

    def _pair(self, first: int, has_before: bool) -> None:
        """Frame `first` and the next, the last one added; also its neighbour before where the shot has one."""
        here, after = self._ring[-2], self._ring[-1]
        change = _mean_absolute(after.astype(np.int16) - here, axes=(0, 1, 3))
        self._change.add(change[EDITED])
        self._target_change.add(change[TARGET])
        forward = tracks(self._case, self._edit, first, first + 1)
        if len(forward) < FEWEST * here.shape[0] * here.shape[1]:
            return
        ahead = _follow(forward, here, after)
        warp = _rms(ahead)
        self._warp.add(warp[EDITED])
        self._target_warp.add(warp[TARGET])
        if self._borders is not None:
            # dividing by what the truth itself scores takes out what a fast or finely textured pair costs any method
            relative = (warp[EDITED] + 1) / (warp[TARGET] + 1)
            (self._straddling if first + 1 in self._borders else self._others).add(relative)
        if has_before:
            self._triple(first, forward, ahead)

    def _triple(self, middle: int, forward: Tracks, ahead: Array) -> None:
        backward = tracks(self._case, self._edit, middle, middle - 1)
        here, before = self._ring[-2], self._ring[-3]
        # both lists of places ascend, so those in common stand in the same order in either
        in_forward = np.isin(forward.here, backward.here, assume_unique=True)
        in_backward = np.isin(backward.here, forward.here, assume_unique=True)
        if in_forward.sum() < FEWEST * here.shape[0] * here.shape[1]:
            return
        behind = _follow(backward.only(in_backward), here, before)
        second_difference = _mean_absolute(ahead[in_forward] + behind, axes=(0, 2))
        self._flicker.add(second_difference[EDITED] - second_difference[TARGET])

    def _far_pair(self, first: int, second: int) -> None:
        here, there = self._ring[first - second - 1], self._ring[-1]
        far = tracks(self._case, self._edit, first, second)
        if len(far) >= FEWEST * here.shape[0] * here.shape[1]:
            difference = _rms(_follow(far, here, there))
            self._drift.add(difference[EDITED] - difference[TARGET])


def _follow(path: Tracks, here: NDArray[np.uint8], there: NDArray[np.uint8]) -> Array:
    """`there` minus `here` along a path: `[P, videos, 3]` in levels."""
    found = sample(there, path.x, path.y)
    found -= here.reshape(-1, *here.shape[2:])[path.here]
    return found


def _rms(difference: Array) -> list[float]:
    """Root mean square of `[P, videos, 3]` for each video."""
    total = np.einsum("pvc,pvc->v", difference, difference, dtype=np.float64)
    return [math.sqrt(t / (difference.shape[0] * difference.shape[2])) for t in total]


def _mean_absolute(difference: NDArray, axes: tuple[int, ...]) -> list[float]:
    """Mean absolute value over some axes; what is left is the videos."""
    return [float(v) for v in np.abs(difference).mean(axis=axes, dtype=np.float64)]
