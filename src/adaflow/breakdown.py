"""Where time and memory go, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import FONT, LIGHT, NARROW, WIDE, Theme, new_axes
from .disk import format_bytes
from .progress import STAGES, clock


def stage_breakdown(
    seconds: Mapping[str, float],
    memory: Mapping[str, int] | None = None,
    *,
    expected: Mapping[str, float] | None = None,
    expected_bytes: int | None = None,
    theme: Theme = LIGHT,
    width: float = WIDE,
) -> Figure:
    """Bars of what each stage took, or will take: seconds, and memory at its peak.

    Args:
        seconds: Measured, by stage (`progress.STAGES`; others are shown last, by their own names).
        memory: Bytes at the peak, measured, by stage.
        expected: Seconds that stages are expected to take; hatched, after what was measured of the same stage.
        expected_bytes: The expected peak: a line.
        theme: Colours; `width`: inches.

    Raises:
        ValueError: there is no stage to show.
    """
    memory, expected = memory or {}, expected or {}
    names = [name for name in STAGES if name in seconds or name in expected]
    names += [name for name in seconds if name not in STAGES]
    if not names:
        raise ValueError("no stage took or will take any time")
    both, wide = bool(memory), width > NARROW
    high = 0.3 * len(names) + 1.0
    if wide:
        figure, axes = new_axes(width, high, theme, columns=2 if both else 1)
    else:
        figure, axes = new_axes(width, high * (2 if both else 1), theme, rows=2 if both else 1)
    left, right = (axes[0], axes[1]) if both else (axes, None)
    words = [STAGES.get(name, name) for name in names]
    done, due = ([each.get(name, 0.0) for name in names] for each in (seconds, expected))
    unit, divisor = ("minutes", 60.0) if max(a + b for a, b in zip(done, due, strict=True)) > 180 else ("seconds", 1.0)
    _bars(left, words, [s / divisor for s in done], theme.first, "")
    if any(due):
        start = [s / divisor for s in done]
        left.barh(
            range(len(names)), [s / divisor for s in due], 0.62, left=start, facecolor=theme.ground,
            edgecolor=theme.first, hatch="////", linewidth=1, label="expected",
        )  # fmt: skip
    _numbers(left, [a / divisor + b / divisor for a, b in zip(done, due, strict=True)],
             [f"{'~' if b else ''}{_time(a + b)}" for a, b in zip(done, due, strict=True)], theme)  # fmt: skip
    left.set_xlabel(unit + (" (hatched: expected)" if any(due) else ""), fontsize=FONT, color=theme.ink)
    total = f"{clock(sum(done))}" + (f" and about {clock(sum(due))} to come" if any(due) else "")
    left.set_title(f"Time: {total}", fontsize=FONT + 1, color=theme.ink)
    if right is not None:
        size = [memory.get(name, 0) / 1e9 for name in names]
        _bars(right, words if not wide else [""] * len(words), size, theme.third, "")
        _numbers(right, size, [format_bytes(memory[n]) if memory.get(n) else "" for n in names], theme)
        if expected_bytes:
            right.axvline(expected_bytes / 1e9, color=theme.second, linestyle="--", linewidth=1.2)
            right.set_xlim(right=max(right.get_xlim()[1], 1.08 * expected_bytes / 1e9))
        line = f" (line: {format_bytes(expected_bytes)} expected)" if expected_bytes else ""
        right.set_xlabel(f"GB of memory at the peak{line}", fontsize=FONT, color=theme.ink)
        peak = max(memory.values())
        right.set_title(f"Memory: {format_bytes(peak)} at the peak", fontsize=FONT + 1, color=theme.ink)
    return figure


def _bars(ax: Axes, words: list[str], values: list[float], colour: str, label: str) -> None:
    ax.barh(range(len(values)), values, 0.62, color=colour, label=label)
    ax.set_yticks(range(len(values)) if any(words) else [], words if any(words) else [])
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlim(0, 1.25 * max([*values, 1e-9]))


def _numbers(ax: Axes, ends: list[float], texts: list[str], theme: Theme) -> None:
    """Text at the ends of bars, with room for it."""
    ax.set_xlim(0, 1.28 * max([*ends, 1e-9]))
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        ax.annotate(
            text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=FONT - 1,
            color=theme.ink,
        )  # fmt: skip


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if 0 < seconds < 10 else clock(seconds)
