"""Video in and out, faithfully: probe, read and write files frame by frame, by PyAV.

What goes in comes out: the same number of frames at the same times, upright, in square pixels, with the same sound.

A *frame* is a picture that the decoder gives for presentation. `probe` counts frames by decoding the video once (its
timestamps are then exact too, and a damaged file is refused before hours are spent on it); `read_frames` runs the same
decoder in the same way, so the two always agree.

Colours are 8-bit, full-range R'G'B' with BT.709 primaries: what a screen shows and Stable Diffusion expects. An
untagged video is taken as BT.709 if it is HD (1280 pixels wide or more than 576 lines), else as BT.601, limited range,
as players do. Tagged wide-gamut SDR (BT.2020, P3) is brought to BT.709; HDR (PQ, HLG) is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.sidedata.sidedata import SideData
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from .audio import AudioMode, AudioTrack, Sound, audio_tracks, check_sound
from .errors import InputError, ResourceError

Size = tuple[int, int]
"""Height and width, in pixels."""

Picture = npt.NDArray[np.uint8]
"""One frame, ``(height, width, 3)``, R'G'B'."""

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""What can be written: suffix of the output -> FFmpeg's name of the format."""

READABLE = (
    "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,gif,yuv4mpegpipe,ivf,h264,hevc,av1,obu,m4v,mpegvideo,dv,wtv,rm"
)
"""Formats that are opened. Playlists are not among them: a text file must not make us read other files or addresses."""

UNTIMED = ("avi",)  # what FFmpeg gives as their times is guessed from the order of decoding

MAX_SIDE = 16384  # pixels; larger ones are damaged headers
MAX_PIXELS = 8192 * 8192
DEFAULT_FPS = 30
CRF = 17  # visually lossless
ENCODER_THREADS = 4  # fixed: x264's output depends on their number
X264 = {"preset": "medium", "x264-params": "mbtree=0"}
"""Macroblock-tree is off: in the x264 of PyAV 18, on processors with AVX-512, it depends on memory that nobody wrote,
so that the same frames gave other bytes from run to run. Without it bytes were the same with AVX-512, AVX2 and SSE4.2;
files grew by 3 and 9 % on two clips."""
BITEXACT = cast(int, av.container.Flags.bitexact.value)  # nothing in the file that differs from run to run
COMMENT = "comment"  # the tag that every format has, and ffprobe shows

BT709 = 1  # the code of primaries, transfer and matrix alike, ITU-T H.273
MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
RANGES = {1: "limited", 2: "full"}
SWSCALE_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
WIDE_GAMUTS = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE432)  # and P3 as screens have it
RESAMPLING = (  # bicubic, widened when it shrinks; exact, and the same on every processor
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


@dataclass(frozen=True)
class ColorTags:
    """What a file says about its colours, in FFmpeg's names; ``unspecified`` where it says nothing."""

    primaries: str
    transfer: str
    matrix: str
    range: str


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


# --- Reading ---------------------------------------------------------------------------------------------------------


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Look at a video, decoding it once from end to end (as fast as the decoder goes; memory holds one frame).

    Raises:
        InputError: It is missing, not a video, damaged, cut off, empty, HDR or of an absurd size.
    """
    path = Path(path)
    first: VideoFrame | None = None
    stamps: list[int | None] = []
    last_duration = 0
    with _opened(path) as (container, stream):
        for frame in _pictures(path, container, stream):
            first = first or frame
            stamps.append(frame.pts)
            last_duration = frame.duration or 0
        if first is None:
            raise InputError(f"{path} holds no pictures that can be decoded; export or download it again")
        unit, timestamps, end, rate, variable = _timing(stream, stamps, last_duration)
        orientation = _orientation(path, first)
        height, width = _shown_size(path, first, stream, orientation)
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
            color=_color_tags(first),
            audio=audio_tracks(container),
            sample_aspect_ratio=_pixel_shape(stream),
        )


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
    with _opened(path) as (container, stream):
        pictures = _pictures_from(path, container, stream, start, timestamps)
        reformatter = VideoReformatter()
        for frame in pictures:
            orientation = _orientation(path, frame)
            if size is None:  # the first picture's, also where later ones differ
                size = _shown_size(path, frame, stream, orientation)
            yield orientation.upright(_rgb(frame, orientation.stored(size), reformatter))


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal; read in blocks.

    Raises:
        InputError: It cannot be read.
    """
    try:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except OSError as cause:
        raise InputError(f"{path} cannot be read ({cause.strerror}); check the path and its permissions") from cause


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_video` was given as ``metadata``; empty for a file of another origin."""
    with _container(Path(path)) as container:
        try:
            metadata = json.loads(container.metadata.get(COMMENT, container.metadata.get(COMMENT.upper(), "")))
        except ValueError:
            return {}
    return metadata if isinstance(metadata, dict) else {}


@contextmanager
def _container(path: Path) -> Iterator[InputContainer]:
    """The file, open, or the sentence that says why not."""
    if not path.exists():
        raise InputError(f"there is no file {path}; check the path")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a video file in it")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty; export or download it again")
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
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its picture, checked as far as that goes without decoding."""
    with _container(path) as container:
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


def _pictures(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
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
                _check_range(path, frame)
            count += 1
            yield frame


def _pictures_from(
    path: Path, container: InputContainer, stream: VideoStream, start: int, timestamps: Sequence[int] | None
) -> Iterator[VideoFrame]:
    """The pictures from number ``start`` on, by a seek if the picture then met is the right one, else by counting."""
    timed = stream.container.format.name not in UNTIMED
    if start and timed and timestamps is not None and start < len(timestamps):
        container.seek(timestamps[start], stream=stream)
        pictures = _pictures(path, container, stream)
        met = next((p for p in pictures if p.pts is None or p.pts >= timestamps[start]), None)
        if met is not None and met.pts == timestamps[start]:
            yield met
            yield from pictures
            return
        container.seek(0)
    for number, picture in enumerate(_pictures(path, container, stream)):
        if number >= start:
            yield picture


def _check_size(path: Path, width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise InputError(
            f"{path} states a size of {width}x{height} pixels; sizes up to {MAX_SIDE} a side and "
            f"{MAX_PIXELS} in all can be read: check the file, or shrink it first"
        )


def _check_range(path: Path, frame: VideoFrame) -> None:
    if frame.color_trc in HDR:
        raise InputError(
            f"{path} is HDR ({HDR[ColorTrc(frame.color_trc)]}), and edits are made in SDR; convert it first, for "
            "example with: ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,"
            "zscale=p=bt709:t=bt709:m=bt709:r=tv,format=yuv420p -c:a copy OUT"
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


@dataclass(frozen=True)
class _Orientation:
    """How a stored picture is turned: mirrored left to right, then by quarter turns clockwise."""

    mirrored: bool
    quarters: int

    @property
    def degrees(self) -> int:
        return 90 * self.quarters

    def stored(self, size: Size) -> Size:
        """The size before turning that gives ``size``; its own inverse."""
        return size if self.quarters % 2 == 0 else (size[1], size[0])

    def upright(self, picture: Picture) -> Picture:
        """``(height, width, 3)`` as it is to be seen."""
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(np.rot90(picture, -self.quarters))


def _orientation(path: Path, frame: VideoFrame) -> _Orientation:
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return _Orientation(mirrored=False, quarters=0)
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, side_data)), dtype=np.int32)[
        :5
    ].tolist()  # x' = ax + cy, y' = bx + dy, y down
    mirrored = a * d - b * c < 0
    angle = math.degrees(math.atan2(b, a) if not mirrored else math.atan2(-b, -a))
    quarters = round(angle / 90)
    if abs(angle - 90 * quarters) > 1:
        raise InputError(f"{path} is turned by {angle:.0f} degrees; only quarter turns are read: export it upright")
    return _Orientation(mirrored, quarters % 4)


def _pixel_shape(stream: VideoStream) -> Fraction:
    ratio = stream.sample_aspect_ratio
    return ratio if ratio else Fraction(1)


def _shown_size(path: Path, frame: VideoFrame, stream: VideoStream, orientation: _Orientation) -> Size:
    """Height and width, upright, in square pixels: lines are kept, their length is adapted."""
    width = max(1, round(frame.width * _pixel_shape(stream)))
    _check_size(path, width, frame.height)
    return orientation.stored((frame.height, width))


def _color_tags(frame: VideoFrame) -> ColorTags:
    def name(kind: Any, code: int) -> str:
        return kind(code).name.lower() if code in list(kind) else "unspecified"

    return ColorTags(
        primaries=name(ColorPrimaries, frame.color_primaries),
        transfer=name(ColorTrc, frame.color_trc),
        matrix=MATRICES.get(frame.colorspace, "unspecified"),
        range=RANGES.get(frame.color_range, "unspecified"),
    )


def _rgb(frame: VideoFrame, size: Size, reformatter: VideoReformatter) -> Picture:
    """One decoded picture as stored, ``(*size, 3)`` uint8 R'G'B' with BT.709 primaries."""
    height, width = size
    matrix = span = None
    if not frame.format.is_rgb:
        hd = frame.width >= 1280 or frame.height > 576
        matrix = SWSCALE_MATRICES.get(frame.colorspace, Colorspace.ITU709 if hd else Colorspace.ITU601)
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        span = ColorRange.JPEG if full else ColorRange.MPEG
    converted = reformatter.reformat(
        frame, width, height, "rgb24", src_colorspace=matrix, src_color_range=span, interpolation=RESAMPLING, threads=1
    )
    picture = _array(converted)
    if frame.color_primaries in WIDE_GAMUTS:
        return _narrowed(picture, ColorPrimaries(frame.color_primaries))
    return picture


def _array(frame: VideoFrame) -> Picture:
    """The pixels of a frame in rgb24."""
    return cast(Picture, frame.to_ndarray())


def _frame(picture: Picture) -> VideoFrame:
    """The frame in rgb24 that holds a picture."""
    return VideoFrame.from_ndarray(np.ascontiguousarray(picture, dtype=np.uint8), "rgb24")


def _resized(picture: Picture, size: Size) -> Picture:
    height, width = size
    return _array(_frame(picture).reformat(width, height, interpolation=RESAMPLING, threads=1))


XY = {  # chromaticities of red, green, blue; all with the white point D65
    ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65 = (0.3127, 0.3290)
GAMMA = 2.4  # of the screen that SDR is graded on, ITU-R BT.1886


def _to_xyz(primaries: ColorPrimaries) -> npt.NDArray[np.float64]:
    """The matrix (3, 3) from linear RGB to CIE XYZ."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in (*XY[primaries], D65)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def _narrowed(picture: Picture, primaries: ColorPrimaries) -> Picture:
    """``(height, width, 3)`` uint8 of a wide gamut, brought to BT.709; what lies outside is clipped."""
    wide_to_709 = np.linalg.solve(_to_xyz(ColorPrimaries.BT709), _to_xyz(primaries)).astype(np.float32)
    linear = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)[picture] @ wide_to_709.T
    return np.rint(255 * linear.clip(0, 1) ** (1 / GAMMA)).astype(np.uint8)


# --- Sizes -----------------------------------------------------------------------------------------------------------


def fit_size(
    width: int, height: int, *, multiple: int, target_area: int | None = None, max_size: Size | None = None
) -> Size:
    """The allowed size nearest to a video's: sides are multiples of ``multiple``, the aspect ratio is kept.

    Both sides are scaled alike and each is rounded to its nearest multiple, so the picture is stretched by no more
    than that rounding, and no side is less than one multiple.

    Args:
        width: Of the video as shown, in pixels.
        height: As ``width``.
        multiple: What sides are multiples of: 8 for the latents of Stable Diffusion, 64 for whole feature maps.
        target_area: Pixels wanted, in all.
        max_size: Height and width not to be exceeded (by one multiple where they are less than one).

    Returns:
        Height and width.

    Raises:
        ValueError: A number is not positive, or not exactly one of the two wishes is given.
    """
    if (target_area is None) == (max_size is None):
        raise ValueError("fit_size needs either target_area or max_size")
    if min(width, height, multiple, target_area or 1, *(max_size or (1,))) < 1:
        raise ValueError("fit_size needs positive numbers")
    if target_area is not None:
        scale = math.sqrt(target_area / (width * height))
        return _multiple(height * scale, multiple), _multiple(width * scale, multiple)
    assert max_size is not None
    scale = min(max_size[0] / height, max_size[1] / width)
    sides = (
        min(_multiple(side * scale, multiple), limit // multiple * multiple)
        for side, limit in zip((height, width), max_size, strict=True)
    )
    fitted_height, fitted_width = (max(multiple, side) for side in sides)
    return fitted_height, fitted_width


def _multiple(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


# --- Writing ---------------------------------------------------------------------------------------------------------


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
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the name of a file in it, such as {out / 'edited.mp4'}")
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"{out} cannot be written as {out.suffix or 'no format'}; choose one of {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}; make it first, or choose another")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InputError(f"the folder {out.parent} is not writable; choose another, or change its permissions")
    if source is not None:
        if out.exists() and os.path.samefile(out, source):
            raise InputError(f"{out} is the source itself, which is never overwritten; choose another name")
        with _opened(Path(source)):  # what is no video gets its own sentence
            pass
        check_sound(Path(source), out.suffix, FORMATS[out.suffix.lower()], audio)


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
                    frame = _yuv(picture, (height, width), reformatter)
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


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A temporary path beside ``out`` that becomes ``out`` if all goes well and is removed if not."""
    part = out.with_name(f".{out.name}.part")
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


def _yuv(picture: Picture, size: Size, reformatter: VideoReformatter) -> VideoFrame:
    """``(height, width, 3)`` uint8, resized to ``size``, completed to even sides and converted."""
    height, width = size
    if picture.shape[:2] != size:
        picture = _resized(picture, size)
    if height % 2 or width % 2:
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    converted = reformatter.reformat(
        _frame(picture),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=RESAMPLING,
        threads=1,
    )
    converted.color_primaries = converted.color_trc = BT709
    return converted


# --- Sources ---------------------------------------------------------------------------------------------------------


class VideoSource(ABC):
    """A video to be edited, wherever it comes from."""

    @property
    @abstractmethod
    def info(self) -> VideoInfo:
        """What it is."""

    @abstractmethod
    def frames(self, size: Size | None = None, start: int = 0) -> Iterator[Picture]:
        """The frames from number ``start`` on, ``(height, width, 3)`` uint8 R'G'B', resized to ``size`` if given."""

    @abstractmethod
    def fingerprint(self) -> str:
        """The same for the same content, and for no other."""


class FileSource(VideoSource):
    """A video file; looked at when it is first asked about."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @cached_property
    def info(self) -> VideoInfo:
        """What `probe` says of the file, once."""
        return probe(self.path)

    def frames(self, size: Size | None = None, start: int = 0) -> Iterator[Picture]:
        """See `VideoSource.frames`; a ``start`` is reached by a seek where that is exact."""
        return read_frames(self.path, size, start, timestamps=self.info.timestamps if start else None)

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return fingerprint(self.path)


class ArraySource(VideoSource):
    """Frames in memory, shown at an even pace and without sound.

    Args:
        frames: An array ``(n, height, width, 3)`` or a sequence of such frames or PIL images, all of one size: uint8 in
            [0, 255] or float in [0, 1], R'G'B'.
        fps: Frames per second.

    Raises:
        InputError: There are no frames, or they are of another shape, type or of several sizes.
    """

    def __init__(self, frames: npt.NDArray[Any] | Sequence[Any], fps: Fraction | float = DEFAULT_FPS) -> None:
        if not len(frames):
            raise InputError("the video is an empty list of frames; give at least one")
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"fps={fps} is not a pace; give frames per second, such as {DEFAULT_FPS}")
        self._frames = frames
        self._fps = Fraction(fps).limit_denominator(1001)
        shapes = {self._frame(number).shape for number in range(len(frames))}
        if len(shapes) > 1:
            raise InputError(f"the frames have several shapes, {sorted(shapes)}; resize them to one")

    @cached_property
    def info(self) -> VideoInfo:
        """What the frames are."""
        height, width, _ = self._frame(0).shape
        n = len(self._frames)
        return VideoInfo(
            path=None,
            width=width,
            height=height,
            frames=n,
            duration=float(n / self._fps),
            time_base=1 / self._fps,
            timestamps=tuple(range(n)),
            end=n,
            frame_rate=self._fps,
            variable_frame_rate=False,
            rotation=0,
            pix_fmt="rgb24",
            codec="rawvideo",
            bit_depth=8,
            color=ColorTags(primaries="bt709", transfer="bt709", matrix="rgb", range="full"),
            audio=(),
            sample_aspect_ratio=Fraction(1),
        )

    def frames(self, size: Size | None = None, start: int = 0) -> Iterator[Picture]:
        """See `VideoSource.frames`."""
        for number in range(start, len(self._frames)):
            picture = self._frame(number)
            if size is not None and picture.shape[:2] != size:
                picture = _resized(picture, size)
            yield picture

    def fingerprint(self) -> str:
        """SHA-256 of the shape, the pace and the pixels."""
        digest = hashlib.sha256(f"{len(self._frames)} {self._frame(0).shape} {self._fps}".encode())
        for picture in self.frames():
            digest.update(picture.tobytes())
        return digest.hexdigest()

    def _frame(self, number: int) -> Picture:
        """``(height, width, 3)`` uint8, contiguous."""
        given = self._frames[number]
        picture = np.asarray(given.convert("RGB") if hasattr(given, "convert") else given)
        if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise InputError(f"frame {number} has shape {picture.shape}; give (height, width, 3)")
        if np.issubdtype(picture.dtype, np.floating):
            if not (picture.min() >= 0 and picture.max() <= 1):
                raise InputError(f"frame {number} is {picture.dtype} outside [0, 1]; scale it, or give uint8")
            picture = np.rint(255 * picture).astype(np.uint8)
        if picture.dtype != np.uint8:
            raise InputError(f"frame {number} is {picture.dtype}; give uint8 in [0, 255] or float in [0, 1]")
        return np.ascontiguousarray(picture)


def open_source(video: VideoSource | str | os.PathLike[str] | npt.NDArray[Any] | Sequence[Any]) -> VideoSource:
    """The source that ``video`` names or is: a path, an array ``(n, height, width, 3)``, a list of images, a source."""
    if isinstance(video, VideoSource):
        return video
    if isinstance(video, str | os.PathLike):
        return FileSource(video)
    return ArraySource(video)
