"""Local edits: a mask says where a video is edited, and everything else stays the source's.

White is edited, black stays, grey is between. After every step the latents outside the mask are set back to the
inversion's of the next timestep, so that both halves of a picture are always equally noisy and the edit grows into its
surroundings (blended latent diffusion, https://arxiv.org/abs/2206.02779, with inverted instead of fresh noise). After
decoding, the source's own pixels are put back there (`mask.restore`), since the autoencoder changes all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .colour import Picture, resized
from .config import MaskConfig
from .diskarray import DiskArray
from .errors import InputError
from .mask_source import check_mask, levels
from .run import Run, batched
from .video import VideoSource
from .workspace import Stage

READ_AT_ONCE = 16
"""Frames of a mask that are prepared together."""


def mask_stage(run: Run, mask: VideoSource) -> Stage:
    """The mask as the edit uses it, in `MaskArrays`; one frame if it stands still.

    Raises:
        InputError: It has another number of frames or another shape than the video, or leaves nothing to edit.
    """
    geometry, config = run.geometry, run.config.mask
    shape = {"invert": config.invert, "grow": config.grow, "feather": config.feather}
    stage = run.stage("mask", {"mask": mask.fingerprint(), "size": [geometry.content, geometry.padded], **shape})
    if stage.complete:
        return stage
    check_mask(mask, run.source)
    frames = mask.info.frames
    arrays = MaskArrays.new(stage, run, frames)
    done, most = 0, 0
    for pictures in batched(mask.frames(geometry.content), READ_AT_ONCE):
        soft = softened(torch.from_numpy(np.stack([levels(picture) for picture in pictures])), config)
        arrays.write(done, geometry.pad(soft))
        done, most = done + len(pictures), max(most, int(soft.max()))
        run.report("mask", done, frames)
    if not most:
        colour = "black" if config.invert else "white"
        raise InputError(f"the mask leaves nothing to edit: what is {colour} in it is edited")
    stage.finish()
    return stage


def softened(mask: Tensor, config: MaskConfig) -> Tensor:
    """A mask ``[b, H, W]`` in [0, 1], exchanged, grown and feathered as is asked, as uint8.

    The feather lies outside of what is grown: all that was white stays so.
    """
    mask = (1 - mask if config.invert else mask)[:, None]
    reach, feather = config.grow + config.feather, config.feather
    for kernel, padding in (((1, 2 * reach + 1), (0, reach)), ((2 * reach + 1, 1), (reach, 0))):
        mask = F.max_pool2d(mask, kernel, stride=1, padding=padding)
    mask = F.pad(mask, (feather,) * 4, mode="replicate")
    for kernel in ((1, 2 * feather + 1), (2 * feather + 1, 1)):
        mask = F.avg_pool2d(mask, kernel, stride=1)
    return (255 * mask[:, 0]).round().to(torch.uint8)


@dataclass(frozen=True)
class MaskArrays:
    """How much is edited, of 255; one row is the same for every frame.

    Attributes:
        mask: Of each pixel, ``[n, H, W]`` uint8 of padded size.
        cells: Of each latent ``[n, h, w]`` uint8: found once, since every step asks.
    """

    mask: DiskArray
    cells: DiskArray

    @classmethod
    def new(cls, stage: Stage, run: Run, frames: int) -> MaskArrays:
        """Those of a stage that is begun."""
        sizes = {"mask": run.geometry.padded, "cells": run.latent_size}
        return cls(**{name: stage.array(name, (frames, *size), torch.uint8) for name, size in sizes.items()})

    @classmethod
    def of(cls, stage: Stage) -> MaskArrays:
        """Those of a stage that is complete."""
        return cls(stage.existing("mask"), stage.existing("cells"))

    def write(self, start: int, soft: Tensor) -> None:
        """Write frames ``[f, H, W]`` uint8 from `start` on."""
        self.mask.write(start, soft)
        cells = of_cells(soft.float(), self.mask.shape[-1] // self.cells.shape[-1])
        self.cells.write(start, cells[:, 0].to(torch.uint8))


@dataclass(frozen=True)
class LocalEdit:
    """Where a video is edited, and what it is elsewhere.

    Attributes:
        arrays: The mask.
        clean: The source's clean latents ``[n, c, h, w]``.
    """

    arrays: MaskArrays
    clean: DiskArray

    def shares(self, frames: Sequence[int] | range) -> Tensor:
        """How much of each pixel of some frames is edited: ``[f, H, W]`` in [0, 1], or ``[1, H, W]``."""
        return shares_in(self.arrays.mask, frames)

    def of_latents(self, frames: Sequence[int] | range) -> Tensor:
        """The same of latents, ``[f, 1, h, w]`` or ``[1, 1, h, w]``: a cell's is the most of its pixels'."""
        return shares_in(self.arrays.cells, frames)[:, None]

    def restored(self, edited: Tensor, source: Tensor, frames: range) -> Tensor:
        """Edited pictures ``[f, H, W, 3]`` uint8 of padded size with the source's pixels where nothing is edited."""
        return mixed(edited, source, self.shares(frames))


@dataclass(frozen=True)
class Kept:
    """What an edited video of another size takes from its source: see `full_size`.

    Attributes:
        source: The video that was edited.
        mask: As in `MaskArrays`, from a file that may be gone.
        content: (H, W) of the frames in `mask`, which are padded.
    """

    source: VideoSource
    mask: DiskArray
    content: tuple[int, int]

    def full_size(self, edited: Iterator[Picture]) -> Iterator[Picture]:
        """Edited frames at the source's size, sharp where nothing is edited: there they are the source's own."""
        h, w = self.content
        size = self.source.info.height, self.source.info.width
        for number, (picture, own) in enumerate(zip(edited, self.source.frames(), strict=True)):
            row = 0 if len(self.mask) == 1 else number
            mask = self.mask.read(row, row + 1)[0, :h, :w].numpy()
            scaled = np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.BILINEAR))
            edit, source, shares = (torch.from_numpy(part)[None] for part in (resized(picture, size), own, scaled))
            yield mixed(edit, source, shares.float() / 255)[0].numpy()


def shares_in(mask: DiskArray, frames: Sequence[int] | range) -> Tensor:
    """How much of some frames is edited, in [0, 1], by one of the `MaskArrays`."""
    rows = [0] if len(mask) == 1 else list(frames)
    return mask.rows(rows).float() / 255


def of_cells(shares: Tensor, side: int) -> Tensor:
    """Shares of pixels ``[f, H, W]`` as those of latents ``[f, 1, h, w]``: the most of a cell's, `side` pixels long."""
    return F.max_pool2d(shares[:, None], side)


def mixed(edited: Tensor, source: Tensor, shares: Tensor) -> Tensor:
    """Pictures ``[f, H, W, 3]`` uint8, of which a share ``[f, H, W]`` is the edited one; 0 and 1 are exact."""
    return torch.lerp(source.float(), edited.float(), shares[..., None]).round().to(torch.uint8)


def set_back(edited: Tensor, source: Tensor, shares: Tensor) -> Tensor:
    """Latents ``[f, c, h, w]`` with the source's at the same noise where nothing is edited, shares ``[f, 1, h, w]``."""
    return torch.lerp(source.to(edited), edited, shares.to(edited))
