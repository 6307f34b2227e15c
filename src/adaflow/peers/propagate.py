"""Frames between two edited keyframes, carried along optical flow from both and merged in the gradient domain.

The stand-in for EbSynth's patch synthesis in Rerender-A-Video (Yang et al., https://arxiv.org/abs/2306.07954),
whose merging of the two sides is kept: a mask by the errors, means of the same contrast, and gradients without seams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .flow import Flow, Picture
from .warp import composed, occluded, warped

LOST = 255.0
"""The error of a pixel that a side cannot give: more than any colour's."""

STEEPEST = 100.0
"""Levels between neighbouring pixels beyond which a gradient is cut."""

WEIGHTS = (2.5, 0.5, 0.5)
"""Of the gradients against the mean, for lightness and both colour axes."""


@dataclass(frozen=True)
class Side:
    """What one keyframe gives for the frames of a gap.

    Attributes:
        pictures: The edited keyframe on each frame's grid, ``[3, H, W]`` float32 in levels.
        errors: How unlike the source keyframe the frame is there, ``[H, W]`` in levels.
        lost: Which pixels it cannot give, ``[H, W]`` bool.
    """

    pictures: list[Tensor]
    errors: list[Tensor]
    lost: list[Tensor]


def carried(frames: Sequence[Picture], edited: Picture, flow: Flow) -> Side:
    """The edit of the first of `frames` on the grids of the others, by flows from each frame to the one before."""
    source, result = _levels(frames[0]), _levels(edited)
    side = Side([], [], [])
    whole: Tensor | None = None
    lost: Tensor | None = None
    for before, frame in pairwise(frames):
        back, forth = (torch.from_numpy(flow(a, b)) for a, b in ((frame, before), (before, frame)))
        new = occluded(back, forth)
        whole = back if whole is None else composed(back, whole)
        lost = new if lost is None else new | (warped(lost[None].float(), back)[0] > 0.5)
        missed = (_levels(frame) - warped(source, whole)).abs().mean(0)
        side.pictures.append(warped(result, whole))
        side.errors.append(_blurred(missed) + LOST * lost)
        side.lost.append(lost)
    return side


def between(frames: Sequence[Picture], left: Picture, right: Picture, flow: Flow) -> Iterator[Picture]:
    """The frames strictly between two keyframes.

    Args:
        frames: The source's frames ``[H, W, 3]`` uint8, both keyframes among them.
        left: The first keyframe edited; `right`: the last.
        flow: The optical flow.

    Yields:
        Frames ``[H, W, 3]`` uint8, in order.
    """
    ahead = carried(frames, left, flow)
    behind = carried(frames[::-1], right, flow)
    former: Tensor | None = None
    for number in range(1, len(frames) - 1):
        here, there = number - 1, len(frames) - 2 - number
        share = number / (len(frames) - 1)
        later = share * ahead.errors[here] >= (1 - share) * behind.errors[there]  # this pixel is taken from the right
        if former is not None:  # what was once taken from the right stays so
            back = torch.from_numpy(flow(frames[number], frames[number - 1]))
            later = later | (warped(former[None].float(), back)[0] > 0.5)
        former = later
        a, b = without_holes(ahead.pictures[here], behind.pictures[there], ahead.lost[here], behind.lost[there])
        yield merge(a, b, later, share)


def without_holes(a: Tensor, b: Tensor, lost_a: Tensor, lost_b: Tensor) -> tuple[Tensor, Tensor]:
    """Both pictures ``[3, H, W]`` without holes: what one has lost is the other's, or continued (Telea)."""
    a, b = torch.where(lost_a & ~lost_b, b, a), torch.where(lost_b & ~lost_a, a, b)
    holes = lost_a & lost_b
    if not bool(holes.any()):
        return a, b
    cv2, mask = _opencv(), holes.numpy().astype(np.uint8)
    images = (x.permute(1, 2, 0).round().clamp(0, 255).byte().numpy() for x in (a, b))
    one, other = (_levels(cv2.inpaint(np.ascontiguousarray(x), mask, 5, cv2.INPAINT_TELEA)) for x in images)
    return torch.where(holes, one, a), torch.where(holes, other, b)


def merge(a: Tensor, b: Tensor, later: Tensor, share: float) -> Picture:
    """One picture of two, in Lab: gradients of one or the other by a mask, about a mean of both that keeps contrast.

    Args:
        a: From the left keyframe, ``[3, H, W]`` in levels; `b`: from the right one.
        later: Which pixels are b's, ``[H, W]`` bool.
        share: b's weight in the mean.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    one, other = _lab(a), _lab(b)
    chosen = torch.where(later, other, one)
    mean = (1 - share) * standardised(one) + share * standardised(other)
    centre, spread = chosen.mean((1, 2), keepdim=True), chosen.std((1, 2), keepdim=True)
    target = standardised(mean) * spread + centre
    channels = []
    for c, weight in enumerate(WEIGHTS):
        across = torch.where(later[:, 1:], other[c].diff(dim=1), one[c].diff(dim=1)).clamp(-STEEPEST, STEEPEST)
        down = torch.where(later[1:], other[c].diff(dim=0), one[c].diff(dim=0)).clamp(-STEEPEST, STEEPEST)
        channels.append(from_gradients(target[c], across, down, weight))
    return _rgb(torch.stack(channels))


def standardised(x: Tensor) -> Tensor:
    """Channels ``[C, H, W]`` of mean 0 and deviation 1; a constant one is 0."""
    spread = x.std((1, 2), keepdim=True)
    return (x - x.mean((1, 2), keepdim=True)) / spread.clamp(min=1e-6)


def from_gradients(target: Tensor, across: Tensor, down: Tensor, weight: float) -> Tensor:
    """The x ``[H, W]`` for which ``|x - target|^2 + weight^2 |gradient of x - (across, down)|^2`` is least.

    Solved exactly: the cosine transform turns the equations into one division a coefficient.

    Args:
        across: Wanted differences ``[H, W - 1]`` to the right; `down`: ``[H - 1, W]`` downwards.
    """
    h, w = target.shape
    right = target.double().clone()
    strength = weight**2
    right[:, 1:] += strength * across
    right[:, :-1] -= strength * across
    right[1:] += strength * down
    right[:-1] -= strength * down
    rows, columns = cosines(h), cosines(w)
    bend = [2 - 2 * torch.cos(torch.pi * torch.arange(n, dtype=torch.float64) / n) for n in (h, w)]
    spectrum = rows @ right @ columns.T / (1 + strength * (bend[0][:, None] + bend[1]))
    return (rows.T @ spectrum @ columns).to(target.dtype)


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of n samples as a matrix ``[n, n]``, float64."""
    k, x = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi * (x + 0.5) * k / n) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def _levels(picture: Picture) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()


def _blurred(errors: Tensor) -> Tensor:
    return F.avg_pool2d(errors[None, None], 5, stride=1, padding=2, count_include_pad=False)[0, 0]


def _lab(picture: Tensor) -> Tensor:
    cv2 = _opencv()
    image = picture.permute(1, 2, 0).clamp(0, 255).div(255).contiguous().numpy()
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)).permute(2, 0, 1)


def _rgb(lab: Tensor) -> Picture:
    cv2 = _opencv()
    image = cv2.cvtColor(lab.permute(1, 2, 0).float().contiguous().numpy(), cv2.COLOR_LAB2RGB)
    levels: NDArray[np.uint8] = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return levels


def _opencv() -> Any:
    import cv2  # there, because the flow is: `flow_by` has asked for it

    return cv2
