"""Where a mask comes from: a picture, a video, a folder of pictures, arrays; white is what is edited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from .colour import Picture
from .errors import InputError
from .video import ArraySource, FileSource, VideoSource

Mask = str | Path | VideoSource | npt.NDArray[Any] | Sequence[Any]
"""A picture or a video file, a folder of pictures, an array ``[H, W]`` or ``[n, H, W]``, or a list of PIL images."""

PICTURES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"])
"""How the names of pictures end."""
SLACK = 16
"""Of 255: what is nearer than this to black or white is meant so; video codecs do not keep either exactly."""
ASPECT = 0.02
"""By how much the ratio of a mask's sides may differ from the video's."""


def open_mask(mask: Mask) -> VideoSource:
    """What `mask` names or is, with as many frames as the video, or one for all of them.

    Raises:
        InputError: It cannot be read as a mask.
    """
    if isinstance(mask, VideoSource):
        return mask
    if not isinstance(mask, str | Path):
        return ArraySource(_Planes(mask) if isinstance(mask, np.ndarray) else mask)
    path = Path(mask)
    if path.is_dir():
        return ArraySource(_Folder(path))
    return ArraySource([read_picture(path)]) if path.suffix.lower() in PICTURES else FileSource(path)


def check_mask(mask: VideoSource, video: VideoSource) -> None:
    """Refuse a mask that is not one of this video.

    Raises:
        InputError: It has another number of frames, or another shape.
    """
    found, wanted = mask.info, video.info
    if found.frames not in (1, wanted.frames):
        raise InputError(
            f"the mask has {found.frames} frames and the video {wanted.frames}; give as many, or a single picture"
        )
    if abs(found.width * wanted.height / (found.height * wanted.width) - 1) > ASPECT:
        raise InputError(
            f"the mask is {found.width}x{found.height} and the video {wanted.width}x{wanted.height}; "
            "a mask may be larger or smaller, but must have the video's shape"
        )


def levels(picture: Picture) -> npt.NDArray[np.float32]:
    """How much of each pixel is edited, ``[H, W]`` in [0, 1]: as bright as its brightest channel."""
    bright = picture.max(axis=2).astype(np.float32)
    return cast("npt.NDArray[np.float32]", ((bright - SLACK) / (255 - 2 * SLACK)).clip(0, 1))


def read_picture(path: Path) -> Picture:
    """A picture file ``[H, W, 3]`` uint8.

    Raises:
        InputError: It cannot be read, or says with transparency what is meant, which people do in opposite ways.
    """
    try:
        with Image.open(path) as picture:
            clear = picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255
            deep = picture.mode.startswith("I") or picture.mode == "F"
            pixels = np.asarray(picture.convert("RGB") if not deep else picture)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no picture that can be read"
        raise InputError(f"the mask {path} cannot be read ({reason}); give a PNG in black and white") from error
    if clear:
        raise InputError(f"the mask {path} is partly transparent; save it in black and white: white is edited")
    if deep:  # 16 bits a pixel, as some programs write black and white
        top = max(int(pixels.max()), 1)
        pixels = np.repeat((pixels.astype(np.float64) * (255 / (65535 if top > 255 else 255)))[..., None], 3, axis=2)
    return cast(Picture, pixels.astype(np.uint8))


class _Folder(Sequence[Picture]):
    """The pictures of a folder in the order of their numbers, read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
        if not found:
            raise InputError(f"there are no pictures in the folder {folder}; give a PNG for each frame")
        self._files = sorted(found, key=lambda p: [(int(n or 0), t) for n, t in re.findall(r"(\d*)(\D*)", p.name)])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        return read_picture(self._files[index])


class _Planes(Sequence[Picture]):
    """An array ``[H, W]`` or ``[n, H, W]`` (bool, uint8, or floats in [0, 1]) as pictures of three channels."""

    def __init__(self, planes: npt.NDArray[Any]) -> None:
        if planes.ndim not in (2, 3):
            raise InputError(
                f"the mask has shape {planes.shape}; give [H, W], or [n, H, W] with a plane for each frame"
            )
        self._planes = planes.reshape(-1, *planes.shape[-2:])

    def __len__(self) -> int:
        return len(self._planes)

    def __getitem__(self, index: Any) -> Any:
        plane = self._planes[index]
        plane = plane.astype(np.uint8) * 255 if plane.dtype == bool else plane
        return np.broadcast_to(plane[..., None], (*plane.shape, 3))
