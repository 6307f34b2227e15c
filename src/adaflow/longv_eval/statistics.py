"""What the results show and what they do not: differences, non-inferiority, equal success, Pareto.

Methods are compared on what both did, video by video: the bootstrap resamples the differences of videos (bootstrap.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge
from typing import Literal

import numpy as np

from ..errors import InputError
from .bootstrap import Interval, interval, ratio_interval
from .columns import COMPARED, Column
from .rows import Row, by_method

VIDEOS, EDITS = 12, 3
"""What non-inferiority is judged on at least."""
TOUCH = 1e-9
"""Closer to a bound than this is on it: sums of floats are not exact."""

Verdict = Literal["better", "worse", "higher", "lower", "no difference shown", "not measured"]


@dataclass(frozen=True)
class Difference:
    """How much more of a measure `a` has than `b`, on what both were measured on."""

    column: Column
    a: str
    b: str
    interval: Interval | None
    """Of the difference, or of the share by which `a` exceeds `b` where `relative`."""
    relative: bool
    verdict: Verdict


@dataclass(frozen=True)
class Margin:
    """How much worse still counts as not worse."""

    measure: str
    label: str
    """The margin as it is said."""
    limit: float
    """The lowest difference allowed where more is better, the highest where less is; itself not allowed."""
    relative: bool = False
    always: bool = True
    """Whether every result has it; seams are only where a video has more than one clip."""


MARGINS = (
    Margin("psnr", "PSNR above -0.2 dB", -0.2),
    Margin("success", "success above -2 points", -0.02),
    Margin("warp_relative", "warp error below +2 %", 0.02, relative=True),
    Margin("seam", "seam ratio below +2 %", 0.02, relative=True, always=False),
)


@dataclass(frozen=True)
class MarginResult:
    """One margin, the interval of the difference, and whether it lies within."""

    margin: Margin
    interval: Interval | None
    verdict: Literal["within", "not shown", "beyond", "not measured"]


@dataclass(frozen=True)
class NonInferiority:
    """Whether `a` is not worse than `b` by more than the margins."""

    a: str
    b: str
    videos: int
    """Videos with at least three edits measured in both."""
    margins: tuple[MarginResult, ...]

    @property
    def verdict(self) -> Literal["non-inferior", "not shown", "inferior", "too few videos to say"]:
        """Non-inferior needs every margin; one interval wholly beyond its margin makes inferior."""
        if self.videos < VIDEOS:
            return "too few videos to say"
        found = {result.verdict for result in self.margins}
        if found == {"within"}:
            return "non-inferior"
        return "inferior" if "beyond" in found else "not shown"


@dataclass(frozen=True)
class EqualSuccess:
    """A level of edit success that several methods reach, and the point of each method's sweep that is nearest."""

    level: float
    points: Mapping[str, str]


def video_means(rows: Iterable[Row], measure: str) -> dict[str, float]:
    """The mean of a measure over each video's edits; videos without it are left out."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = row.value(measure)
        if value is not None:
            found.setdefault(row.case, []).append(value)
    return {case: math.fsum(values) / len(values) for case, values in found.items()}


def mean(rows: Iterable[Row], measure: str) -> Interval | None:
    """The mean over videos of one method's results, with its interval; None where nothing was measured."""
    values = np.array(list(video_means(rows, measure).values()))
    return interval(values) if len(values) else None


def most(rows: Iterable[Row], measure: str) -> Interval | None:
    """The largest of one method's results, which has no interval; None where nothing was measured."""
    values = [value for row in rows if (value := row.value(measure)) is not None]
    return Interval(max(values), -math.inf, math.inf, len(values)) if values else None


def difference(a: Sequence[Row], b: Sequence[Row], measure: str, *, relative: bool = False) -> Interval | None:
    """How much more of a measure `a` has than `b`, over the edits that both have.

    Args:
        a: One method's results.
        b: Another's.
        measure: Its name in `Row.values`.
        relative: The share by which the mean of `a` exceeds that of `b`, for positive measures.

    Returns:
        The mean difference and its interval; None where no edit was measured in both, or a share has no meaning.

    Raises:
        InputError: the results are not of the same suite.
    """
    pairs = _pairs(a, b, measure)
    if not pairs:
        return None
    ours, theirs = (
        np.array([math.fsum(pair[i] for pair in edits) / len(edits) for edits in pairs.values()]) for i in (0, 1)
    )
    if not relative:
        return interval(ours - theirs)
    return ratio_interval(ours, theirs) if (theirs > 0).all() else None


def compare(a: Sequence[Row], b: Sequence[Row], columns: Sequence[Column] = COMPARED) -> list[Difference]:
    """Which differences between two methods hold: one `Difference` a column.

    Args:
        a: The results of one method.
        b: Those of another, or of the same from another run.
        columns: What they are compared by.

    Raises:
        InputError: the results are not of the same suite, or of several methods.
    """
    names = [_only_method(rows) for rows in (a, b)]
    found = []
    for column in columns:
        shown = difference(a, b, column.name, relative=column.ratio)
        relative = column.ratio and shown is not None
        if shown is None and column.ratio:  # a mean of zero has no share
            shown = difference(a, b, column.name)
        found.append(Difference(column, names[0], names[1], shown, relative, _verdict(shown, column.better)))
    return found


def non_inferior(a: Sequence[Row], b: Sequence[Row]) -> NonInferiority:
    """Whether `a` is not worse than `b`, by the four margins: each interval must lie on the right side of its margin.

    Args:
        a: The results of the method that costs less.
        b: Those of the one it is to replace.

    Raises:
        InputError: the results are not of the same suite, or of several methods.
    """
    names = [_only_method(rows) for rows in (a, b)]
    whole = [{(case, edit) for case, edit in _common(a, b, m.measure)} for m in MARGINS if m.always]
    edits: dict[str, int] = {}
    for case, _ in set.intersection(*whole):
        edits[case] = edits.get(case, 0) + 1
    results = tuple(_margin(a, b, margin) for margin in MARGINS)
    return NonInferiority(names[0], names[1], sum(count >= EDITS for count in edits.values()), results)


def at_equal_success(
    sweeps: Mapping[str, Mapping[str, Sequence[Row]]], tolerance: float = 0.02, level: float | None = None
) -> EqualSuccess | None:
    """The point of each method's sweep at which all succeed equally often.

    Of the levels that every method meets to within the tolerance, the one is taken at which the success that all reach
    is highest (level less the largest distance): else methods that all fail equally would be the best matched.

    Args:
        sweeps: For each method its points (settings of guidance or injection) by name, each with its results.
        tolerance: How far from the common level a point may be, in [0, 1].
        level: The common level, where it is given.

    Returns:
        The level and each method's point, or None where there is none: then use `pareto`.
    """
    success = {
        method: {name: found.mean for name, rows in points.items() if (found := mean(rows, "success"))}
        for method, points in sweeps.items()
    }
    if not success or not all(success.values()):
        return None
    values = sorted({value for points in success.values() for value in points.values()})
    # the largest of several distances to nearest points bends only at points and midway between two
    levels = [level] if level is not None else sorted({(u + v) / 2 for u in values for v in values})

    def distance(common: float) -> float:
        return max(min(abs(value - common) for value in points.values()) for points in success.values())

    met = [common for common in levels if distance(common) <= tolerance + TOUCH]
    if not met:
        return None
    best = max(met, key=lambda common: (common - distance(common), common))
    nearest = {
        method: min(points, key=lambda name: (abs(points[name] - best), -points[name]))
        for method, points in success.items()
    }
    return EqualSuccess(best, nearest)


def pareto(points: Mapping[str, Sequence[float]], better: Sequence[int]) -> tuple[str, ...]:
    """The points that no other one is as good as in everything and better than in something.

    Args:
        points: Coordinates by name.
        better: For each coordinate 1 where more is better, -1 where less is.
    """
    signed = {name: [sign * value for sign, value in zip(better, at, strict=True)] for name, at in points.items()}
    return tuple(
        name
        for name, mine in signed.items()
        if not any(all(map(ge, other, mine)) and other != mine for other in signed.values())
    )


def _pairs(a: Sequence[Row], b: Sequence[Row], measure: str) -> dict[str, list[tuple[float, float]]]:
    """The values of both, by video."""
    found: dict[str, list[tuple[float, float]]] = {}
    for (case, _), pair in sorted(_common(a, b, measure).items()):
        found.setdefault(case, []).append(pair)
    return found


def _common(a: Sequence[Row], b: Sequence[Row], measure: str) -> dict[tuple[str, str], tuple[float, float]]:
    """The values of both where both have one, by video and edit."""
    others = {row.pair: row for row in b}
    found = {}
    for row in a:
        other = others.get(row.pair)
        if other is None:
            continue
        if (row.suite, row.frames, row.prompt) != (other.suite, other.frames, other.prompt):
            raise InputError(
                f"{row.case}.{row.edit} is {row.frames} frames of suite {row.suite} with prompt {row.prompt!r} in one "
                f"run, and {other.frames} of {other.suite} with {other.prompt!r} in the other: only results of the "
                f"same suite can be compared"
            )
        mine, theirs = row.value(measure), other.value(measure)
        if mine is not None and theirs is not None:
            found[row.pair] = (mine, theirs)
    return found


def _only_method(rows: Sequence[Row]) -> str:
    methods = {name: group[0].title for name, group in by_method(rows).items()}
    if len(methods) != 1:
        raise InputError(f"a comparison is of one method with another; here are {len(methods)}: {', '.join(methods)}")
    return next(iter(methods.values()))


def _margin(a: Sequence[Row], b: Sequence[Row], margin: Margin) -> MarginResult:
    found = difference(a, b, margin.measure, relative=margin.relative)
    if found is None:
        return MarginResult(margin, None, "not measured")
    sign = 1 if margin.limit < 0 else -1  # a negative limit bounds from below
    worst, best = (found.low, found.high) if sign > 0 else (found.high, found.low)
    if sign * (worst - margin.limit) > TOUCH:
        return MarginResult(margin, found, "within")
    beyond = found.known and sign * (best - margin.limit) <= TOUCH
    return MarginResult(margin, found, "beyond" if beyond else "not shown")


def _verdict(found: Interval | None, better: int) -> Verdict:
    if found is None:
        return "not measured"
    if found.low <= TOUCH and found.high >= -TOUCH:
        return "no difference shown"
    up = found.low > 0
    if not better:
        return "higher" if up else "lower"
    return "better" if up == (better > 0) else "worse"
