"""How a division into clips agrees with the truth: cuts found, and keyframes placed where more changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...miniature.film import Film

if TYPE_CHECKING:
    from ..suites import Case

LATENESS = 1  # frames a clip may start after the cut it answers to
WINDOW = 24  # frames whose keyframes are counted together
FEWEST_WINDOWS = 4


def measure_partition(case: Case, starts: Sequence[int]) -> dict[str, float | None]:
    """What the clips that begin at `starts` say about a source video.

    Args:
        case: The source video, with its cuts and its true motion.
        starts: The first frame of every clip, ascending, with or without frame 0, which every division has.

    Returns:
        `cut_recall`, `cut_precision`, `false_cuts_per_1000`, `keyframes_per_100`, `motion_correlation` and
        `motion_mean` (pixels a frame); None where there is nothing to count.
    """
    frames, cuts = len(case.film), case.film.cuts
    placed = [s for s in starts if s > 0]
    found = matched_cuts(cuts, placed)
    changes = true_changes(case.film)
    windows = range(0, frames - WINDOW + 1, WINDOW)
    keyframes = [sum(a <= s < a + WINDOW for s in (0, *placed)) for a in windows]
    # a cut counts like a mean displacement of one more pixel a frame over its window
    amounts = [_mean(changes[a : a + WINDOW]) + sum(a <= cut < a + WINDOW for cut in cuts) for a in windows]
    return {
        "cut_recall": found / len(cuts) if cuts else None,
        "cut_precision": found / len(placed) if placed else None,
        "false_cuts_per_1000": 1000 * (len(placed) - found) / frames,
        "keyframes_per_100": 100 * (len(placed) + 1) / frames,
        "motion_correlation": spearman(keyframes, amounts) if len(windows) >= FEWEST_WINDOWS else None,
        "motion_mean": _mean(changes),
    }


def matched_cuts(cuts: Sequence[int], starts: Sequence[int]) -> int:
    """How many cuts have a clip that starts with them or up to `LATENESS` frames later; each clip answers to one."""
    free = set(starts)
    found = 0
    for cut in sorted(cuts):
        # the earliest clip first: whatever else it could answer to has gone by
        match = next((s for s in range(cut, cut + LATENESS + 1) if s in free), None)
        if match is not None:
            free.remove(match)
            found += 1
    return found


def true_changes(film: Film) -> list[float]:
    """How far the picture moves from each frame to the next, in pixels on average: n values; 0 before a cut."""
    amounts = []
    for first in range(len(film) - 1):
        if first + 1 in film.cuts:
            amounts.append(0.0)
        else:
            displacement, _ = film.flow(first, first + 1)
            amounts.append(float(np.hypot(displacement[..., 0], displacement[..., 1]).mean()))
    return [*amounts, 0.0]


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation in [-1, 1], equal values sharing their mean rank; None where either list is constant.

    Raises:
        ValueError: the lists are not equally long.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values cannot be paired with {len(b)}")
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1."""
    array = np.asarray(values, np.float64)
    below = (array[None] < array[:, None]).sum(axis=1)
    equal = (array[None] == array[:, None]).sum(axis=1)
    return below + (equal + 1) / 2


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
