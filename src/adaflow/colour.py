"""Colours and pixels: from what a decoder gives to R'G'B', and from there to what an encoder takes.

Colours are 8-bit, full-range R'G'B' with BT.709 primaries: what a screen shows and Stable Diffusion expects. An
untagged video is taken as BT.709 if it is HD (1280 pixels wide or more than 576 lines), else as BT.601, limited range,
as players do. Tagged wide-gamut SDR (BT.2020, P3) is brought to BT.709; HDR (PQ, HLG) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from .errors import InputError

Size = tuple[int, int]
"""Height and width, in pixels."""

Picture = npt.NDArray[np.uint8]
"""One frame, ``(height, width, 3)``, R'G'B'."""

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
XY = {  # chromaticities of red, green, blue; all with the white point D65
    ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65 = (0.3127, 0.3290)
GAMMA = 2.4  # of the screen that SDR is graded on, ITU-R BT.1886


@dataclass(frozen=True)
class ColorTags:
    """What a file says about its colours, in FFmpeg's names; ``unspecified`` where it says nothing."""

    primaries: str
    transfer: str
    matrix: str
    range: str


def color_tags(frame: VideoFrame) -> ColorTags:
    """What a decoded picture says about its colours."""

    def name(kind: Any, code: int) -> str:
        return kind(code).name.lower() if code in list(kind) else "unspecified"

    return ColorTags(
        primaries=name(ColorPrimaries, frame.color_primaries),
        transfer=name(ColorTrc, frame.color_trc),
        matrix=MATRICES.get(frame.colorspace, "unspecified"),
        range=RANGES.get(frame.color_range, "unspecified"),
    )


def refuse_hdr(path: Path, frame: VideoFrame) -> None:
    """Refuse a picture in HDR, with the command that converts it."""
    if frame.color_trc in HDR:
        raise InputError(
            f"{path} is HDR ({HDR[ColorTrc(frame.color_trc)]}), and edits are made in SDR; convert it first, for "
            "example with: ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,"
            "zscale=p=bt709:t=bt709:m=bt709:r=tv,format=yuv420p -c:a copy OUT"
        )


def to_rgb(frame: VideoFrame, size: Size, reformatter: VideoReformatter) -> Picture:
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


def to_yuv(picture: Picture, size: Size, reformatter: VideoReformatter) -> VideoFrame:
    """``(height, width, 3)`` uint8, resized to ``size``, completed to even sides and converted."""
    height, width = size
    if picture.shape[:2] != size:
        picture = resized(picture, size)
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


def resized(picture: Picture, size: Size) -> Picture:
    """``(*size, 3)``, by an antialiasing bicubic filter."""
    height, width = size
    return _array(_frame(picture).reformat(width, height, interpolation=RESAMPLING, threads=1))


def _array(frame: VideoFrame) -> Picture:
    """The pixels of a frame in rgb24."""
    return cast(Picture, frame.to_ndarray())


def _frame(picture: Picture) -> VideoFrame:
    """The frame in rgb24 that holds a picture."""
    return VideoFrame.from_ndarray(np.ascontiguousarray(picture, dtype=np.uint8), "rgb24")


def _narrowed(picture: Picture, primaries: ColorPrimaries) -> Picture:
    """``(height, width, 3)`` uint8 of a wide gamut, brought to BT.709; what lies outside is clipped."""
    wide_to_709 = np.linalg.solve(_to_xyz(ColorPrimaries.BT709), _to_xyz(primaries)).astype(np.float32)
    linear = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)[picture] @ wide_to_709.T
    return np.rint(255 * linear.clip(0, 1) ** (1 / GAMMA)).astype(np.uint8)


def _to_xyz(primaries: ColorPrimaries) -> npt.NDArray[np.float64]:
    """The matrix (3, 3) from linear RGB to CIE XYZ."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in (*XY[primaries], D65)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
