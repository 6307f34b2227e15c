"""How sure the percentages are, and how far participants agree.

The unit is the participant: the answers of one are not independent. So the interval of a percentage is Wilson's
(doi:10.1080/01621459.1927.10502953) for as many *independent* answers as the answers given are worth: their number over
the design effect, the variance between participants over what independent answers would have, pooled over methods (the
first-order correction of Rao and Scott 1981, doi:10.1080/01621459.1981.10477633). It is asymmetric near 0 and 100 %,
where bootstraps of few participants have no width, and takes Student's tails for the normal's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Share:
    """How often a method was chosen, of how many times it was offered, with the interval; NaN where not known."""

    chosen: int
    offered: int
    value: float
    low: float
    high: float


def shares(chosen: NDArray[np.int64], offered: NDArray[np.int64]) -> list[Share]:
    """The share of every method with its interval over participants.

    Args:
        chosen: How often each participant chose each method, `[participants, methods]`.
        offered: How often it was among those offered, where they answered, likewise.

    Returns:
        One `Share` a method; without interval where there is one participant only.
    """
    people = len(chosen)
    totals, asked = chosen.sum(axis=0), offered.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = totals / asked
        residuals = chosen - value * offered  # the ratio's linearisation
        between = people / max(people - 1, 1) * np.square(residuals).sum(axis=0) / np.square(asked)
        alone = value * (1 - value) / asked
    expected = float(np.nansum(alone))
    mean_answers = float(asked.max(initial=0)) / max(people, 1)
    effect = max(1.0, float(np.nansum(between)) / expected) if expected else max(1.0, mean_answers)
    found = []
    for c, n, p in zip(totals, asked, value, strict=True):
        low, high = wilson(p, n / effect, student(people - 1)) if people > 1 and n else (math.nan, math.nan)
        found.append(Share(int(c), int(n), float(p), low, high))
    return found


def wilson(share: float, answers: float, reach: float) -> tuple[float, float]:
    """Wilson's interval of a share among so many answers, `reach` standard errors to either side."""
    square = reach * reach
    centre = (share + square / (2 * answers)) / (1 + square / answers)
    half = reach / (1 + square / answers) * math.sqrt(share * (1 - share) / answers + square / (4 * answers**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def student(freedom: int, level: float = LEVEL) -> float:
    """Student's t within which `level` of the distribution lies, on both sides (Abramowitz and Stegun 26.7.3-4)."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """The probability that Student's t lies between -t and t."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def krippendorff(units: Iterable[tuple[Hashable, Sequence[Hashable]]]) -> float | None:
    """Krippendorff's alpha for names: 1 is full agreement, 0 what chance gives (https://repository.upenn.edu/asc_papers/43).

    Participants who answered only some of the units are no trouble.

    Args:
        units: For every unit, which answers were possible, and those it was given. Chance is reckoned among units with
            the same possible answers.

    Returns:
        Alpha; None where no unit has two answers, or all answers are the same.
    """
    groups: dict[Hashable, list[Sequence[Hashable]]] = {}
    for possible, given in units:
        if len(given) > 1:
            groups.setdefault(possible, []).append(given)
    observed = expected = 0.0
    for group in groups.values():
        counts: Counter[Hashable] = Counter()
        for given in group:
            tally = Counter(given)
            counts += tally
            observed += (len(given) ** 2 - sum(c * c for c in tally.values())) / (len(given) - 1)
        n = counts.total()
        expected += (n * n - sum(c * c for c in counts.values())) / (n - 1)
    return 1 - observed / expected if expected else None
