"""Pictures carried along optical flow, and where that cannot be: the measures of Rerender-A-Video and FRESCO.

A flow ``[H, W, 2]`` of frame a towards frame b holds for each pixel p the displacement d with a(p) like b(p + d).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

RELATIVE, ABSOLUTE = 0.01, 1.0
"""Of the test there and back: how far the two may miss. Published: 0.5 pixels; DIS is coarser than GMFlow."""

GROWN = 3
"""Pixels of the square by which occlusions are grown, for the same reason."""


OTHER_COLOUR = 0.25 * 255
"""Levels, in the mean of the channels, beyond which a pixel is not the one that the flow leads to (FRESCO)."""


def warped(picture: Tensor, flow: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """The picture ``[C, H, W]`` of b on the grid of a, by a's flow towards b; 0 where it leads outside."""
    return all_warped(picture[None], flow[None], mode)[0]


def all_warped(pictures: Tensor, flows: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """`warped` for several: pictures ``[b, C, H, W]`` by flows ``[b, H, W, 2]``."""
    h, w = flows.shape[1:3]
    rows, columns = torch.meshgrid(
        torch.arange(h, device=flows.device), torch.arange(w, device=flows.device), indexing="ij"
    )
    x, y = columns + flows[..., 0], rows + flows[..., 1]
    grid = torch.stack([2 * x / max(w - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1], dim=-1)
    return F.grid_sample(pictures.to(torch.float32), grid, mode=mode, padding_mode="zeros", align_corners=True)


def occluded(flow: Tensor, back: Tensor) -> Tensor:
    """Which pixels of a are not to be seen in b, ``[H, W]`` bool: going there and back does not lead home.

    Args:
        flow: Of a towards b; `back`: of b towards a.
    """
    home = warped(back.permute(2, 0, 1), flow).permute(1, 2, 0)
    missed = (flow + home).norm(dim=-1)
    lost = missed > RELATIVE * (flow.norm(dim=-1) + back.norm(dim=-1)) + ABSOLUTE
    return grown((lost | ~inside(flow)).float(), GROWN) > 0.5


def unlike(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """Which pixels ``[H, W]`` of a have another colour where the flow leads in b (FRESCO's second test).

    Args:
        here: a's colours ``[3, H, W]`` in levels; `there`: b's.
        flow: Of a towards b.
    """
    return (here.float() - warped(there, flow)).abs().mean(0) > OTHER_COLOUR


def inside(flow: Tensor) -> Tensor:
    """Which pixels ``[H, W]`` the flow leaves in the picture."""
    h, w = flow.shape[:2]
    x, y = torch.arange(w) + flow[..., 0], torch.arange(h)[:, None] + flow[..., 1]
    return (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)


def composed(first: Tensor, then: Tensor) -> Tensor:
    """The flow of a towards c, from those of a towards b and of b towards c."""
    return first + warped(then.permute(2, 0, 1), first).permute(1, 2, 0)


def grown(mask: Tensor, side: int) -> Tensor:
    """A mask ``[H, W]`` in [0, 1] of which every pixel has the most of the square of an odd `side` around it."""
    return F.max_pool2d(mask[None, None], side, stride=1, padding=side // 2)[0, 0]


def softened(mask: Tensor) -> Tensor:
    """A mask ``[H, W]`` with a soft edge outside it: grown by 9, blurred over 9 pixels, and itself, at most 1."""
    near = torch.arange(9.0) - 4
    weights = torch.exp(-near.square() / (2 * 18.0**2))
    weights = weights / weights.sum()
    padded = F.pad(grown(mask, 9)[None, None], (4, 4, 4, 4), mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, 9)), weights.view(1, 1, 9, 1))[0, 0]
    return (blurred + mask).clamp(0, 1)


def on_latents(mask: Tensor, factor: int) -> Tensor:
    """A mask of pixels as one of latent cells ``[h, w]``: the most of what each cell covers."""
    return F.max_pool2d(mask[None, None], factor)[0, 0]
