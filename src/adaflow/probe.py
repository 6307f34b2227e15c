"""What a video is: its size, its frames and their times, its colours and its sound.

`probe` counts frames by decoding the video once: its timestamps are then exact too, and a damaged file is refused
before hours are spent on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .audio import AudioTrack, audio_tracks
from .colour import ColorTags, color_tags
from .decode import UNTIMED, all_pictures, open_video, orientation_of, pixel_shape, shown_size
from .errors import InputError

DEFAULT_FPS = 30


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as it is shown.

    Attributes:
        path: The file; None for frames that come from memory.
        width: Of the upright picture in square pixels, as shown.
        height: As ``width``.
        frames: Number of frames, by decoding all of them.
        duration: Seconds from the first frame's appearance to the last one's end.
        time_base: The unit of ``timestamps``, in seconds.
        timestamps: When each frame appears, strictly increasing; the first may be other than zero.
        end: When the last frame ends, in the same unit.
        frame_rate: Average, in frames per second.
        variable_frame_rate: Some frame is more than one unit away from an even pace.
        rotation: Degrees, clockwise, by which the stored picture is turned to be upright: 0, 90, 180 or 270.
        pix_fmt: FFmpeg's name of the stored pixels, such as ``yuv420p``.
        codec: FFmpeg's name of the codec, such as ``h264``.
        bit_depth: Bits per stored sample.
        color: The file's colour tags.
        audio: The tracks of sound.
        sample_aspect_ratio: Width to height of a stored pixel, before rotation.
    """

    path: Path | None
    width: int
    height: int
    frames: int
    duration: float
    time_base: Fraction
    timestamps: tuple[int, ...]
    end: int
    frame_rate: Fraction
    variable_frame_rate: bool
    rotation: int
    pix_fmt: str
    codec: str
    bit_depth: int
    color: ColorTags
    audio: tuple[AudioTrack, ...]
    sample_aspect_ratio: Fraction


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Look at a video, decoding it once from end to end (as fast as the decoder goes; memory holds one frame).

    Raises:
        InputError: It is missing, not a video, damaged, cut off, empty, HDR or of an absurd size.
    """
    path = Path(path)
    first: VideoFrame | None = None
    stamps: list[int | None] = []
    last_duration = 0
    with open_video(path) as (container, stream):
        for frame in all_pictures(path, container, stream):
            first = first or frame
            stamps.append(frame.pts)
            last_duration = frame.duration or 0
        if first is None:
            raise InputError(f"{path} holds no pictures that can be decoded; export or download it again")
        unit, timestamps, end, rate, variable = _timing(stream, stamps, last_duration)
        orientation = orientation_of(path, first)
        height, width = shown_size(path, first, stream, orientation)
        return VideoInfo(
            path=path,
            width=width,
            height=height,
            frames=len(timestamps),
            duration=float((end - timestamps[0]) * unit),
            time_base=unit,
            timestamps=timestamps,
            end=end,
            frame_rate=rate,
            variable_frame_rate=variable,
            rotation=orientation.degrees,
            pix_fmt=first.format.name,
            codec=stream.codec_context.codec.name,
            bit_depth=first.format.components[0].bits,
            color=color_tags(first),
            audio=audio_tracks(container),
            sample_aspect_ratio=pixel_shape(stream),
        )


def _timing(
    stream: VideoStream, stamps: list[int | None], last_duration: int
) -> tuple[Fraction, tuple[int, ...], int, Fraction, bool]:
    """Unit, timestamps, end, average rate and whether it varies.

    A stream without times (AVI, raw H.264) is given even ones from its stated rate. Where times do not increase,
    which no file should have, the later frame is moved to the next unit.
    """
    stated = stream.average_rate or stream.guessed_rate or Fraction(DEFAULT_FPS)
    unit = stream.time_base
    untimed = stream.container.format.name in UNTIMED or any(stamp is None for stamp in stamps)
    if unit is None or untimed:
        unit, last_duration = 1 / stated, 1
        given: Iterable[int] = range(len(stamps))
    else:
        given = (stamp for stamp in stamps if stamp is not None)
    times: list[int] = []
    for stamp in given:
        times.append(max(stamp, times[-1] + 1) if times else stamp)
    first, steps = times[0], len(times) - 1
    if not steps:
        end = first + (last_duration or max(1, round(1 / stated / unit)))
        return unit, tuple(times), end, 1 / ((end - first) * unit), False
    pace = Fraction(times[-1] - first, steps)  # units per frame
    variable = any(abs(time - first - number * pace) > 1 for number, time in enumerate(times))
    end = times[-1] + (last_duration or max(1, round(pace)))
    measured = 1 / (pace * unit)
    close = abs(measured / stated - 1) * steps * pace <= 1  # as near as units can tell
    return unit, tuple(times), end, measured if variable or not close else stated, variable
