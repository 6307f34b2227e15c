"""DOVER's aesthetic branch: ConvNeXt-Tiny with a time axis.

Z. Liu et al. 2022 (https://arxiv.org/abs/2201.03545), H. Wu et al. 2023 (https://arxiv.org/abs/2211.04894). The names
of parameters are those of the published checkpoint.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

WIDTHS, DEPTHS = (96, 192, 384, 768), (3, 3, 9, 3)
KERNELS = (1, 3, 1)  # along time, by a block's number in its stage
EPSILON = 1e-6
Shape = tuple[int, int, int]
STEM: Shape = (2, 4, 4)
HALVING: Shape = (1, 2, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of ``[B, C, D, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """A wide convolution of each channel by itself, then an MLP in each place."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(width, width, (kernel, 7, 7), padding=(kernel // 2, 3, 3), groups=width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), EPSILON))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` to the same."""
        y = self.norm(self.dwconv(x).movedim(1, -1))
        y = self.gamma * self.pwconv2(gelu(self.pwconv1(y)))
        return x + y.movedim(-1, 1)


class ConvNext3d(nn.Module):
    """The aesthetic branch: clips ``[B, 3, 32, 224, 224]`` to features ``[B, 768, 16, 7, 7]``."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv3d(3, WIDTHS[0], STEM, STEM), ChannelNorm(WIDTHS[0], eps=EPSILON))
        down = (
            nn.Sequential(ChannelNorm(wide, eps=EPSILON), nn.Conv3d(wide, wider, HALVING, HALVING))
            for wide, wider in pairwise(WIDTHS)
        )
        self.downsample_layers = nn.ModuleList([stem, *down])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, KERNELS[b % len(KERNELS)]) for b in range(depth)))
            for width, depth in zip(WIDTHS, DEPTHS, strict=True)
        )
        self.norm = ChannelNorm(WIDTHS[-1], eps=EPSILON)

    def forward(self, clips: Tensor) -> Tensor:
        """See the class."""
        x = clips
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        features: Tensor = self.norm(x)
        return features
