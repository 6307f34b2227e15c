"""The pages of figures that `inspect` and `edit` write: what was found in the video, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .breakdown import stage_breakdown
from .canvas import count, webp
from .cards import cards
from .comparison import comparison_film, middles_of
from .config import ResolvedConfig
from .disk import format_bytes
from .evidence import Evidence
from .findings import findings, gathered, small, themed
from .progress import clock
from .report import Compare, Grid, Section, Shown, write_report
from .result import EditResult, Inspection
from .sheets import pair
from .spent import OTHER, StageClock
from .timelines import yt_plot
from .video import open_source

SHOWN = 5
"""Frames shown where a figure cannot show them all."""


def inspection_report(
    path: Path,
    video: Any,
    found: Inspection,
    *,
    config: ResolvedConfig | None = None,
    evidence: Evidence | None = None,
    spent: StageClock | None = None,
) -> Path:
    """The page of `adaflow inspect`: the clips, where they begin and why, the keyframes, and what an edit will take.

    Args:
        path: Where it goes.
        video: What was inspected.
        found: What was found.
        config: Under which settings; their thresholds are drawn.
        evidence: Heatmaps and kept tokens; what is not there is left out.
        spent: What has been spent already.
    """
    source, size, estimate = open_source(video), found.geometry.content, found.estimate
    about = {
        "frames": found.source.frames,
        "edited at": f"{size[1]}x{size[0]}",
        "clips": len(found.partition.clips),
        "an edit will take": f"about {clock(estimate.total_seconds)} more",
        "memory": f"about {format_bytes(estimate.host_bytes)}",
        "device memory": f"about {format_bytes(estimate.device_bytes)}" if estimate.device_bytes else "none",
        "disk": f"about {format_bytes(estimate.disk_bytes)}",
    }
    peak = max(estimate.host_bytes, estimate.device_bytes)
    sections = [
        Section("The video", table=about),
        *findings(
            source, size, found.partition, found.scores, found.schedule, config.keyframes if config else None, evidence
        ),
        *_spent(spent, estimate.seconds, peak),
    ]
    return write_report(path, "AdaFlow: what is in the video", sections, "inspect")


def edit_report(
    path: Path,
    video: Any,
    result: EditResult,
    *,
    evidence: Evidence | None = None,
    spent: StageClock | None = None,
) -> Path:
    """The page of `adaflow edit`: source and edit with a line between them, clips, keyframes, what it took, settings.

    Args:
        path: Where it goes.
        video: What was edited.
        result: The edit.
        evidence: Heatmaps and kept tokens; what is not there is left out.
        spent: What the stages took.
    """
    source, size = open_source(video), result.frames.shape[1:3]
    record, frames = result.record, result.frames
    found = len(result.scores) > 0  # a compared system has chunks, which are nothing that was found in the video
    parts = count(len(result.partition.clips), "clip" if found else "chunk")
    chosen = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int).tolist()
    columns, before = gathered(source, size, chosen)
    after = np.stack([frame[:, size[1] // 2] for frame in frames])
    film = comparison_film(source, result, "side", names=None)
    embedded = any(card.embedded for card in cards().values() if card.name == record["model"]["name"])
    stills = [
        Shown(webp(pair(small(before[i]), small(frames[i]))), f"frame {i}", f"frame {i}: source above, edit below")
        for i in chosen
    ]
    sections = [
        Section(
            "Before and after",
            text=f"{count(len(frames), 'frame')} in {parts}." + (f" {MINIATURE}" if embedded else ""),
            items=[
                Compare(film, middles_of(result.source), "source at the left of the line, edit at the right"),
                Grid(stills, width=9, caption="The same frames of both, source above edit."),
                themed(
                    lambda theme, width: yt_plot(columns, result.partition, edited=after, theme=theme, width=width),
                    "The middle column of every frame over time, source above edit. What holds still in the source and "
                    "flickers in the edit would show as stripes; dashed lines: where clips start.",
                    photographs=True,
                ),
            ],
        ),
    ]
    if found:
        settings = result.config.keyframes
        sections += findings(source, size, result.partition, result.scores, result.schedule, settings, evidence, False)
    sections += _spent(spent)
    sections += [
        Section("Settings", table=record["settings"]),
        Section("Model and versions", table=record["model"] | record["versions"]),
    ]
    return write_report(path, f"AdaFlow: {record['prompt']}", sections, "edit")


MINIATURE = "Made by the embedded miniature, which understands only its own rendered world."


def _spent(
    spent: StageClock | None, expected: dict[str, float] | None = None, expected_bytes: int | None = None
) -> list[Section]:
    if spent is None or not spent.seconds:
        return []
    seconds = {name: took for name, took in spent.seconds.items() if name != OTHER or took > 0.5}
    peaks = {name: peak for name, peak in spent.peak_bytes.items() if peak and name in seconds}
    text = "Stages whose results were found in the workspace took no time." if expected is None else ""
    shown = themed(
        lambda theme, width: stage_breakdown(
            seconds, peaks, expected=expected, expected_bytes=expected_bytes, theme=theme, width=width
        ),
        "Seconds by stage, and the most memory of the process or of the device meanwhile, page cache apart.",
    )
    return [Section("Time and memory", text=text, items=[shown])]
