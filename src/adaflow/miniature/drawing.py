"""Drawing and filtering on float32 arrays with numpy alone: what the world needs of an image library.

Colour images are ``(height, width, 3)`` in [0, 255] while painting; filters take ``(..., height, width)``. Filters are
products with small banded matrices, which on frames of this size is faster than sliding windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]
LUMA = np.array((0.299, 0.587, 0.114), np.float32)


# -- resampling and blurring: one matrix per axis -------------------------------------------------------------------


@cache
def _cubic_matrix(n_out: int, n_in: int) -> Array:
    """Bicubic interpolation (a = -0.75) of ``n_in`` samples to ``n_out``, borders repeated."""
    a = -0.75
    centre = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    left = np.floor(centre).astype(int) - 1
    matrix = np.zeros((n_out, n_in), np.float32)
    for tap in range(4):
        distance = np.abs(centre - (left + tap))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        np.add.at(matrix, (np.arange(n_out), np.clip(left + tap, 0, n_in - 1)), np.where(distance <= 1, near, far))
    return matrix


def resize_cubic(grid: Array, height: int, width: int) -> Array:
    """``grid`` ``(h, w)`` interpolated to ``(height, width)``."""
    rows: Array = _cubic_matrix(height, grid.shape[0]) @ grid
    return rows @ _cubic_matrix(width, grid.shape[1]).T


def triangle_matrix(start: float, scale: float, n_out: int, n_in: int) -> Array:
    """Sample ``n_in`` pixels, laid out from ``start`` and ``scale`` output pixels wide, at ``n_out`` pixel centres.

    The triangle filter is one output pixel wide or one input pixel, whichever is more; outside the input all is zero.
    """
    reach = max(1.0, scale)
    margin = int(reach / scale) + 2  # transparent pixels around the input count in the normalisation
    position = start + (np.arange(-margin, n_in + margin) + 0.5) * scale
    offset = (np.arange(n_out) + 0.5)[:, None] - position[None]
    weights = np.maximum(0, 1 - np.abs(offset) / reach)
    total = weights.sum(1, keepdims=True)
    return (weights / np.maximum(total, 0.5))[:, margin : margin + n_in].astype(np.float32)


def _blur_matrix(size: int, kernel: NDArray[np.float64]) -> Array:
    """Convolution of ``size`` samples with an odd ``kernel``, reflected at the borders."""
    radius = len(kernel) // 2
    matrix = np.zeros((size, size), np.float32)
    rows = np.arange(size)
    for tap, weight in enumerate(kernel):
        column = np.abs(rows + tap - radius)
        np.add.at(matrix, (rows, np.where(column >= size, 2 * size - 2 - column, column)), weight)
    return matrix


@cache
def _gaussian_matrix(size: int, sigma: float) -> Array:
    radius = max(1, int(4 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return _blur_matrix(size, kernel / kernel.sum())


@cache
def _box_matrix(size: int, radius: int) -> Array:
    return _blur_matrix(size, np.full(2 * radius + 1, 1 / (2 * radius + 1)))


def gaussian(x: Array, sigma: float) -> Array:
    """``x`` ``(..., h, w)`` blurred by a Gaussian."""
    down: Array = _gaussian_matrix(x.shape[-2], sigma) @ x
    return down @ _gaussian_matrix(x.shape[-1], sigma).T


def box(x: Array, radius: int) -> Array:
    """``x`` ``(..., h, w)`` averaged over windows of side ``2 * radius + 1``."""
    down: Array = _box_matrix(x.shape[-2], radius) @ x
    return down @ _box_matrix(x.shape[-1], radius).T


def smooth_keeping_edges(x: Array, guide: Array, radius: int, contrast: float) -> Array:
    """``x`` ``(3, h, w)`` averaged where ``guide`` ``(h, w)`` is flat, kept where it varies by more than ``contrast``.

    A guided filter with one coefficient for all channels (https://doi.org/10.1109/TPAMI.2012.213): the share of detail
    kept is var / (var + contrast^2) of the guide within a window.
    """
    mean, square = box(np.stack((guide, guide * guide)), radius)
    variance = np.maximum(square - mean * mean, 0)
    kept = box(variance / (variance + contrast**2), max(1, radius // 2))
    flat = box(x, radius)
    return flat + kept * (x - flat)


def edges(grey: Array) -> Array:
    """Magnitude of the Sobel gradient of ``grey`` ``(h, w)``."""
    p = np.pad(grey, 1, mode="reflect")
    down = p[:-2] + 2 * p[1:-1] + p[2:]  # smoothed along y
    across = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    gx, gy = down[:, 2:] - down[:, :-2], across[2:] - across[:-2]
    return np.sqrt(gx * gx + gy * gy)


# -- painting, antialiased ------------------------------------------------------------------------------------------


def _paint(
    image: Array, x0: float, x1: float, y0: float, y1: float, colour: ArrayLike, coverage: Callable, alpha: float = 1
) -> None:
    """Blend ``colour`` into the pixels of a bounding box by ``coverage(x, y)`` of the pixel centres."""
    height, width = image.shape[:2]
    left, right = max(0, int(np.floor(x0)) - 1), min(width, int(np.ceil(x1)) + 2)
    top, bottom = max(0, int(np.floor(y0)) - 1), min(height, int(np.ceil(y1)) + 2)
    if left >= right or top >= bottom:
        return
    x, y = np.arange(left, right, dtype=np.float32)[None], np.arange(top, bottom, dtype=np.float32)[:, None]
    a = alpha * np.asarray(coverage(x, y), np.float32)[..., None]
    patch = image[top:bottom, left:right]
    patch += a * (np.asarray(colour, np.float32) - patch)


def disc(image: Array, x: float, y: float, radius: float, colour: ArrayLike) -> None:
    """A filled circle; pixel centres lie on whole numbers."""

    def coverage(px: Array, py: Array) -> Array:
        return np.clip(radius + 0.5 - np.hypot(px - x, py - y), 0, 1)

    _paint(image, x - radius, x + radius, y - radius, y + radius, colour, coverage)


def polyline(
    image: Array, points: Sequence[tuple[float, float]], thickness: float, colour: ArrayLike, alpha: float = 1.0
) -> None:
    """Straight strokes from point to point, with round ends."""
    corners = np.asarray(points, np.float32)
    half = thickness / 2

    def coverage(px: Array, py: Array) -> Array:
        distance = np.full(np.broadcast_shapes(px.shape, py.shape), np.inf, np.float32)
        for (ax, ay), (bx, by) in pairwise(corners):
            dx, dy = bx - ax, by - ay
            along = np.clip(((px - ax) * dx + (py - ay) * dy) / max(dx * dx + dy * dy, 1e-6), 0, 1)
            distance = np.minimum(distance, np.hypot(px - ax - along * dx, py - ay - along * dy))
        return np.clip(half + 0.5 - distance, 0, 1)

    (x0, y0), (x1, y1) = corners.min(0) - half, corners.max(0) + half
    _paint(image, x0, x1, y0, y1, colour, coverage, alpha)


def polygon(image: Array, points: Sequence[tuple[float, float]], colour: ArrayLike) -> None:
    """A filled polygon by the even-odd rule, with 4 x 4 samples a pixel."""
    corners = np.asarray(points, np.float32)
    following = np.roll(corners, -1, axis=0)
    samples = (np.arange(4) + 0.5) / 4 - 0.5

    def coverage(px: Array, py: Array) -> Array:
        sx, sy = (px.reshape(-1, 1) + samples).reshape(1, -1), (py.reshape(-1, 1) + samples).reshape(-1, 1)
        inside = np.zeros((sy.size, sx.size), bool)
        for (ax, ay), (bx, by) in zip(corners, following, strict=True):
            if ay != by:
                crosses = (sy < ay) != (sy < by)
                inside ^= crosses & (sx < ax + (sy - ay) * (bx - ax) / (by - ay))
        return inside.reshape(py.size, 4, px.size, 4).mean((1, 3))

    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    _paint(image, x0, x1, y0, y1, colour, coverage)


def gradient(top: ArrayLike, bottom: ArrayLike, height: int, width: int) -> Array:
    """A vertical gradient ``(height, width, 3)``."""
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    rows = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
    return np.repeat(rows, width, axis=1)


def noise(rng: np.random.RandomState, height: int, width: int, octaves: Sequence[tuple[int, int, float]]) -> Array:
    """Smooth noise in [0, 1]: a sum of random grids ``(rows, columns, weight)``, each interpolated to full size."""
    total = np.zeros((height, width), np.float32)
    for rows, columns, weight in octaves:
        total += weight * resize_cubic(rng.rand(rows, columns).astype(np.float32), height, width)
    total -= total.min()
    return total / total.max()
