"""RAVE (Kara et al., https://arxiv.org/abs/2312.04524) without its ControlNet: frames are laid out in one picture.

A picture of several frames is denoised as one, so that its self-attention joins them; at every step other frames share
a picture. RAVE's structure comes from a ControlNet; here it comes from Plug-and-Play injection, laid out likewise,
which is why the method is called ``rave-pnp``.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import torch
from torch import Tensor

from ..attention import KeyPass
from ..diskarray import DiskArray
from ..editing import Step
from ..run import spans
from .peer import read
from .pnp import PUBLISHED
from .stepwise import Prediction, Stepwise


class RavePnP(Stepwise):
    """Frames laid out in pictures of g x g, dealt out anew at every step."""

    name = "rave-pnp"
    title = "RAVE, PnP for ControlNet"
    about = "Frames laid out two by two in one picture, dealt out anew at every step; in chunks of 16 frames."
    published = MappingProxyType(
        {**PUBLISHED, "inversion_steps": 50, "negative_prompt": "", "peers.chunk": 16, "peers.grid": 2}
    )

    def predict(self, step: Step, chunk: range, latents: DiskArray, source: DiskArray) -> Iterator[Prediction]:
        """See `Stepwise`; as many pictures a call as the plan has rows for."""
        bench, side = self.bench, self.config.peers.grid
        area = side * side
        dealt = self.random(step).permutation(-(-len(chunk) // area) * area).tolist()
        slots = [filled(chunk, slot) for slot in dealt]
        at_once = max(1, bench.rows // (len(step.branches) * area)) * area
        for span in spans(0, len(slots), at_once):
            frames = slots[span.start : span.stop]
            z, inverted = laid_out(read(latents, frames), side), laid_out(read(source, frames), side)
            alone = KeyPass(step.branches, len(z), extended=False, injected=self.injected(step))
            noise = bench.predict(step, step.branches, z, inverted, range(len(z)), alone.processor, self.features)
            real = [i for i, slot in enumerate(dealt[span.start : span.stop]) if slot < len(chunk)]
            if real:
                parts = [cut_up(of, side)[real] for of in noise.chunk(len(step.edited))]
                yield [frames[i] for i in real], torch.cat(parts)

    def guidance(self, step: Step) -> float:
        """None at the first step, as published: guidance begins *after* the share 0 of the steps."""
        return self.config.guidance_scale if step.number else 0.0


def filled(chunk: range, slot: int) -> int:
    """The frame in a slot; the slots that are left over in the last picture repeat the last frames, backwards."""
    if slot < len(chunk):
        return chunk[slot]
    return chunk[max(0, 2 * len(chunk) - 1 - slot)]


def laid_out(frames: Tensor, side: int) -> Tensor:
    """Frames ``[S side^2, c, h, w]`` as pictures ``[S, c, side h, side w]``, row by row."""
    pictures = frames.unflatten(0, (-1, side, side))  # (S, row, column, c, h, w)
    return pictures.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def cut_up(pictures: Tensor, side: int) -> Tensor:
    """The inverse of `laid_out`."""
    parts = pictures.unflatten(3, (side, -1)).unflatten(2, (side, -1))  # (S, c, row, h, column, w)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
