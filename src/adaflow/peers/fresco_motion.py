"""How the frames of a FRESCO batch move into each other: flows, what is hidden, and paths through all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .flow import Flow, Picture, resized
from .warp import occluded, unlike


@dataclass(frozen=True)
class Motion:
    """The motion from each of f frames to the next, and from the last to the first.

    Attributes:
        ahead: From each frame to the next, ``[f, h, w, 2]`` in cells; `back`: from the next to each.
        lost_ahead: 1 where a frame shows what the next does not, ``[f, h, w]``; `lost_back`: where the next shows what
            it does not.
    """

    ahead: Tensor
    back: Tensor
    lost_ahead: Tensor
    lost_back: Tensor

    @classmethod
    def of(cls, pictures: Sequence[Picture], flow: Flow) -> Motion:
        """The motion between pictures ``[H, W, 3]`` uint8, estimated both ways, pixel by pixel.

        Hidden is what does not come home by the flows there and back, and what has another colour there.
        """
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for here, there in zip(pictures, [*pictures[1:], pictures[0]], strict=True):
            ahead, back = (torch.from_numpy(flow(a, b)) for a, b in ((here, there), (there, here)))
            one, other = (torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1) for x in (here, there))
            lost = occluded(ahead, back) | unlike(one, other, ahead)
            new = occluded(back, ahead) | unlike(other, one, back)
            found.append((ahead, back, lost.float(), new.float()))
        return cls(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def on_grid(self, grid: tuple[int, int]) -> Motion:
        """The same on a grid of cells (h, w): flows in its cells, and hidden is a cell of which any pixel is."""
        ahead, back = (torch.stack([resized(flow, grid, "bilinear") for flow in of]) for of in (self.ahead, self.back))
        lost = (F.adaptive_max_pool2d(of[:, None], grid)[:, 0] for of in (self.lost_ahead, self.lost_back))
        return Motion(ahead, back, *lost)

    def to(self, device: torch.device) -> Motion:
        """The same on a device."""
        return Motion(*(x.to(device) for x in (self.ahead, self.back, self.lost_ahead, self.lost_back)))

    def new_cells(self, grid: tuple[int, int]) -> Tensor:
        """Which cells ``[f, h * w]`` bool of each frame show mostly what the frame before does not; all of the first's.

        "Mostly": the mask, reduced bilinearly, exceeds a half.
        """
        reduced = F.interpolate(self.lost_back[:, None], size=grid, mode="bilinear")[:, 0]
        new = (reduced > 0.5).flatten(1)
        return torch.cat([torch.ones_like(new[:1]), new[:-1]])


@dataclass(frozen=True)
class Paths:
    """Paths through the f frames of a batch, one through each cell of each frame.

    Attributes:
        cells: The cell of every path in every frame, ``[f, N]``: each row holds every cell once.
        together: Which frames of a path follow the same point of the scene, ``[N, f, f]`` bool.
    """

    cells: Tensor
    together: Tensor

    @classmethod
    def along(cls, motion: Motion, pictures: Sequence[Picture], grid: tuple[int, int]) -> Paths:
        """The paths through pictures ``[H, W, 3]`` uint8 on a grid of cells (h, w), by the flows back."""
        small = motion.on_grid(grid)
        mostly = F.interpolate(motion.lost_back[:, None], size=grid, mode="bilinear")[:, 0] > 0.5
        colours = [_reduced(picture, grid) for picture in pictures]
        cells = [torch.arange(grid[0] * grid[1])]
        broken = [torch.zeros_like(cells[0])]  # how often each path has been broken so far
        for i, (here, there) in enumerate(pairwise(colours)):
            former, tied = partners(small.back[i], mostly[i], here, there)
            later = torch.empty_like(former)
            later[former] = torch.arange(len(former))
            cells.append(later[cells[-1]])
            broken.append(broken[-1] + (~tied[cells[-1]]).long())
        stretch = torch.stack(broken, dim=1)  # (N, f)
        return cls(torch.stack(cells), stretch[:, :, None] == stretch[:, None, :])

    def to(self, device: torch.device) -> Paths:
        """The same on a device."""
        return Paths(self.cells.to(device), self.together.to(device))


def partners(back: Tensor, lost: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """For each cell of a frame, the cell of the frame before that it comes from; each cell is taken once.

    Of several cells that come from one, that of the nearest colour has it. Cells that come from nowhere, or have lost
    theirs, get those left over, in order, and are tied to nothing.

    Args:
        back: The flow from the frame to the one before, in cells ``[h, w, 2]``.
        lost: Cells ``[h, w]`` bool that show what the frame before does not.
        here: Colours ``[3, h, w]`` of the frame before; `there`: of the frame.

    Returns:
        The partner of each cell ``[h * w]`` int64, and whether the two are tied ``[h * w]`` bool.
    """
    h, w = lost.shape
    moved = back.round().long()
    x, y = torch.arange(w)[None, :] + moved[..., 0], torch.arange(h)[:, None] + moved[..., 1]
    goes = ((x >= 0) & (x < w) & (y >= 0) & (y < h) & ~lost).flatten()
    target = torch.where(goes, (y * w + x).flatten(), 0)
    unlikeness = (there.flatten(1) - here.flatten(1)[:, target]).abs().mean(0)
    # of equal indices numpy keeps the last one written: the nearest colour, of equally near ones the first cell
    order = torch.arange(h * w - 1, -1, -1)
    order = order[goes[order]]
    order = order[unlikeness[order].argsort(descending=True, stable=True)]
    owner = np.full(h * w, -1)
    owner[target[order].numpy()] = order.numpy()
    taken = torch.from_numpy(owner)
    tied = goes & (taken[target] == torch.arange(h * w))
    partner = target.clone()
    partner[~tied] = (taken < 0).nonzero()[:, 0]
    return partner, tied


def _reduced(picture: Picture, grid: tuple[int, int]) -> Tensor:
    """A picture's colours ``[3, h, w]`` in levels, cell by cell."""
    levels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()
    return F.interpolate(levels[None], size=grid, mode="bilinear")[0]
