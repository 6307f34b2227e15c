"""Video in and out, faithfully: probe, read and write files frame by frame, by PyAV.

What goes in comes out: the same number of frames at the same times, upright, in square pixels, with the same sound.

A *frame* is a picture that the decoder gives for presentation. `probe` counts frames by decoding the video once (its
timestamps are then exact too, and a damaged file is refused before hours are spent on it); `read_frames` runs the same
decoder in the same way, so the two always agree. Their colours are those of `adaflow.colour`.

Here are the sources of an edit; `probe`, `decode` and `encode` hold the rest, importable from here.
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .colour import ColorTags, Picture, Size, resized
from .decode import check_file, read_frames
from .encode import check_output, read_metadata, write_video
from .errors import InputError
from .probe import DEFAULT_FPS, VideoInfo, probe

__all__ = [
    "ArraySource",
    "ColorTags",
    "FileSource",
    "Picture",
    "Size",
    "VideoInfo",
    "VideoSource",
    "check_output",
    "fingerprint",
    "open_source",
    "probe",
    "read_frames",
    "read_metadata",
    "write_video",
]


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal; read in blocks.

    Raises:
        InputError: It cannot be read.
    """
    check_file(Path(path))
    try:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except OSError as cause:
        raise InputError(f"{path} cannot be read ({cause.strerror}); check the path and its permissions") from cause


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


def raw_info(height: int, width: int, frames: int, fps: Fraction) -> VideoInfo:
    """What is known of frames that come from no file: R'G'B', at an even pace, without sound."""
    return VideoInfo(
        path=None,
        width=width,
        height=height,
        frames=frames,
        duration=float(frames / fps),
        time_base=1 / fps,
        timestamps=tuple(range(frames)),
        end=frames,
        frame_rate=fps,
        variable_frame_rate=False,
        rotation=0,
        pix_fmt="rgb24",
        codec="rawvideo",
        bit_depth=8,
        color=ColorTags(primaries="bt709", transfer="bt709", matrix="rgb", range="full"),
        audio=(),
        sample_aspect_ratio=Fraction(1),
    )


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
        return raw_info(height, width, len(self._frames), self._fps)

    def frames(self, size: Size | None = None, start: int = 0) -> Iterator[Picture]:
        """See `VideoSource.frames`."""
        for number in range(start, len(self._frames)):
            picture = self._frame(number)
            if size is not None and picture.shape[:2] != size:
                picture = resized(picture, size)
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
