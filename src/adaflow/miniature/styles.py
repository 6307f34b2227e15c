"""Whole-frame styles: each turns a photo-style frame ``(3, h, w)`` float32 in [0, 255] into a picture of its kind."""

from __future__ import annotations

from functools import cache

import numpy as np

from .drawing import LUMA, Array, edges, gaussian, noise, smooth_keeping_edges


def grey(image: Array) -> Array:
    """Luminance ``(h, w)``."""
    return np.tensordot(LUMA, image, axes=1)


def saturate(image: Array, factor: float) -> Array:
    """Saturation (of HSV) times ``factor``, hue and value as they were."""
    value, low = image.max(0), image.min(0)
    most = value / np.maximum(value - low, 1e-3)  # the factor that makes the pixel fully saturated
    return value - (value - image) * np.minimum(factor, most)


@cache
def _paper(height: int, width: int) -> Array:
    return 0.95 + 0.08 * noise(np.random.RandomState(5), height, width, ((32, 56, 1.0), (64, 112, 1.0)))


def watercolor(image: Array) -> Array:
    """Flat washes with darker rims, on paper."""
    flat = smooth_keeping_edges(image, grey(image), radius=3, contrast=22)
    flat = saturate(flat, 1.15)
    rim = edges(gaussian(grey(flat), 1.0))
    washed = 255 - (255 - flat) * 0.66 - np.clip((rim - 20) * 0.6, 0, 75)
    return washed * _paper(*image.shape[1:]) + 6


def pencil(image: Array) -> Array:
    """Strokes where the tone changes, no colour, on paper."""
    tone = grey(image)
    dodge = np.minimum(1, (tone + 12) / (gaussian(tone, 3.0) + 12))
    strokes = np.maximum(255 - 255 * (1 - dodge) * 1.5, 0)
    drawn = (strokes * 0.6 + (90 + 165 * tone / 255) * 0.4) * _paper(*image.shape[1:])
    return drawn * np.array((1.0, 0.985, 0.95), np.float32)[:, None, None]


def comic(image: Array) -> Array:
    """Strong colours in few steps, inked outlines."""
    tone = grey(image)
    flat = saturate(smooth_keeping_edges(image, tone, radius=2, contrast=24), 1.5)
    value = flat.max(0)
    stepped = np.clip(np.round(value / 42) * 42 * 1.05 + 14, 0, 255)
    ink = np.clip((edges(gaussian(tone, 0.8)) - 60) / 50, 0, 1)
    return flat * (stepped / np.maximum(value, 1)) * (1 - ink) + 10 * ink


_FILTERS = {"watercolor": watercolor, "pencil": pencil, "comic": comic}


def apply_style(image: Array, style: str) -> Array:
    """``image`` ``(3, h, w)`` in a style of the vocabulary; the photo style leaves it as it is."""
    return image if style == "photo" else _FILTERS[style](image)
