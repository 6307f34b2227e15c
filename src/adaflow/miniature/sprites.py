"""Sprites: the atlas, their recolouring, and the silhouettes that say which objects resemble each other."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from .drawing import Array, gaussian, triangle_matrix
from .vocabulary import OBJECTS

ATLAS = Path(__file__).parent / "atlas" / "sprites.npz"
RGB = MappingProxyType(
    {
        "red": (228, 38, 38),
        "orange": (250, 140, 20),
        "yellow": (250, 215, 40),
        "green": (45, 165, 60),
        "blue": (40, 105, 225),
        "purple": (140, 60, 190),
        "pink": (250, 125, 180),
        "white": (240, 240, 240),
    }
)
# hue range in degrees of the paint of each glyph, the part that takes the object's colour; it may wrap around 360
PAINT_HUES = MappingProxyType(
    {
        "car": (340, 20),
        "truck": (340, 50),
        "boat": (340, 50),
        "balloon": (340, 20),
        "fish": (185, 225),
        "bird": (185, 225),
        "butterfly": (10, 50),
        "cat": (10, 60),
    }
)
AIRBORNE = frozenset({"balloon", "bird", "butterfly"})  # these cast no shadow
SIMILAR_IOU = 0.55


@cache
def _atlas() -> dict[str, np.ndarray]:
    with np.load(ATLAS, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in OBJECTS}


@cache
def shape(kind: str) -> tuple[float, float]:
    """Height and width of an object of size 1; size is the square root of the area of the bounding box."""
    height, width = _atlas()[kind].shape[:2]
    return float(np.sqrt(height / width)), float(np.sqrt(width / height))


def _paint_mask(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels of the glyph are paint (bool), and the saturation and value of all."""
    rgba = _atlas()[kind].astype(np.float32)
    rgb = rgba[..., :3] / 255
    value, low = rgb.max(-1), rgb.min(-1)
    chroma = value - low
    safe = np.maximum(chroma, 1e-6)
    r, g, b = np.moveaxis(rgb, -1, 0)
    hue = np.where(value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)) * 60 % 360
    saturation = chroma / np.maximum(value, 1e-6)
    first, last = PAINT_HUES[kind]
    in_range = (hue >= first) & (hue <= last) if first < last else (hue >= first) | (hue <= last)
    return in_range & (saturation > 0.25) & (value > 0.25) & (rgba[..., 3] > 10), saturation, value


@cache
def sprite(kind: str, colour: str) -> Array:
    """The object in a colour, facing left: premultiplied RGBA ``(4, h, w)``, colour in [0, 255], alpha in [0, 1].

    Paint keeps its shading relative to its median, and its pale parts stay pale.
    """
    rgba = _atlas()[kind].astype(np.float32)
    paint, saturation, value = _paint_mask(kind)
    shade = (value / np.median(value[paint]))[..., None]
    target = np.asarray(RGB[colour], np.float32)
    lit = np.where(shade <= 1, target * (0.25 + 0.75 * shade), target + (255 - target) * np.clip(shade - 1, 0, 1) * 0.6)
    pale = np.clip(1 - saturation / np.median(saturation[paint]), 0, 1)[..., None] * 0.85
    painted = lit * (1 - pale) + 255 * pale
    share = gaussian(paint.astype(np.float32), 0.6)[..., None]
    alpha = rgba[..., 3:] / 255
    rgb = np.clip(rgba[..., :3] * (1 - share) + painted * share, 0, 255)
    result = np.concatenate([rgb * alpha, alpha], axis=-1).transpose(2, 0, 1)
    return np.ascontiguousarray(result, np.float32)


@cache
def silhouette(kind: str, side: int = 96) -> Array:
    """Alpha of an object of size ``side / 1.5``, standing on the bottom line of a square of that side."""
    height, width = (extent * side / 1.5 for extent in shape(kind))
    alpha = sprite(kind, "red")[3]
    rows = triangle_matrix(side - height, height / alpha.shape[0], side, alpha.shape[0])
    columns = triangle_matrix((side - width) / 2, width / alpha.shape[1], side, alpha.shape[1])
    return rows @ alpha @ columns.T


def silhouette_iou(a: str, b: str) -> float:
    """Overlap of two objects of the same size at the same place: intersection over union of their silhouettes."""
    first, second = silhouette(a), silhouette(b)
    return float(np.minimum(first, second).sum() / np.maximum(first, second).sum())


@cache
def similar_objects(kind: str) -> tuple[str, ...]:
    """The objects whose silhouettes overlap with this one's by ``SIMILAR_IOU`` or more, the most similar first."""
    overlaps = {other: silhouette_iou(kind, other) for other in OBJECTS if other != kind}
    return tuple(sorted((o for o in overlaps if overlaps[o] >= SIMILAR_IOU), key=lambda o: -overlaps[o]))
