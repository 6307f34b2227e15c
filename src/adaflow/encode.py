"""Video out: H.264 with the times and the sound of its source, whole or not at all, the same bytes each time."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from .audio import AudioMode, Sound, check_sound
from .colour import BT709, Picture, Size, to_yuv
from .decode import open_container, open_video
from .errors import InputError, ResourceError
from .probe import DEFAULT_FPS, VideoInfo

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""What can be written: suffix of the output -> FFmpeg's name of the format."""

CRF = 17  # visually lossless
ENCODER_THREADS = 4  # fixed: x264's output depends on their number
X264 = {"preset": "medium", "x264-params": "mbtree=0"}
"""Macroblock-tree is off: in the x264 of PyAV 18, on processors with AVX-512, it depends on memory that nobody wrote,
so that the same frames gave other bytes from run to run. Without it bytes were the same with AVX-512, AVX2 and SSE4.2;
files grew by 3 and 9 % on two clips."""
BITEXACT = cast(int, av.container.Flags.bitexact.value)  # nothing in the file that differs from run to run
COMMENT = "comment"  # the tag that every format has, and ffprobe shows


def check_output(
    out: str | os.PathLike[str], source: str | os.PathLike[str] | None = None, *, audio: AudioMode = "copy"
) -> None:
    """Refuse, before any work, a place where `write_video` could not put its file.

    Args:
        out: The file to be written.
        source: The video edited; must be another file, and its sound must fit into the format of ``out``.
        audio: What becomes of that sound.

    Raises:
        InputError: The folder is missing or not writable, ``out`` is a folder or the source itself, its suffix is
            unknown, or the sound does not fit.
        ConfigError: ``audio`` is unknown.
    """
    out = Path(out)
    check_name(out)
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the name of a file in it, such as {out / 'edited.mp4'}")
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"{out} cannot be written as {out.suffix or 'no format'}; choose one of {', '.join(FORMATS)}")
    check_folder(out.parent)
    if source is not None:
        if out.exists() and os.path.samefile(out, source):
            raise InputError(f"{out} is the source itself, which is never overwritten; choose another name")
        with open_video(Path(source)):  # what is no video gets its own sentence
            pass
        check_sound(Path(source), out.suffix, FORMATS[out.suffix.lower()], audio)


def check_name(out: Path) -> None:
    """Refuse, before any work, a name that is too long for a file, or for what it is called until it is whole.

    Raises:
        InputError: It is.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            os.lstat(_part(out))
        except OSError as cause:
            if cause.errno != errno.ENAMETOOLONG:
                raise
            raise InputError(f"the name {out.name[:40]}… is too long for a file; choose a shorter one") from cause


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder in which nothing can be written.

    Raises:
        InputError: It is missing or not writable.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; make it first, or choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"the folder {folder} is not writable; choose another, or change its permissions")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as cause:  # rights are not all that it takes: think of /proc, or of a disk without room for a name
        raise InputError(f"nothing can be written in the folder {folder} ({cause.strerror}); choose another") from cause


def write_video(
    out: str | os.PathLike[str],
    frames: Iterable[Picture],
    source: VideoInfo | None = None,
    *,
    size: Size | None = None,
    fps: Fraction | float | None = None,
    crf: int = CRF,
    audio: AudioMode = "copy",
    metadata: Mapping[str, Any] | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> None:
    """Write frames as H.264 that a browser plays, with the times and the sound of their source.

    The same arguments give the same bytes. The file appears whole or not at all: it is written beside ``out`` under
    ``.NAME.part`` and renamed at the end. Memory holds one frame and what the encoder looks ahead.

    The picture is yuv420p, BT.709, limited range. That needs even sides: an odd one is completed by repeating the last
    row or column. Times are exact in .mp4, .m4v and .mov; Matroska rounds them to its milliseconds.

    Args:
        out: Suffix .mp4, .m4v, .mov or .mkv.
        frames: ``(height, width, 3)`` uint8 R'G'B', all of one size; as many as ``source`` has.
        source: What `probe` said of the video that the frames come from; None for frames of no video.
        size: Height and width to which frames are resized; default as they are.
        fps: Frames per second where there is no source; default 30.
        crf: Quality of x264, 0 (lossless) to 51.
        audio: What becomes of the sound: see `AudioMode`.
        metadata: Values that JSON knows, kept in the file as one JSON object under the tag ``comment``;
            `read_metadata` gives them back.
        on_frame: Called with the number of frames written so far; may raise to stop.

    Raises:
        InputError: As `check_output`.
        ResourceError: The disk is full.
        ValueError: The number of frames, their shape or type is not as promised.
    """
    out = Path(out)
    check_output(out, source.path if source else None, audio=audio)
    pictures = _checked(frames, source.frames if source else None)
    first = next(pictures)
    height, width = size or first.shape[:2]
    clock = _Clock.of(source, fps)
    with _appearing(out) as part, _output(part, out, clock.unit, source, metadata) as container:
        stream = _h264(container, (height + height % 2, width + width % 2), clock, crf)
        with Sound(source.path if source else None, container, audio) as sound:
            count = 0
            reformatter = VideoReformatter()
            picture: Picture | None = first
            while picture is not None:
                with _sentences(out):
                    frame = to_yuv(picture, (height, width), reformatter)
                    frame.time_base = clock.unit
                    frame.pts, frame.duration = clock.span(count)
                    for packet in sound.until(clock.unit * frame.pts):
                        container.mux(packet)
                    container.mux(stream.encode(frame))
                count += 1
                if on_frame is not None:
                    on_frame(count)
                picture = next(pictures, None)
            with _sentences(out):
                container.mux(stream.encode(None))
                for packet in sound.until(None):
                    container.mux(packet)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_video` was given as ``metadata``; empty for a file of another origin."""
    with open_container(Path(path)) as container:
        try:
            metadata = json.loads(container.metadata.get(COMMENT, container.metadata.get(COMMENT.upper(), "")))
        except ValueError:
            return {}
    return metadata if isinstance(metadata, dict) else {}


@dataclass(frozen=True)
class _Clock:
    """When the frames of an output appear: at a source's times, or evenly for None."""

    unit: Fraction
    rate: Fraction
    times: tuple[int, ...] | None

    @classmethod
    def of(cls, source: VideoInfo | None, fps: Fraction | float | None) -> _Clock:
        if source is not None:
            return cls(source.time_base, source.frame_rate.limit_denominator(1 << 16), (*source.timestamps, source.end))
        rate = Fraction(fps or DEFAULT_FPS).limit_denominator(1001)
        return cls(1 / rate, rate, None)

    def span(self, number: int) -> tuple[int, int]:
        """Timestamp and duration of a frame, in units."""
        if self.times is None:
            return number, 1
        return self.times[number], self.times[number + 1] - self.times[number]


def _checked(frames: Iterable[Picture], expected: int | None) -> Iterator[Picture]:
    count, shape = 0, None
    for count, picture in enumerate(frames, start=1):
        shape = shape or picture.shape
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.shape != shape:
            raise ValueError(f"frame {count - 1} is {picture.dtype} {picture.shape}; expected uint8 {shape}")
        if expected is not None and count > expected:
            break
        yield picture
    if count == 0 or (expected is not None and count != expected):
        raise ValueError(f"{count} frames came to be written; expected {expected or 'at least one'}")


def _part(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A temporary path beside ``out`` that becomes ``out`` if all goes well and is removed if not."""
    part = _part(out)
    try:
        yield part
        with _sentences(out):
            with open(part, "rb") as file:
                os.fsync(file.fileno())  # before the name points at it, so that a power cut cannot leave half a file
            os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _sentences(out: Path) -> Iterator[None]:
    """Give a failure of the disk while writing its sentence."""
    try:
        yield
    except (OSError, av.FFmpegError) as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                f"the disk is full: {out} could not be written and nothing of it is left; "
                "free some space in its folder, or choose another"
            ) from cause
        raise InputError(f"{out} could not be written ({cause.strerror}); choose another place") from cause


@contextmanager
def _output(
    part: Path, out: Path, unit: Fraction, source: VideoInfo | None, metadata: Mapping[str, Any] | None
) -> Iterator[OutputContainer]:
    """The file to be muxed into, without anything that differs from run to run; its end is written on leaving."""
    name = FORMATS[out.suffix.lower()]
    options = {"avoid_negative_ts": "disabled"}  # sound may begin before zero: nothing is shifted for it
    if name != "matroska":
        shared = math.lcm(
            unit.denominator, *(track.sample_rate for track in source.audio if track.sample_rate) if source else ()
        )
        options = {
            "movflags": "+faststart",
            "video_track_timescale": str(unit.denominator),
            # the unit in which tracks are put into place; its default is the millisecond
            "movie_timescale": str(shared if shared < 1 << 31 else unit.denominator),
        }
    with _sentences(out):
        container = av.open(str(part.absolute()), "w", format=name, container_options=options)
    container.flags |= BITEXACT
    if metadata:
        container.metadata[COMMENT] = json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True)
    try:
        yield container
    except BaseException:
        with suppress(av.FFmpegError):  # what failed is on its way already, and this file is to be removed
            container.close()
        raise
    with _sentences(out):
        container.close()


def _h264(container: OutputContainer, size: Size, clock: _Clock, crf: int) -> VideoStream:
    stream = container.add_stream("libx264", rate=clock.rate, options={"crf": str(crf), **X264})
    stream.time_base = clock.unit
    codec = stream.codec_context
    codec.height, codec.width = size
    codec.pix_fmt = "yuv420p"
    codec.time_base = clock.unit
    codec.sample_aspect_ratio = Fraction(1)
    codec.color_primaries = codec.color_trc = codec.colorspace = BT709
    codec.color_range = ColorRange.MPEG
    codec.thread_count = ENCODER_THREADS
    codec.thread_type = "FRAME"
    codec.flags = codec.flags | Flags.bitexact.value | Flags.frame_duration.value
    return stream
