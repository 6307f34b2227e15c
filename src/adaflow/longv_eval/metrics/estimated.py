"""Steadiness of real videos: warp error, flicker and seams along estimated motion, and whether anything moves at all.

The same measures as those of the rendered world (`motion`), but along motion that is estimated: that of the source
where there is one, else the edited video's own, which forgives more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .flow import Flow, PairFlow, Picture, fetched
from .mean import Mean
from .motion import ROUNDING

FEWEST = 0.1  # share of the pixels that must be followed for a pair to count: across a cut nearly none can be
UNIT = 1e3  # warp errors are written in thousandths
PEAK = 255.0


class AlongPaths:
    """Takes a video's frames with the motion between them, and then says how much it changes along that motion."""

    def __init__(self) -> None:
        self._before: Picture | None = None
        self._here: Picture | None = None
        self._last: PairFlow | None = None
        self._error, self._flicker = Mean(), Mean()

    def add(self, frame: Picture, pair: PairFlow | None) -> float | None:
        """The next frame, and the motion between the one before and it; None for the first frame.

        Returns:
            The root mean square change of this pair, in levels; None where too little can be followed.
        """
        change = None
        if pair is not None and self._here is not None:
            change = self._pair(self._here, frame, pair)
            if self._before is not None and self._last is not None:
                self._triple(self._before, self._here, frame, self._last, pair)
        self._before, self._here, self._last = self._here, frame, pair
        return change

    @property
    def warp_error(self) -> float | None:
        """Mean squared error along the motion, over pairs, of colours in [0, 1], in thousandths (W.-S. Lai 2018)."""
        return None if self._error.value is None else UNIT * self._error.value / PEAK**2

    @property
    def flicker(self) -> float | None:
        """Mean absolute second difference along the motion, in levels."""
        return self._flicker.value

    def _pair(self, first: Picture, second: Picture, pair: PairFlow) -> float | None:
        if pair.seen_back.mean() < FEWEST:
            return None
        difference = fetched(first, pair.back, pair.seen_back) - second[pair.seen_back]
        squared = float(np.mean(np.square(difference), dtype=np.float64))
        self._error.add(squared)
        return math.sqrt(squared)

    def _triple(self, before: Picture, here: Picture, after: Picture, past: PairFlow, coming: PairFlow) -> None:
        seen = past.seen_back & coming.seen_ahead
        if seen.mean() < FEWEST:
            return
        second = (
            fetched(before, past.back, seen) + fetched(after, coming.ahead, seen) - 2 * here[seen].astype(np.float32)
        )
        self._flicker.add(float(np.abs(second).mean(dtype=np.float64)))


class EstimatedMotion:
    """Takes the frames of an edited video, with those of its source if there is one.

    Args:
        flow: Estimates motion.
        borders: First frames of the clips or chunks that the video was made in, without frame 0; None: unknown.
    """

    def __init__(self, flow: Flow, borders: Sequence[int] | None) -> None:
        self._flow = flow
        self._borders = None if borders is None else frozenset(borders)
        self._count = 0
        self._last: Picture | None = None
        self._last_source: Picture | None = None
        self._own, self._of_source, self._along_source = AlongPaths(), AlongPaths(), AlongPaths()
        self._motion, self._source_motion, self._misaligned = Mean(), Mean(), Mean()
        self._own_seam, self._seam = _Seam(), _Seam()

    def add(self, edited: Picture, source: Picture | None) -> None:
        """The next frame of both, of one size."""
        straddles = self._borders is not None and self._count in self._borders
        own = None if self._last is None else PairFlow.between(self._flow, self._last, edited)
        change = self._own.add(edited, own)
        if own is not None:
            self._motion.add(_length(own.ahead))
        if change is not None:
            self._own_seam.add(change + 1, straddles)
        if source is not None:
            true = None if self._last_source is None else PairFlow.between(self._flow, self._last_source, source)
            change, expected = self._along_source.add(edited, true), self._of_source.add(source, true)
            if true is not None and own is not None:
                self._source_motion.add(_length(true.ahead))
                self._misaligned.add(_length(own.ahead - true.ahead))
            if change is not None and expected is not None:
                # as on the rendered world: dividing by the source's own takes out what a fast pair costs anybody
                self._seam.add((change + 1) / (expected + 1), straddles)
        self._last, self._last_source, self._count = edited, source, self._count + 1

    def of_edited(self) -> dict[str, float | None]:
        """`own_warp`, `own_flicker`, `flow`, `own_seam`: along the edited video's own motion."""
        return _own(self._own, self._motion) | {"own_seam": self._own_seam.ratio}

    def of_source(self) -> dict[str, float | None]:
        """The same of the source, without seams."""
        return _own(self._of_source, self._source_motion)

    def against_source(self) -> dict[str, float | None]:
        """`warp_error`, `warp_error_relative`, `flow_flicker`, `flow_ratio`, `motion_alignment`, `flow_seam`."""
        warp, of_source = self._along_source.warp_error, self._of_source.warp_error
        flicker, source_flicker = self._along_source.flicker, self._of_source.flicker
        motion, source_motion = self._motion.value, self._source_motion.value
        least = UNIT * (ROUNDING / PEAK) ** 2  # what rounding alone makes, so that a still source divides by something
        relative = None
        if warp is not None and of_source is not None:
            relative = max(warp, least) / max(of_source, least)
        misaligned = self._misaligned.value
        return {
            "warp_error": warp,
            "warp_error_relative": relative,
            "flow_flicker": None if flicker is None or source_flicker is None else flicker - source_flicker,
            "flow_ratio": motion / source_motion if motion is not None and source_motion else None,
            "motion_alignment": None if misaligned is None else -misaligned,
            "flow_seam": self._seam.ratio,
        }


class _Seam:
    """The mean of numbers at borders by that of all others."""

    def __init__(self) -> None:
        self._at, self._elsewhere = Mean(), Mean()

    def add(self, value: float, at_border: bool) -> None:
        (self._at if at_border else self._elsewhere).add(value)

    @property
    def ratio(self) -> float | None:
        at, elsewhere = self._at.value, self._elsewhere.value
        return at / elsewhere if at is not None and elsewhere else None


def _own(along: AlongPaths, motion: Mean) -> dict[str, float | None]:
    return {"own_warp": along.warp_error, "own_flicker": along.flicker, "flow": motion.value}


def _length(field: np.ndarray) -> float:
    """Mean length of the vectors of a field, in pixels."""
    return float(np.hypot(field[..., 0], field[..., 1]).mean(dtype=np.float64))
