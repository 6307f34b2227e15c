"""Video in: files opened and refused, pictures decoded in order, turned upright and brought to square pixels.

A *frame* is a picture that the decoder gives for presentation. Whoever asks for `all_pictures` of a file gets the same
ones, by the same decoder run in the same way.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from .colour import Picture, Size, refuse_hdr, to_rgb
from .errors import InputError

READABLE = (
    "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,gif,yuv4mpegpipe,ivf,h264,hevc,av1,obu,m4v,mpegvideo,dv,wtv,rm"
)
"""Formats that are opened. Playlists are not among them: a text file must not make us read other files or addresses."""

UNTIMED = ("avi",)  # what FFmpeg gives as their times is guessed from the order of decoding

MAX_SIDE = 16384  # pixels; larger ones are damaged headers
MAX_PIXELS = 8192 * 8192


def read_frames(
    path: str | os.PathLike[str], size: Size | None = None, start: int = 0, *, timestamps: Sequence[int] | None = None
) -> Iterator[Picture]:
    """The frames of a video in order, upright; one at a time in memory.

    Args:
        path: A video that `probe` accepts.
        size: Height and width of the frames given; default as shown. Resized by an antialiasing bicubic filter.
        start: Number of frames to leave out. They are decoded nonetheless, which is exact for every file.
        timestamps: As `probe` gives them: ``start`` is then reached by a seek where that is exact.

    Yields:
        ``(height, width, 3)`` uint8 R'G'B'.

    Raises:
        InputError: As `probe`.
    """
    path = Path(path)
    with open_video(path) as (container, stream):
        pictures = _pictures_from(path, container, stream, start, timestamps)
        reformatter = VideoReformatter()
        for frame in pictures:
            orientation = orientation_of(path, frame)
            if size is None:  # the first picture's, also where later ones differ
                size = shown_size(path, frame, stream, orientation)
            yield orientation.upright(to_rgb(frame, orientation.stored(size), reformatter))


def check_file(path: Path) -> None:
    """Refuse what is missing, a folder or empty."""
    if not path.exists():
        raise InputError(f"there is no file {path}; check the path")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a video file in it")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty; export or download it again")


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """The file, open, or the sentence that says why not."""
    check_file(path)
    try:  # an absolute path is never taken for a protocol
        container = av.open(
            str(path.absolute()), metadata_errors="replace", container_options={"format_whitelist": READABLE}
        )
    except PermissionError as cause:
        raise InputError(f"{path} may not be read; change its permissions") from cause
    except (av.FFmpegError, ValueError) as cause:
        raise InputError(
            f"{path} is not a video that can be read: it is damaged, cut off, or of another kind; "
            "play it to see, then export or download it again"
        ) from cause
    with container:
        yield container


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its picture, checked as far as that goes without decoding."""
    with open_container(path) as container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise InputError(f"{path} holds no picture, only sound or text; give a video")
        stream = streams[0]
        if stream.codec_context is None:
            raise InputError(f"{path} has a codec that this FFmpeg does not decode; convert it to H.264 first")
        promised = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        if promised > path.stat().st_size:
            raise InputError(
                f"{path} is cut off: {path.stat().st_size} bytes of at least {promised} are here; "
                "download or copy it again, or save what is left with: ffmpeg -i IN -c copy OUT"
            )
        _check_size(path, stream.codec_context.width, stream.codec_context.height)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        stream.thread_type = "AUTO"
        yield container, stream


def all_pictures(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All pictures, to the last one held back by the decoder.

    What cannot be decoded before the first picture is skipped, as players do (a recording may begin between key
    frames); after it, damage is an error.
    """
    count = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except (av.FFmpegError, ValueError) as cause:
            if count == 0 and isinstance(cause, av.error.InvalidDataError):
                continue
            raise InputError(
                f"{path} is damaged near frame {count} ({cause.strerror if isinstance(cause, OSError) else cause}); "
                "export or download it again"
            ) from cause
        for frame in frames:
            if count == 0:
                refuse_hdr(path, frame)
            count += 1
            yield frame


def _pictures_from(
    path: Path, container: InputContainer, stream: VideoStream, start: int, timestamps: Sequence[int] | None
) -> Iterator[VideoFrame]:
    """The pictures from number ``start`` on, by a seek if the picture then met is the right one, else by counting."""
    timed = stream.container.format.name not in UNTIMED
    if start and timed and timestamps is not None and start < len(timestamps):
        container.seek(timestamps[start], stream=stream)
        pictures = all_pictures(path, container, stream)
        met = next((p for p in pictures if p.pts is None or p.pts >= timestamps[start]), None)
        if met is not None and met.pts == timestamps[start]:
            yield met
            yield from pictures
            return
        container.seek(0)
    for number, picture in enumerate(all_pictures(path, container, stream)):
        if number >= start:
            yield picture


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned: mirrored left to right, then by quarter turns clockwise."""

    mirrored: bool
    quarters: int

    @property
    def degrees(self) -> int:
        """The turn, clockwise."""
        return 90 * self.quarters

    def stored(self, size: Size) -> Size:
        """The size before turning that gives ``size``; its own inverse."""
        return size if self.quarters % 2 == 0 else (size[1], size[0])

    def upright(self, picture: Picture) -> Picture:
        """``(height, width, 3)`` as it is to be seen."""
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(np.rot90(picture, -self.quarters))


def orientation_of(path: Path, frame: VideoFrame) -> Orientation:
    """How a decoded picture is to be turned."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return Orientation(mirrored=False, quarters=0)
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, side_data)), dtype=np.int32)[
        :5
    ].tolist()  # x' = ax + cy, y' = bx + dy, y down
    mirrored = a * d - b * c < 0
    angle = math.degrees(math.atan2(b, a) if not mirrored else math.atan2(-b, -a))
    quarters = round(angle / 90)
    if abs(angle - 90 * quarters) > 1:
        raise InputError(f"{path} is turned by {angle:.0f} degrees; only quarter turns are read: export it upright")
    return Orientation(mirrored, quarters % 4)


def pixel_shape(stream: VideoStream) -> Fraction:
    """Width to height of a stored pixel; 1 where the file says nothing."""
    ratio = stream.sample_aspect_ratio
    return ratio if ratio else Fraction(1)


def shown_size(path: Path, frame: VideoFrame, stream: VideoStream, orientation: Orientation) -> Size:
    """Height and width, upright, in square pixels: lines are kept, their length is adapted."""
    width = max(1, round(frame.width * pixel_shape(stream)))
    _check_size(path, width, frame.height)
    return orientation.stored((frame.height, width))


def _check_size(path: Path, width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise InputError(
            f"{path} states a size of {width}x{height} pixels; sizes up to {MAX_SIDE} a side and "
            f"{MAX_PIXELS} in all can be read: check the file, or shrink it first"
        )
