"""Figures over the frames of a video: the y-t plot with its cuts (Fig. 8) and the similarities that made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import FONT, LIGHT, NARROW, WIDE, Theme, as_array, count, in_colours, new_axes, new_figure, pixels
from .config import KeyframeConfig
from .keyframes import Partition

CUT = "#D55E00"
"""Of cut lines on pictures; with white beside it, it is seen on any."""


def yt_plot(
    columns: Any,
    partition: Partition,
    title: str = "One column of pixels over time",
    *,
    edited: Any = None,
    keys: Sequence[int] = (),
    theme: Theme = LIGHT,
    width: float = WIDE,
) -> Figure:
    """A video as the history of one column of its pixels, with a line where each clip starts (Fig. 8).

    Args:
        columns: `[n, H, 3]`: the same column of each frame.
        partition: The clips.
        title: What stands above.
        edited: The same column of each edited frame, for a second plot below.
        keys: Frames marked in the row of clips: the keyframes of a step.
        theme: Colours; `width`: inches.

    Raises:
        ValueError: there are not as many columns as frames.
    """
    both = [pixels(columns)] + ([] if edited is None else [pixels(edited)])
    for shown in both:
        if len(shown) != partition.frames:
            raise ValueError(f"there are {len(shown)} columns of pixels and {partition.frames} frames")
    figure, axes = new_axes(
        width,
        0.9 + (2.7 if width > NARROW else 1.9) * len(both),
        theme,
        rows=len(both) + 1,
        heights=(*[12] * len(both), 1.2),
        sharex=True,
    )
    for ax, shown, name in zip(axes, both, ("source", "edit"), strict=False):
        _history(ax, shown, partition, width)
        ax.tick_params(bottom=False, labelbottom=False)
        label = "height (pixels)" if edited is None else f"{name}: height"
        ax.set_ylabel(label, fontsize=FONT, color=theme.ink)
    axes[0].set_title(
        f"{title}: {count(partition.frames, 'frame')}, {count(len(partition), 'clip')}"
        if width > NARROW
        else f"{count(partition.frames, 'frame')}, {count(len(partition), 'clip')}",
        fontsize=FONT + 1,
        color=theme.ink,
    )
    lower = axes[-1]
    _clips(lower, partition, theme)
    if len(keys):
        at = np.asarray(keys) + 0.5
        lower.plot(
            at, np.full(len(at), 0.5), "v", color=theme.ground, markersize=4, markeredgecolor=theme.ink, clip_on=False
        )
    lower.set_xlabel(
        "frame" if not len(keys) else "frame (marks: keyframes of the first step)", fontsize=FONT, color=theme.ink
    )
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if width > NARROW else 5))
    return figure


def _clips(ax: Axes, partition: Partition, theme: Theme) -> None:
    """The clips as blocks by turns in two blues, frame i from x = i to i + 1."""
    spans = [(clip.start, len(clip)) for clip in partition.clips]
    colours = [theme.first if c % 2 else theme.pale for c in range(len(spans))]
    ax.broken_barh(spans, (0, 1), facecolors=colours, edgecolors="none")
    ax.set(xlim=(0, partition.frames), ylim=(0, 1), yticks=[])
    ax.set_ylabel("clips", fontsize=FONT, rotation=0, ha="right", va="center", color=theme.ink)


def _history(ax: Axes, columns: np.ndarray, partition: Partition, width: float) -> None:
    """Columns `[n, H, 3]` from left to right, column i from x = i to i + 1, and a line at each start of a clip."""
    bottom = len(columns[0])
    ax.imshow(
        columns.transpose(1, 0, 2), aspect="auto", interpolation="antialiased", extent=(0, len(columns), bottom, 0)
    )
    cuts = partition.starts[1:]
    thick = min(1.2, max(0.35, 4.5 * width / max(len(cuts), 1)))  # many lines leave the picture seen
    ax.vlines(cuts, 0, bottom, color="white", linewidth=2.2 * thick, alpha=0.8)
    ax.vlines(cuts, 0, bottom, color=CUT, linewidth=thick, linestyle=(0, (4, 2)))


def similarity_curves(
    scores: Any,
    partition: Partition,
    config: KeyframeConfig | None = None,
    *,
    theme: Theme = LIGHT,
    width: float = WIDE,
    height: float = 2.3,
) -> Figure:
    """The two similarities that decided about each frame, the thresholds, where clips start, and the clips below.

    Its axes are always between the same borders (`curve_borders`), so that other pictures of the same frames can stand
    above them; and it is drawn within a few hundredths of a second, for those who move the thresholds.

    Args:
        scores: `[n, 2]`, from `keyframes.partition_with_scores`: mean and lowest window.
        partition: The clips.
        config: Whose thresholds are drawn.
        theme: Colours; `width`: inches; `height`: of the curves, in inches.

    Raises:
        ValueError: there are not two scores for every frame.
    """
    config = (config or KeyframeConfig()).completed()
    values = as_array(scores)
    if values.shape != (partition.frames, 2):
        raise ValueError(f"scores have shape {values.shape}; wanted {(partition.frames, 2)}")
    wide = width > NARROW
    kinds = (
        ("mean", values[:, 0], config.mean_threshold, theme.first, "o", "-"),
        ("lowest window", values[:, 1], config.window_threshold, theme.second, "s", "--"),
    )
    dots = "" if partition.frames > 1 else "."
    cuts = np.array(partition.starts[1:], dtype=int)
    full = np.array([len(clip) >= (config.longest_clip or 0) for clip in partition.clips[:-1]], dtype=bool)
    full &= (values[cuts, 0] >= config.mean_threshold) & (values[cuts, 1] >= config.window_threshold)
    figure, ax, lower = _curve_axes(width, height, 1 if wide else 4 + bool(full.any()), theme)
    thin = min(0.6, max(0.1, 8 * width / max(len(cuts), 1)))  # many lines leave the curves seen
    ax.vlines(cuts, 0, 1, transform=ax.get_xaxis_transform(), color=theme.quiet, linewidth=thin, alpha=0.6, zorder=0)
    edge: dict[str, Any] = {"markeredgecolor": theme.ink, "markeredgewidth": 0.6}
    for name, curve, threshold, colour, marker, style in kinds:
        shown = _shown(curve, int(POINTS * width))
        ax.plot(shown + 0.5, curve[shown], color=colour, linewidth=1.1, linestyle=style, marker=dots, label=name)
        ax.axhline(threshold, color=colour, linewidth=0.9, linestyle=":", label=f"{name}: threshold {threshold:g}")
        below = cuts[curve[cuts] < threshold]
        ax.plot(below + 0.5, curve[below], marker, color=colour, markersize=4, **edge)
    if full.any():
        label = f"longest clip ({config.longest_clip})"
        ax.plot(cuts[full] + 0.5, values[cuts[full], 0], "D", color=theme.third, markersize=5, label=label, **edge)
    lowest = min(values.min(), config.window_threshold, config.mean_threshold)
    ax.set(ylim=(lowest - 0.05, 1.03), yticks=_steps(lowest))
    ax.set_ylabel("similarity", fontsize=FONT, color=theme.ink)
    ax.set_title(
        f"Similarity to the clip's first frame; {count(len(partition), 'clip')}", fontsize=FONT + 1, color=theme.ink
    )
    _clips(lower, partition, theme)
    lower.set_xlabel("frame", fontsize=FONT, color=theme.ink)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if wide else 5))
    ax.legend(
        fontsize=FONT - 1, loc="lower center", bbox_to_anchor=(0.5, 0), bbox_transform=figure.transFigure,
        ncols=5 if wide else 1, frameon=False, labelcolor=theme.ink, borderaxespad=0.2, columnspacing=1.2,
    )  # fmt: skip
    return figure


def curve_borders(width: float = WIDE) -> tuple[float, float]:
    """Where the axes of `similarity_curves` begin and end, as shares of its width: frame 0, and the last one's end."""
    return _LEFT / width, 1 - _RIGHT / width


_LEFT, _RIGHT, _ABOVE, _TICKS, _ROW, _LINE = 0.62, 0.22, 0.32, 0.46, 0.17, 0.172
"""Inches left and right of the axes, of the title, of the numbers below, of the row of clips, of a legend's line."""


def _curve_axes(width: float, height: float, lines: int, theme: Theme) -> tuple[Figure, Axes, Axes]:
    """A figure with axes for curves and, below them, for the clips; measured by hand, for a layout takes as long again
    as the drawing.
    """
    below = 0.1 + lines * _LINE + _TICKS
    whole = below + _ROW + height + _ABOVE
    figure = new_figure(width, whole, theme, layout=None)
    left, right = curve_borders(width)
    upper = figure.add_axes((left, (below + _ROW) / whole, right - left, height / whole))
    lower = figure.add_axes((left, below / whole, right - left, _ROW / whole), sharex=upper)
    for ax in (upper, lower):
        in_colours(ax, theme)
    upper.tick_params(bottom=False, labelbottom=False)
    upper.spines[["top", "right"]].set_visible(False)
    return figure, upper, lower


def _steps(lowest: float) -> np.ndarray:
    """A few round numbers from about the lowest similarity to 1, none where the row of clips has its name."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (1 - lowest) / step <= 6)
    return np.round(np.arange(1, lowest - 0.02, -step), 2)


POINTS = 80
"""Of a curve, at most, an inch: more cannot be told apart, and a page would wait for them."""


def _shown(curve: np.ndarray, most: int) -> np.ndarray:
    """The frames through which a curve is drawn: all, or the lowest and the highest of each few."""
    if len(curve) <= most:
        return np.arange(len(curve))
    parts = np.array_split(np.arange(len(curve)), most // 2)
    ends = [(part[curve[part].argmin()], part[curve[part].argmax()]) for part in parts]
    return np.unique([0, len(curve) - 1, *np.ravel(ends)])
