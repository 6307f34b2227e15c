"""The bootstrap: the interval of a mean over videos.

The unit is the video: its edits are not independent, so they are averaged first and resampled together. An interval is
the *expanded* percentile interval of Hesterberg (2015, https://arxiv.org/abs/1411.5279): with n videos the plain
percentiles are too narrow by sqrt((n - 1) / n) and take the normal's tails for Student's, which at n = 12 costs several
points of coverage. Below `FEWEST` videos none is given: the range of five values misses their centre more often than
5 times in 100.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST = 6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over videos and its 95 % interval, which is all numbers where there are too few videos to say."""

    mean: float
    low: float
    high: float
    videos: int

    @property
    def known(self) -> bool:
        """Whether there were enough videos for an interval."""
        return math.isfinite(self.low)


def interval(values: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of one number a video, with its bootstrap interval; `values` is `[videos]`."""
    centre, videos = float(values.mean()), len(values)
    if videos < FEWEST:
        return Interval(centre, -math.inf, math.inf, videos)
    return _percentiles(centre, values[_resampled(videos, resamples, seed)].mean(axis=1), videos)


def ratio_interval(ours: Floats, theirs: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """By which share the mean of `ours` exceeds that of `theirs`, both `[videos]`, resampled together."""
    centre, videos = float(ours.mean() / theirs.mean() - 1), len(ours)
    if videos < FEWEST:
        return Interval(centre, -math.inf, math.inf, videos)
    index = _resampled(videos, resamples, seed)
    return _percentiles(centre, ours[index].mean(axis=1) / theirs[index].mean(axis=1) - 1, videos)


@lru_cache(maxsize=8)
def _resampled(videos: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Which videos each resample holds, `[resamples, videos]`: the same for every measure."""
    return np.random.default_rng(seed).integers(0, videos, (resamples, videos))


def _percentiles(centre: float, drawn: Floats, videos: int) -> Interval:
    reach = _student((1 + LEVEL) / 2, videos - 1) * math.sqrt(videos / (videos - 1))
    tail = NormalDist().cdf(-reach)
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Interval(centre, min(float(low), centre), max(float(high), centre), videos)


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's t, from the normal's (Abramowitz and Stegun 26.7.5); at 0.975 exact to 0.004 from 5 on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
