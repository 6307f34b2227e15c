"""Plots of the results, each for a light and for a dark ground: quality against cost, by motion, differences.

No pyplot, no state; SVG, so that they stay sharp on a telephone; the colours are Okabe and Ito's, and shape or place
always says what colour says. Text is drawn as it is, never read as mathematics.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..report import Shown
from .bootstrap import Interval
from .columns import COLUMNS, Column
from .layout import as_share, base_of, difference_unit, editing
from .rows import Row, by_method
from .statistics import Difference, compare, mean, pareto, video_means

WIDTH = 5.0
FONT = 9.0


@dataclass(frozen=True)
class Theme:
    """Colours on one ground."""

    ground: str
    ink: str
    quiet: str
    line: str
    base: str
    other: str
    series: tuple[str, ...]


LIGHT = Theme(
    "#ffffff",
    "#1c1e21",
    "#5a6068",
    "#d9dce0",
    "#D55E00",
    "#0072B2",
    ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#999999"),
)
DARK = Theme(
    "#16181b",
    "#e7e9ec",
    "#a3abb5",
    "#363b41",
    "#E69F00",
    "#56B4E9",
    ("#E69F00", "#56B4E9", "#00b685", "#CC79A7", "#8d949c"),
)
HATCHES = ("", "///", "...", "xxx", "\\\\\\")


def quality_against_cost(rows: Sequence[Row], x: str, y: str) -> Shown | None:
    """Each editing method's mean of one measure against that of another, with their Pareto front.

    Args:
        rows: The results.
        x: The measure along the bottom, such as seconds.
        y: The measure at the side.

    Returns:
        The plot; None where fewer than two methods have both.
    """
    points = {}
    for method, group in editing(rows).items():  # references would squeeze the others into a corner
        at, height = mean(group, x), mean(group, y)
        if at is not None and height is not None:
            points[method] = (group[0].title, at, height)
    if len(points) < 2:
        return None
    across, up = COLUMNS[x], COLUMNS[y]
    rivals = {m: (at.mean, height.mean) for m, (_, at, height) in points.items()}
    front = pareto(rivals, (across.better, up.better))
    caption = (
        f"{up.label} against {across.label}; the line joins the methods that none beats in both. "
        "Whiskers: 95 % of each mean alone; whether two differ is below, where they are paired."
    )

    def draw(theme: Theme) -> Figure:
        figure, ax = _axes(theme, max(3.6, 0.24 * len(points) + 1.0))
        base = base_of(rows)
        for method, (_, at, height) in points.items():
            colour, mark = (theme.base, "D") if method == base else (theme.other, "o")
            spread = _spread(height, up)
            ax.errorbar(
                at.mean * across.scale, height.mean * up.scale, yerr=spread, fmt=mark, color=colour, markersize=6.5,
                elinewidth=1, capsize=0, markeredgecolor=theme.ground, markeredgewidth=0.6, zorder=3 + (method == base),
            )  # fmt: skip
        line = sorted((rivals[method][0] * across.scale, rivals[method][1] * up.scale) for method in front)
        ax.plot(*zip(*line, strict=True), color=theme.quiet, linewidth=1.1, linestyle="--", zorder=1)
        low, high = (f(p[1].mean for p in points.values()) for f in (min, max))
        if across.ratio and low > 0 and high > 8 * low:
            ax.set_xscale("log")
        ax.set_xlabel(across.heading, fontsize=FONT, color=theme.ink)
        ax.set_ylabel(up.heading, fontsize=FONT, color=theme.ink)
        named = [(title, (at.mean * across.scale, h.mean * up.scale)) for title, at, h in points.values()]
        _names_beside(ax, named, theme)
        return figure

    return _shown(draw, caption)


def by_motion(rows: Sequence[Row], measure: str, methods: Sequence[str]) -> Shown | None:
    """A bar for each method and kind of motion, with its interval, or the videos themselves where they are few.

    Args:
        rows: The results.
        measure: What the bars show.
        methods: Up to five.

    Returns:
        The plot; None where none of the methods has the measure.
    """
    column = COLUMNS[measure]
    groups = by_method(rows)
    chosen = [m for m in methods[: len(HATCHES)] if m in groups and mean(groups[m], measure) is not None]
    motions = sorted({row.motion for m in chosen for row in groups[m]}, reverse=True)
    if not chosen:
        return None
    start = f"Bars begin at a perfect edit's {column.text(column.origin)}{column.unit and ' ' + column.unit}. "
    caption = f"{column.label} by motion, the mean of each method. {start if column.origin else ''}" + (
        "Whiskers: 95 %; dots where there are fewer than six videos: each one."
    )

    def draw(theme: Theme) -> Figure:
        thick = 0.8 / len(chosen)
        figure, ax = _axes(theme, max(2.4, len(motions) * (0.2 + 0.17 * len(chosen)) + 1.1))
        for i, method in enumerate(chosen):
            colour, hatch = theme.series[i], HATCHES[i]
            for j, motion in enumerate(motions):
                some = [row for row in groups[method] if row.motion == motion]
                found = mean(some, measure)
                if found is None:
                    continue
                place = j + (len(chosen) - 1 - 2 * i) * thick / 2
                length = (found.mean - column.origin) * column.scale
                ax.barh(
                    place, length, thick * 0.9, left=column.origin * column.scale, color=colour, hatch=hatch,
                    edgecolor=theme.ground, linewidth=0, zorder=2,
                )  # fmt: skip
                if found.known:
                    ax.errorbar(
                        found.mean * column.scale, place, xerr=_spread(found, column), color=theme.ink, elinewidth=1,
                        zorder=3,
                    )  # fmt: skip
                else:
                    dots = [value * column.scale for value in video_means(some, measure).values()]
                    ax.plot(dots, [place] * len(dots), "o", color=theme.ink, markersize=2.6, zorder=3)
        ax.set_yticks(range(len(motions)), [_short(m) for m in motions], parse_math=False)
        ax.set_ylim(-0.6, len(motions) - 0.4)
        ax.axvline(column.origin * column.scale, color=theme.quiet, linewidth=0.8)
        ax.set_xlabel(column.heading, fontsize=FONT, color=theme.ink)
        handles = [
            Patch(facecolor=theme.series[i], hatch=HATCHES[i], edgecolor=theme.ground, linewidth=0)
            for i in range(len(chosen))
        ]
        names = [_short(groups[m][0].title) for m in chosen]
        key = figure.legend(
            handles, names, loc="outside upper left", ncols=2 if len(chosen) < 5 else 3, fontsize=FONT - 1,
            frameon=False, labelcolor=theme.ink,
        )  # fmt: skip
        for text in key.get_texts():
            text.set_parse_math(False)
        return figure

    return _shown(draw, caption)


def forest(rows: Sequence[Row], measure: str) -> Shown | None:
    """Each editing method's difference from the base in one measure, with its interval: filled where it holds.

    Returns:
        The plot; None where nothing can be compared.
    """
    groups, base = editing(rows), base_of(rows)
    column = COLUMNS[measure]
    found = [
        (_short(group[0].title), each)
        for method, group in groups.items()
        if method != base
        for each in compare(group, groups[base], [column])
        if each.interval is not None and each.relative == column.ratio
    ]
    if not found:
        return None
    title = groups[base][0].title
    better = {1: "right of the line is better", -1: "left of the line is better", 0: "neither side is better"}
    caption = (
        f"{column.label}: each method less {title}; {better[column.better]}. Filled: the 95 % interval does not hold 0."
    )

    def draw(theme: Theme) -> Figure:
        figure, ax = _axes(theme, 0.27 * len(found) + 1.0)
        for place, (_, each) in enumerate(reversed(found)):
            _whisker(ax, place, each, theme)
        ax.axvline(0, color=theme.quiet, linewidth=1)
        ax.set_yticks(range(len(found)), [name for name, _ in reversed(found)], parse_math=False)
        ax.set_ylim(-0.7, len(found) - 0.3)
        unit = difference_unit(column, column.ratio)
        ax.set_xlabel(f"{column.label}, difference{f' ({unit})' if unit else ''}", fontsize=FONT, color=theme.ink)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        return figure

    return _shown(draw, caption)


def _whisker(ax: Axes, place: int, each: Difference, theme: Theme) -> None:
    assert each.interval is not None
    column = as_share(each.column, each.relative)
    holds = each.verdict in ("better", "worse", "higher", "lower")
    colour = {"better": theme.other, "worse": theme.base}.get(each.verdict, theme.quiet)
    ax.errorbar(
        each.interval.mean * column.scale, place, xerr=_spread(each.interval, column), color=colour, markersize=6,
        fmt={"better": "^", "worse": "v"}.get(each.verdict, "o"), elinewidth=1.4, markeredgecolor=colour,
        markerfacecolor=colour if holds else theme.ground, zorder=3,
    )  # fmt: skip


def _names_beside(ax: Axes, points: Sequence[tuple[str, tuple[float, float]]], theme: Theme) -> None:
    """Names at the right, in the order of the points' heights and none above another, each with a line to its point."""
    to_axes = ax.transData + ax.transAxes.inverted()
    ax.figure.canvas.draw()  # limits and layout are settled now
    order = sorted(points, key=lambda point: (point[1][1], point[0]))
    least = min(0.075, 1.0 / max(len(order), 1))
    places = np.array([float(to_axes.transform(at)[1]) for _, at in order])
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + least)
    places[-1] = min(places[-1], 1.0)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - least)
    for (name, at), place in zip(order, places, strict=True):
        note = ax.annotate(
            _short(name), at, xytext=(1.03, float(place)), textcoords="axes fraction", fontsize=FONT - 1,
            color=theme.ink, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": theme.quiet, "linewidth": 0.6, "alpha": 0.7, "shrinkB": 4},
        )  # fmt: skip
        note.set_parse_math(False)


def _spread(found: Interval, column: Column) -> Any:
    """Distances from the mean to the interval's ends, as error bars want them; none where it is unknown."""
    if not found.known:
        return None
    return [[(found.mean - found.low) * column.scale], [(found.high - found.mean) * column.scale]]


def _axes(theme: Theme, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor=theme.ground)
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.set_facecolor(theme.ground)
    ax.tick_params(labelsize=FONT - 0.5, colors=theme.quiet, labelcolor=theme.ink)
    ax.grid(color=theme.line, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    for name, spine in ax.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(theme.quiet)
    return figure, ax


def _shown(draw: Callable[[Theme], Figure], caption: str) -> Shown:
    return Shown(svg(draw(LIGHT)), caption[:1].upper() + caption[1:], dark=svg(draw(DARK)))


def svg(figure: Figure) -> bytes:
    """A figure as an SVG file; the same figure gives the same bytes."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "adaflow"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.08)
    return file.getvalue()


def _short(text: str, most: int = 26) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
