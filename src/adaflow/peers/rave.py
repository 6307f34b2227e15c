"""RAVE (Kara et al., https://arxiv.org/abs/2312.04524): frames are laid out in one picture.

A picture of several frames is denoised as one, so that its self-attention joins them; at every step other frames share
a picture. RAVE's structure comes from a ControlNet (`Rave`). Where there is none, it comes from Plug-and-Play
injection, laid out likewise (`RavePnP`), which is not RAVE and is called ``rave-pnp``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import stages
from ..attention import KeyPass
from ..config import PeerConfig
from ..diskarray import DiskArray
from ..errors import MissingError
from ..run import spans
from ..steps import Step
from ..workspace import Stage
from .control import ControlNet, ControlPictures, default_controlnet
from .peer import Bench, read
from .pnp import PUBLISHED
from .stepwise import Prediction, Stepwise

LAID_OUT = MappingProxyType(
    {**PUBLISHED, "inversion_steps": 50, "negative_prompt": "", "peers.chunk": 16, "peers.grid": 2}
)


class LaidOut(Stepwise):
    """Frames laid out in pictures of g x g, dealt out anew at every step."""

    def predict(self, step: Step, chunk: range, latents: DiskArray, source: DiskArray) -> Iterator[Prediction]:
        """See `Stepwise`; as many pictures a call as the plan has rows for."""
        side, step = self.config.peers.grid, self.in_step(step)
        area = side * side
        dealt = self.random(step).permutation(-(-len(chunk) // area) * area).tolist()
        slots = [filled(chunk, slot) for slot in dealt]
        at_once = max(1, self.bench.rows // (len(step.branches) * area)) * area
        for span in spans(0, len(slots), at_once):
            frames = slots[span.start : span.stop]
            z, inverted = laid_out(read(latents, frames), side), laid_out(read(source, frames), side)
            noise = self.predict_pictures(step, frames, z, inverted)
            real = [i for i, slot in enumerate(dealt[span.start : span.stop]) if slot < len(chunk)]
            if real:
                parts = [cut_up(of, side)[real] for of in noise.chunk(len(step.edited))]
                yield [frames[i] for i in real], torch.cat(parts)

    def in_step(self, step: Step) -> Step:
        """A step as this system has it."""
        return step

    @abstractmethod
    def predict_pictures(self, step: Step, frames: Sequence[int], pictures: Tensor, inverted: Tensor) -> Tensor:
        """The edit branches' predictions ``[2S, c, g h, g w]`` for S pictures.

        Args:
            frames: The frames laid out in them, in order.
            pictures: The edit's latents ``[S, c, g h, g w]``; `inverted`: the inversion's, laid out alike.
        """

    def plainly(self, step: Step, pictures: Tensor, inverted: Tensor) -> Tensor:
        """`predict_pictures` by the model as it is, with what is injected in the step."""
        alone = KeyPass(step.branches, len(pictures), extended=False, injected=self.injected(step))
        rows, features = range(len(pictures)), self.features
        return self.bench.predict(step, step.branches, pictures, inverted, rows, alone.processor, features)

    def guidance(self, step: Step) -> float:
        """None at the first step, as published: guidance begins *after* the share 0 of the steps."""
        return self.config.guidance_scale if step.number else 0.0


class RavePnP(LaidOut):
    """RAVE's pictures, with the structure from Plug-and-Play injection."""

    name = "rave-pnp"
    title = "RAVE, PnP for ControlNet"
    about = "Frames laid out two by two in one picture, dealt out anew at every step; in chunks of 16 frames."
    published = LAID_OUT

    def predict_pictures(self, step: Step, frames: Sequence[int], pictures: Tensor, inverted: Tensor) -> Tensor:
        """See `LaidOut`."""
        return self.plainly(step, pictures, inverted)


class Rave(LaidOut):
    """RAVE: the structure from a ControlNet, in the inversion as well; nothing is injected."""

    name = "rave"
    title = "RAVE"
    about = "As rave-pnp, with the structure from a ControlNet that you name; in chunks of 16 frames."
    published = MappingProxyType(
        {
            **LAID_OUT,
            "peers.control": "depth",
            "peers.control_scale": 1.0,
            "peers.detector": "Intel/zoedepth-nyu-kitti",
        }
    )
    own_inversion = True

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        place = bench.config.peers.controlnet or default_controlnet()
        if place is None:
            raise MissingError(NO_CONTROLNET)
        self.control = ControlNet.load(place, bench.backbone, bench.config.peers.control_scale)
        self._pictures: DiskArray | None = None

    @classmethod
    def missing(cls, peers: PeerConfig) -> str | None:
        """See `Peer`."""
        return None if peers.controlnet or default_controlnet() else NO_CONTROLNET

    def key(self) -> dict[str, Any]:
        """See `Peer`: and the ControlNet's weights."""
        return super().key() | {"controlnet": self.control.fingerprint}

    def prepare(self, latents: Stage) -> list[Stage]:
        """What every frame looks like to the ControlNet: array ``pictures`` ``[n, 3, H, W]`` uint8."""
        run, peers = self.bench.run, self.config.peers
        stage = run.stage("control", {"control": peers.control, "detector": peers.detector}, latents)
        pictures = stage.array("pictures", (run.frames, 3, *run.geometry.padded), torch.uint8)
        if not stage.complete:
            look, number = ControlPictures(peers, self.bench.backbone), stage.done
            for batch in stages.read_frames(run, start=number):
                for frame in batch:
                    seen = (look(np.asarray(frame)) * 255).round().to(torch.uint8)
                    pictures.write(number, seen[None])
                    number += 1
                    stage.advance(number)
                    run.report("match", number, run.frames)
            stage.finish()
        run.report("match", run.frames, run.frames)
        self._pictures = pictures
        return [stage]

    def inverted_at_once(self, chunk: range) -> Iterator[range]:
        """See `Stepwise`: frames by themselves, as many as the plan has rows for."""
        return spans(chunk.start, chunk.stop, self.bench.rows)

    def inverting(self, chunk: range) -> AbstractContextManager[None]:
        """See `Stepwise`: with the ControlNet."""
        return self.control.steering(self.bench.backbone.unet, self._shown(chunk))

    def in_step(self, step: Step) -> Step:
        """See `LaidOut`: nothing is injected."""
        return replace(step, features=False, attention=False)

    def predict_pictures(self, step: Step, frames: Sequence[int], pictures: Tensor, inverted: Tensor) -> Tensor:
        """See `LaidOut`: with what the ControlNet is shown laid out like the frames."""
        shown = laid_out(self._shown(frames), self.config.peers.grid)
        with self.control.steering(self.bench.backbone.unet, shown):
            return self.plainly(step, pictures, inverted)

    def _shown(self, frames: Sequence[int]) -> Tensor:
        if self._pictures is None:
            raise ValueError("the pictures for the ControlNet are not prepared")
        return self._pictures.rows(frames).float() / 255


NO_CONTROLNET = (
    "rave takes the structure from a ControlNet, and there is none: name a folder or a hub id with --peers.controlnet, "
    "such as lllyasviel/control_v11f1p_sd15_depth, or put one into weights/controlnet of adaflow's cache; without one "
    "there is rave-pnp"
)


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
