"""Where a frame is still found in later ones: temporal dynamics, by the features that decide about clips (Fig. 2b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .canvas import FONT, LIGHT, MAP, NARROW, WIDE, Frame, Theme, as_array, bar_in_colours, new_axes, pixels

Window = tuple[int, int, int, int]
"""Top, left, height and width of a window, in tokens."""


@dataclass(frozen=True)
class Dynamics:
    """A frame that was compared with the first one of its clip.

    Attributes:
        frame: Its picture; `label`: what it is called.
        heatmap: `[h, w]`, from `keyframes.heatmap(first, frame)`: it belongs to the places of the first frame.
        window: The window with the lowest mean; None where there is none to show.
        lowest: That mean.
        verdict: What was decided, in a few words.
        back: Whether the heatmap belongs to the places of `frame`, as found in the first one; it gets a star.
    """

    frame: Frame
    label: str
    heatmap: Any
    window: Window | None = None
    lowest: float | None = None
    verdict: str = ""
    back: bool = False


def temporal_dynamics(
    first: Frame,
    label: str,
    others: Sequence[Dynamics],
    *,
    low: float = 0.0,
    theme: Theme = LIGHT,
    width: float = WIDE,
) -> Figure:
    """How a clip drifts away from its first frame: later frames, and where the first is still found in them (Fig. 2b).

    Args:
        first: The first frame of a clip; `label`: what it is called.
        others: Frames compared with it, in their order.
        low: The similarity at which the colours begin; they end at 1.
        theme: Colours; `width`: inches. Below `canvas.NARROW` the comparisons stand one under another.

    Raises:
        ValueError: nothing is compared, or a heatmap has no rows and columns.
    """
    if not others or any(as_array(other.heatmap).ndim != 2 for other in others):
        raise ValueError("wanted at least one frame with a heatmap [h, w]")
    start, wide = pixels(first), width > NARROW
    tall = min(start.shape[0] / start.shape[1], 1.8)
    if wide:
        cell = width / (len(others) + 1)
        figure, axes = new_axes(width, 2 * cell * tall + 0.9, theme, rows=2, columns=len(others) + 1)
        places = [(axes[0, c + 1], axes[1, c + 1]) for c in range(len(others))]
        corner, key = axes[0, 0], axes[1, 0]
    else:
        cell = width / 2
        rows = len(others) + 1
        figure, axes = new_axes(width, rows * (cell * tall + 0.5), theme, rows=rows, columns=2)
        places = [(axes[r + 1, 0], axes[r + 1, 1]) for r in range(len(others))]
        corner, key = axes[0, 0], axes[0, 1]
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    corner.imshow(start, interpolation="antialiased")
    corner.set_title(f"{label}, first of its clip" if wide else label, fontsize=FONT, color=theme.ink)
    shown = None
    for (upper, lower), other in zip(places, others, strict=True):
        upper.imshow(pixels(other.frame), interpolation="antialiased")
        upper.set_title(other.label, fontsize=FONT, color=theme.ink)
        heat = as_array(other.heatmap)
        shown = _over(lower, heat, start.shape[:2], low)
        if other.window is not None:
            _outline(lower, other.window, heat.shape, start.shape[:2], theme)
        said = f"mean {heat.mean():.2f}"
        said += "" if other.lowest is None else f", lowest {other.lowest:.2f}"
        said += " *" if other.back else ""
        lower.set_title(said, fontsize=FONT - (0 if wide else 1), color=theme.ink)
        lower.set_xlabel(other.verdict, fontsize=FONT, color=theme.ink, fontweight="bold")
    key.axis("off")
    within = key.inset_axes((0.04, 0.42, 0.92, 0.12))
    assert shown is not None
    bar = figure.colorbar(shown, cax=within, orientation="horizontal", extend="min" if low > 0 else "neither")
    bar_in_colours(bar, "best cosine similarity\n(box: lowest window)", theme)
    key.text(
        0.5, 0.64, f"{label} found again", ha="center", fontsize=FONT, color=theme.ink, transform=key.transAxes
    )  # fmt: skip
    return figure


def heatmap_pair(
    frame_i: Frame,
    frame_j: Frame,
    heatmap: Any,
    labels: tuple[str, str] = ("frame i", "frame j"),
    low: float = 0.0,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Two frames, and how well each place of the first is found in the second (Fig. 2b).

    Args:
        frame_i: The frame that the map belongs to.
        frame_j: The frame it was compared with.
        heatmap: `[h, w]`, from `keyframes.heatmap(f_i, f_j)`.
        labels: What the frames are called.
        low: The similarity at which the colours begin; they end at 1.
        theme: Colours.
    """
    first, second = pixels(frame_i), pixels(frame_j)
    heat = as_array(heatmap)
    tall = max(first.shape[0] / first.shape[1], second.shape[0] / second.shape[1])
    figure, axes = new_axes(WIDE + 1, 0.9 + 3.4 * min(tall, 1.8), theme, columns=3)
    for ax, picture, label in zip(axes, (first, second), labels, strict=False):
        ax.imshow(picture, interpolation="antialiased")
        ax.set_title(label, fontsize=FONT + 1, color=theme.ink)
    shown = _over(axes[2], heat, first.shape[:2], low)
    axes[2].set_title(f"{labels[0]} found in {labels[1]}: mean {heat.mean():.2f}", fontsize=FONT + 1, color=theme.ink)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    extend = "min" if low > 0 else "neither"
    bar = figure.colorbar(shown, ax=axes[2], fraction=0.046 * min(tall, 1), pad=0.03, extend=extend)
    bar_in_colours(bar, "best cosine similarity", theme)
    return figure


def _over(ax: Axes, heat: np.ndarray, size: tuple[int, ...], low: float) -> Any:
    """A heatmap as large as the frame it belongs to."""
    height, width = size
    return ax.imshow(heat, cmap=MAP, vmin=low, vmax=1, interpolation="nearest", extent=(0, width, height, 0))


def _outline(ax: Axes, window: Window, grid: tuple[int, ...], size: tuple[int, ...], theme: Theme) -> None:
    """A window's border, in pixels of the frame."""
    down, across = size[0] / grid[0], size[1] / grid[1]
    top, left, height, width = window
    corner = (left * across, top * down)
    for colour, thick in (("white", 2.6), (LIGHT.second, 1.4)):
        ax.add_patch(Rectangle(corner, width * across, height * down, fill=False, edgecolor=colour, linewidth=thick))
