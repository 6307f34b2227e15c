"""The pages of figures that `inspect` and `edit` write: what was found in the video, and what became of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import KeyframeConfig
from .figures import contact_sheet, side_by_side, similarity_curves, yt_plot
from .keyframes import Partition
from .report import Film, Section, Shown, write_report
from .result import EditResult, Inspection
from .video import VideoSource, open_source, write_video

SHOWN = 6
"""Frames shown where a figure cannot show them all."""


def inspection_report(path: Path, video: Any, found: Inspection) -> Path:
    """The page of `adaflow inspect`: the clips, where they begin and why, and the keyframes."""
    source, size = open_source(video), found.geometry.content
    sections = [
        Section(
            "The video",
            table={
                "frames": found.source.frames,
                "edited at": f"{size[1]}x{size[0]}",
                "clips": len(found.partition.clips),
                "estimated seconds": round(found.estimate.total_seconds),
            },
        ),
        _clips(source, size, found.partition, found.scores, None),
    ]
    return write_report(path, "AdaFlow: what is in the video", sections)


def edit_report(path: Path, video: Any, result: EditResult) -> Path:
    """The page of `adaflow edit`: source and edit side by side, the clips, the keyframes, the settings."""
    source, size = open_source(video), result.frames.shape[1:3]
    chosen = np.linspace(0, len(result.frames) - 1, SHOWN).round().astype(int).tolist()
    before = list(_some(source, size, chosen))
    after = [result.frames[i] for i in chosen]
    record = result.record
    found = len(result.scores) > 0  # a compared system has chunks, which are nothing that was found in the video
    parts = f"{len(result.partition.clips)} {'clips' if found else 'chunks'}"
    sections = [
        Section(
            record["prompt"],
            text=f"Source above, edit below; {len(result.frames)} frames in {parts}.",
            items=[
                Film(side_by_side_film(source, result), "source (left) and edit (right)"),
                Shown(side_by_side(before, after, titles=[f"frame {i}" for i in chosen]), "the same frames of both"),
            ],
        ),
        *([_clips(source, size, result.partition, result.scores, result.config.keyframes)] if found else []),
        Section("Settings", table=record["settings"]),
        Section("Model and versions", table=record["model"] | record["versions"]),
    ]
    return write_report(path, f"AdaFlow: {record['prompt']}", sections)


def side_by_side_film(source: VideoSource, result: EditResult) -> bytes:
    """An MP4 with the source at the left and the edit at the right, silent."""
    size = result.frames.shape[1:3]
    both = (np.concatenate([a, b], axis=1) for a, b in zip(source.frames(size), result.frames, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "both.mp4"
        write_video(out, both, result.source, audio="none", crf=23)
        return out.read_bytes()


def _clips(
    source: VideoSource, size: tuple[int, int], clips: Partition, scores: torch.Tensor, config: KeyframeConfig | None
) -> Section:
    columns, sheet, labels = [], [], []
    most = 60
    stride = max(1, -(-len(clips.clips) // most))
    middles = {(c.start + c.stop) // 2: c for c in clips.clips[::stride]}
    for i, frame in enumerate(source.frames(size)):
        columns.append(frame[:, size[1] // 2])
        if i in middles:
            sheet.append(frame)
            labels.append(f"{middles[i].start}-{middles[i].stop - 1} ({len(middles[i])})")
    return Section(
        "Clips and keyframes",
        text="A clip ends where frames stop resembling its first one; each clip gives one keyframe at every step.",
        items=[
            Shown(yt_plot(np.stack(columns), clips), "the middle column of every frame, with the starts of clips"),
            Shown(similarity_curves(scores, clips, config), "what decided about each frame"),
            Shown(contact_sheet(sheet, labels), "the middle frame of each clip, with its frames and their number"),
        ],
    )


def _some(source: VideoSource, size: tuple[int, int], chosen: list[int]) -> Iterator[np.ndarray]:
    wanted = set(chosen)
    found = {i: frame for i, frame in enumerate(source.frames(size)) if i in wanted}
    return (found[i] for i in chosen)
