"""The parts of a page that say what was found in a video: clips, keyframes, temporal dynamics, tokens kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from .canvas import DARK, LIGHT, WIDE, Frame, Theme, count, recoloured, scaled, svg, webp
from .config import KeyframeConfig
from .evidence import Compared, Evidence, KeptTokens
from .heatmaps import Dynamics, temporal_dynamics
from .kept import framed, kept_label, kept_token_tiles, kept_tokens_sheet
from .keyframes import Partition
from .report import Grid, Section, Shown
from .sheets import clip_labels
from .slimming import kept_per_keyframe
from .timelines import similarity_curves, yt_plot
from .video import VideoSource

SHEET = 40
"""Keyframes shown at most, with the lengths of their clips."""
TILES = 24
"""Keyframes shown at most with the tokens kept of them."""
SMALL = 320
"""Width of small pictures in pixels, at most."""
TELEPHONE = 3.9
"""Inches of a figure on a telephone."""


def themed(
    draw: Callable[[Theme, float], Figure], caption: str, description: str = "", *, photographs: bool = False
) -> Shown:
    """A figure for a page: drawn for a desk and for a telephone, each on a light and on a dark ground.

    Args:
        draw: Draws it in a theme, so many inches wide.
        caption: What stands below; `description`: what is read to those who do not see it.
        photographs: Whether it holds pictures, and is better kept as pixels than as lines.
    """
    if photographs:
        light, dark = (webp(draw(theme, WIDE)) for theme in (LIGHT, DARK))
        narrow, narrow_dark = (webp(draw(theme, TELEPHONE)) for theme in (LIGHT, DARK))
    else:
        light, narrow = (svg(draw(LIGHT, width)) for width in (WIDE, TELEPHONE))
        dark, narrow_dark = (recoloured(drawn, LIGHT, DARK) for drawn in (light, narrow))
    return Shown(light, caption, description, dark, narrow, narrow_dark)


def findings(
    source: VideoSource,
    size: tuple[int, int],
    clips: Partition,
    scores: torch.Tensor,
    schedule: torch.Tensor,
    config: KeyframeConfig | None,
    evidence: Evidence | None,
    history: bool = True,
) -> list[Section]:
    """The clips and why they end there, their keyframes, what frames share, and what keyframes keep of each other."""
    evidence = evidence or Evidence()
    keys = [int(k) for k in schedule[0]]
    some = spread(len(keys), SHEET)
    wanted = {keys[c] for c in some} | {f for row in evidence.compared for one in row for f in (one.first, one.frame)}
    if evidence.kept:
        wanted |= set(evidence.kept.keys)
    columns, frames = gathered(source, size, wanted)
    marks = keys if len(keys) <= SHEET else []
    starts = ", ".join(map(str, clips.starts[:40])) + (" …" if len(clips) > 40 else "")
    return [
        Section(
            "Clips",
            text="A clip ends where frames stop resembling its first one; each clip gives one keyframe at every step.",
            items=[
                *(
                    [
                        themed(
                            lambda theme, width: yt_plot(columns, clips, keys=marks, theme=theme, width=width),
                            "The middle column of every frame over time; dashed lines: where clips start.",
                            f"clips start at frames {starts}",
                            photographs=True,
                        )
                    ]
                    if history
                    else []
                ),
                themed(
                    lambda theme, width: similarity_curves(scores, clips, config, theme=theme, width=width),
                    "What decided about each frame: a clip starts where a curve falls below the dotted line of its "
                    "colour.",
                    f"clips start at frames {starts}",
                ),
            ],
        ),
        Section(
            "Keyframes",
            text="Those of the first step, with the frames of their clips."
            + (f" {len(some)} of {len(keys)} are shown." if len(some) < len(keys) else ""),
            items=[
                Grid(
                    [
                        Shown(photo(frames[keys[c]]), f"frame {keys[c]} of {label}", f"keyframe {keys[c]}")
                        for c, label in zip(some, clip_labels(clips, some), strict=True)
                    ],
                    width=9,
                )
            ],
        ),
        *_dynamics(evidence.compared, frames, config),
        *_kept(evidence.kept, frames, len(keys), evidence),
    ]


def _dynamics(
    rows: Sequence[Sequence[Compared]], frames: dict[int, np.ndarray], config: KeyframeConfig | None
) -> list[Section]:
    if not rows:
        return []
    config = (config or KeyframeConfig()).completed()
    lowest = np.quantile(np.concatenate([one.heatmap.flatten().numpy() for row in rows for one in row]), 0.01)
    low = float(np.clip(np.floor(10 * lowest) / 10, 0.0, 0.8))

    def figure(row: Sequence[Compared], theme: Theme, width: float) -> Figure:
        first = row[0].first
        others = [
            Dynamics(
                small(frames[c.frame]), f"frame {c.frame}", c.heatmap, c.window, c.lowest, verdict(c, config), c.back
            )
            for c in row
        ]
        return temporal_dynamics(small(frames[first]), f"frame {first}", others, low=low, theme=theme, width=width)

    items = []
    for row in rows:
        what = (
            f"The clip that starts at frame {row[0].first}: how well each of its places is found again in later frames."
        )
        if any(one.back for one in row):
            what += " With a star: how well each place of the later frame is found in the first, which was less."
        items.append(themed(lambda theme, width, row=row: figure(row, theme, width), what, photographs=True))  # type: ignore[misc]
    return [
        Section(
            "Temporal dynamics",
            text="Dark is what is no longer there. A new clip starts when the mean falls below "
            f"{config.mean_threshold:g}, or a window below {config.window_threshold:g}.",
            items=items,
        )
    ]


def verdict(compared: Compared, config: KeyframeConfig) -> str:
    """What the thresholds say about a frame, in a few words."""
    config = config.completed()
    checks = (
        ("mean", config.mean_threshold, compared.mean),
        ("window", config.window_threshold, compared.lowest),
        ("longest", compared.frame - compared.first, (config.longest_clip or 0) - 1),
    )
    why = [name for name, threshold, value in checks if threshold is not None and value < threshold]
    return f"new clip: {', '.join(why)}" if why else "same clip"


def _kept(kept: KeptTokens | None, frames: dict[int, np.ndarray], keys: int, evidence: Evidence) -> list[Section]:
    heading = "Tokens kept for attention"
    if kept is None:
        if not evidence.compared:
            return []
        text = (
            f"{count(keys, 'keyframe')}: no more than the budget, so that each attends to every token of all of them."
        )
        return [Section(heading, text=text)]
    pictures = [small(frames[k]) for k in kept.keys]
    query = len(kept.keys) // 2
    tiles, shares = kept_token_tiles(pictures, kept.kept, kept.grid, query)
    some = sorted({*spread(len(tiles), TILES), query})
    counts = kept_per_keyframe(kept.kept, kept.grid[0] * kept.grid[1])
    step = f"step {kept.step}" if kept.step else "the first step"
    text = (
        f"Each of the {len(kept.keys)} keyframes of {step} attends to {kept.budget} keyframes' worth of tokens: those "
        "that look most like something in it."
    )
    sheet = themed(
        lambda theme, width: kept_tokens_sheet(
            pictures, counts, kept.grid[0] * kept.grid[1], theme=theme, width=min(width, 6.6)
        ),
        "How much each keyframe keeps of each other, in percent of its tokens.",
        photographs=True,
    )
    grid = Grid(
        [
            Shown(
                photo(framed(tiles[j]) if j == query else tiles[j]),
                kept_label(j, shares[j], query),
                f"kept of keyframe {j}",
            )
            for j in some
        ],
        width=9,
        caption=f"What keyframe {query} keeps as keys and values of each, at {kept.grid[1]}x{kept.grid[0]} tokens; "
        "what is dark is left out.",
    )
    return [Section(heading, text=text, items=[grid, sheet])]


def gathered(
    source: VideoSource, size: tuple[int, int], wanted: Collection[int]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """In one pass over the video: the middle column of every frame, `[n, H, 3]`, and the frames wanted."""
    columns, found = [], {}
    for i, frame in enumerate(source.frames(size)):
        columns.append(frame[:, size[1] // 2].copy())
        if i in wanted:
            found[i] = frame
    return np.stack(columns), found


def photo(frame: Frame) -> bytes:
    """A small picture as a file."""
    return webp(scaled(frame, min(SMALL, np.shape(frame)[1])))


def small(frame: Frame) -> Any:
    """A picture no wider than `SMALL`."""
    return scaled(frame, SMALL) if np.shape(frame)[1] > SMALL else frame


def spread(total: int, most: int) -> list[int]:
    """At most so many of `total` places, evenly spread."""
    return sorted({round(float(place)) for place in np.linspace(0, total - 1, min(total, most))})
