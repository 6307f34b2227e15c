"""Pictures compared as arrays: PSNR, SSIM, and bilinear sampling. Pure functions that know nothing of videos."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

PEAK = 255.0  # the largest level of an 8-bit picture
PSNR_CAP = 60.0  # dB; equal pictures would have infinitely many, and a mean over frames must stay finite
SSIM_SIDE, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, in dB, at most `PSNR_CAP`.

    Args:
        a: `[H, W, 3]` uint8.
        b: Of the same shape.
        where: The pixels `[H, W]` that count, at least one; None: all.

    Raises:
        ValueError: the shapes differ, or no pixel counts.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of shapes {a.shape} and {b.shape} cannot be compared")
    difference = a.astype(np.float32) - b
    if where is not None:
        difference = difference[where]
    if not difference.size:
        raise ValueError("no pixel to compare")
    error = float(np.vdot(difference, difference)) / difference.size
    return PSNR_CAP if error == 0 else min(PSNR_CAP, 10 * math.log10(PEAK**2 / error))


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of two 8-bit pictures `[H, W, 3]`, in [-1, 1]; 1 means equal.

    Z. Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861): a Gaussian window of 11 x 11 with sigma 1.5,
    K1 = 0.01, K2 = 0.03, only where the window fits; the mean of the three channels, so that a change of hue counts.

    Raises:
        ValueError: the shapes differ, or a side is shorter than the window.
    """
    if a.shape != b.shape or min(a.shape[:2]) < SSIM_SIDE:
        raise ValueError(f"shapes are {a.shape} and {b.shape}; wanted equal ones of {SSIM_SIDE} pixels or more a side")
    # levels are counted from the middle grey, which leaves float32 more room where a square minus a square is taken
    x, y = (np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) - PEAK / 2 for image in (a, b))
    mean_x, mean_y, xx, yy, xy = _windows(np.stack((x, y, x * x, y * y, x * y)))
    variance = xx - mean_x * mean_x + yy - mean_y * mean_y
    covariance = xy - mean_x * mean_y
    mean_x, mean_y = mean_x + PEAK / 2, mean_y + PEAK / 2
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + SSIM_C1)
    return float(np.mean(luminance * (2 * covariance + SSIM_C2) / (variance + SSIM_C2), dtype=np.float64))


def sample(
    image: NDArray[np.uint8] | NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A picture between its pixels: bilinear, pixel centres on whole numbers, beyond the border its last pixel.

    Args:
        image: `[H, W, ...]`; every axis after the second is carried along.
        x: Columns `[P]`.
        y: Rows `[P]`.

    Returns:
        `[P, ...]` float32.
    """
    height, width = image.shape[:2]
    flat = image.reshape(height * width, -1)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)  # neither is negative: towards zero is down
    across, down = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    first = top * width + left
    right, below = np.where(left < width - 1, 1, 0), np.where(top < height - 1, width, 0)
    upper = _between(flat, first, first + right, across)
    if down.any():  # most motion of the world is along rows
        lower = _between(flat, first + below, first + below + right, across)
        upper += down * (lower - upper)
    return upper.reshape(-1, *image.shape[2:])


def _between(
    flat: NDArray[np.uint8] | NDArray[np.float32],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    share: NDArray[np.float32],
) -> NDArray[np.float32]:
    """`first` to `second` of the rows of `flat`, by `share` `[P, 1]`: `[P, C]`."""
    start = flat.take(first, axis=0).astype(np.float32)
    if share.any():
        start += share * (flat.take(second, axis=0).astype(np.float32) - start)
    return start


def _windows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gaussian means of `[..., H, W]` wherever the window fits: `[..., H - 10, W - 10]`."""
    down: NDArray[np.float32] = _window_matrix(x.shape[-2]) @ x
    return down @ _window_matrix(x.shape[-1]).T


@cache
def _window_matrix(size: int) -> NDArray[np.float32]:
    """`[size - 10, size]`: the window's weights along one axis, at each place where it fits."""
    offsets = np.arange(SSIM_SIDE) - SSIM_SIDE // 2
    kernel = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    matrix = np.zeros((size - SSIM_SIDE + 1, size), np.float32)
    for row in range(len(matrix)):
        matrix[row, row : row + SSIM_SIDE] = kernel / kernel.sum()
    return matrix
