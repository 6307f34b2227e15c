"""Source and edit in one video: side by side, or parted by a line that wipes across the picture."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw

from .canvas import font, pixels
from .colour import Picture, Size, resized
from .encode import write_video
from .probe import VideoInfo
from .video import VideoSource

if TYPE_CHECKING:
    from .result import EditResult

Layout = Literal["side", "slider"]
LAYOUTS: tuple[Layout, ...] = ("side", "slider")
NAMES = ("source", "edit")
PERIOD = 6.0
"""Seconds in which the line goes from the right border to the left one and back."""
LARGEST_HALF = 640
"""Width in pixels of the source, and of the edit, in a film for a page."""


def wipe_position(seconds: float, period: float = PERIOD) -> float:
    """Where the line stands, as a share of the width from the left: 1 at first, 0 after half a period, 1 again.

    It moves slowly near the borders, so that source and edit are each seen whole for a moment.
    """
    return 0.5 + 0.5 * math.cos(2 * math.pi * seconds / period)


def whole_period(seconds: float) -> float:
    """The period nearest to `PERIOD` that goes into a video's length without rest, so that it can play in a loop."""
    return seconds / max(1, round(seconds / PERIOD))


def beside(source: Picture, edit: Picture, names: tuple[str, str] | None = NAMES) -> Picture:
    """The source at the left and the edit at the right, `[H, 2 W, 3]`, each with its name in a corner or without."""
    return np.concatenate(_named(source, edit, names), axis=1)


def wiped(source: Picture, edit: Picture, position: float, names: tuple[str, str] | None = NAMES) -> Picture:
    """The source left of a line and the edit right of it, `[H, W, 3]`.

    Column x shows the source where x < round(position * W). The line is white between two dark ones, and lies around
    that border; at the ends, 0 and 1, there is none. Names go with their pictures and are wiped like them.

    Args:
        source: The one, `[H, W, 3]` uint8.
        edit: The other.
        position: Of the line, as a share of the width.
        names: In the upper corners.

    Raises:
        ValueError: the pictures are of two sizes, or the position lies outside of [0, 1].
    """
    if not 0 <= position <= 1:
        raise ValueError(f"the line is at {position}; wanted a share of the width, 0 to 1")
    left, right = _named(source, edit, names)
    width = left.shape[1]
    at = round(position * width)
    out = np.concatenate([left[:, :at], right[:, at:]], axis=1)
    if 0 < at < width:
        half = line_width(width) // 2
        out[:, max(0, at - half - 1) : at + half + 1] = 24
        out[:, max(0, at - half) : at + half] = 255
    return out


def line_width(width: int) -> int:
    """Pixels of the white line in a picture so wide: an even number."""
    return max(2, width // 320 * 2)


def compared(
    source: Iterable[Picture],
    edit: Iterable[Picture],
    layout: Layout,
    times: Iterable[float],
    names: tuple[str, str] | None = NAMES,
    period: float = PERIOD,
) -> Iterator[Picture]:
    """The frames of a comparison.

    Args:
        source: Frames of the source, of the size of the edit's.
        edit: Frames of the edit, as many.
        layout: "side" or "slider".
        times: When each frame appears, in seconds.
        names: In the corners; None for none.
        period: Of the line, in seconds.

    Raises:
        ValueError: frames or times of different number, or frames of different size.
    """
    for before, after, seconds in zip(source, edit, times, strict=True):
        if layout == "side":
            yield beside(before, after, names)
        else:
            yield wiped(before, after, wipe_position(seconds, period), names)


def write_comparison(
    out: Path,
    source: VideoSource,
    result: EditResult,
    layout: Layout = "side",
    *,
    names: tuple[str, str] | None = NAMES,
    largest: int | None = None,
    crf: int = 20,
) -> Path:
    """Write a comparison of an edit with its source, with the source's times, from 0 on, and without sound.

    Args:
        out: Where it goes: .mp4, .m4v, .mov or .mkv.
        source: The video that was edited.
        result: Its edit.
        layout: "side": the source left and the edit right; "slider": a line between them that moves.
        names: In the corners; None for none.
        largest: Width in pixels above which each half is scaled down.
        crf: Quality of x264.

    Raises:
        InputError, ResourceError: as `write_video`.
    """
    size = half_size(result.frames.shape[1:3], largest)
    edits = (frame if frame.shape[:2] == size else resized(frame, size) for frame in result.frames)
    times, period = seconds_of(result.source), whole_period(float(result.source.duration))
    frames = compared(source.frames(size), edits, layout, times, names, period)
    first = result.source.timestamps[0]
    stamps = tuple(stamp - first for stamp in result.source.timestamps)
    info = replace(result.source, path=None, timestamps=stamps, end=result.source.end - first)
    write_video(out, frames, info, audio="none", crf=crf)
    return out


def comparison_film(
    source: VideoSource,
    result: EditResult,
    layout: Layout = "side",
    *,
    names: tuple[str, str] | None = NAMES,
    largest: int | None = LARGEST_HALF,
) -> bytes:
    """`write_comparison` as the bytes of an MP4, for a page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.mp4"
        return write_comparison(path, source, result, layout, names=names, largest=largest, crf=23).read_bytes()


def half_size(size: Size, largest: int | None) -> Size:
    """The height and width, both even, at which a picture of this size is shown; shrunk to a width where asked for."""
    height, width = size
    scale = min(1.0, largest / width) if largest else 1.0
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def seconds_of(info: VideoInfo) -> list[float]:
    """When each frame appears, in seconds after the first."""
    return [float((stamp - info.timestamps[0]) * info.time_base) for stamp in info.timestamps]


def middles_of(info: VideoInfo) -> list[float]:
    """The middle of the time for which each frame is shown: where a player is sure to show this one."""
    ends = [*info.timestamps[1:], info.end]
    first = info.timestamps[0]
    return [
        float((start + end - 2 * first) * info.time_base / 2) for start, end in zip(info.timestamps, ends, strict=True)
    ]


def _named(source: Picture, edit: Picture, names: tuple[str, str] | None) -> tuple[Picture, Picture]:
    before, after = pixels(source), pixels(edit)
    if before.shape != after.shape:
        raise ValueError(f"source and edit have shapes {before.shape} and {after.shape}; wanted the same")
    if names is None:
        return before, after
    return _with_name(before, names[0], right=False), _with_name(after, names[1], right=True)


def _with_name(picture: Picture, name: str, right: bool) -> Picture:
    """A copy with a name in an upper corner, where there is room for it."""
    height, width = picture.shape[:2]
    plate = _plate(name, max(10, min(round(height * 0.045), 28)))
    high, wide = plate.shape[:2]
    gap = high // 4
    if wide + 2 * gap > width or high + 2 * gap > height:
        return picture
    out = picture.copy()
    left = width - gap - wide if right else gap
    out[gap : gap + high, left : left + wide] = plate
    return out


@lru_cache(maxsize=16)
def _plate(text: str, size: int) -> np.ndarray:
    """White words on a dark plate."""
    face = font(size)
    plate = Image.new("RGB", (math.ceil(face.getlength(text)) + size, round(size * 1.6)), (24, 24, 24))
    ImageDraw.Draw(plate).text((plate.width / 2, plate.height / 2), text, fill="white", font=face, anchor="mm")
    return np.asarray(plate)
