"""What DOVER looks at: 96 frames as mosaics of raw fragments, and 32 frames as small pictures.

Which frames and which fragments is drawn at random, at test time too; here always from a seed. Frames come one after
the other, and only what is taken of them is kept: 20 MB, however long the video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from .dover import Dover, Quality

SIDE, CELLS, CELL = 224, 7, 32
MEAN, SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class View:
    """How frames are drawn: from each of ``parts`` equal parts of the video ``run`` frames, ``step`` apart."""

    parts: int
    run: int
    step: int


TECHNICAL, AESTHETIC = View(3, 32, 2), View(32, 1, 2)


def draw_frames(frames: int, view: View, generator: torch.Generator) -> list[int]:
    """Numbers of the frames that a view shows of a video; they begin anew where the video is too short."""
    part, span = frames // view.parts, view.run * view.step
    found = []
    for number in range(view.parts):
        start = part * number + (_draw(part - span, generator) if part > span else 0)
        found += [(start + view.step * k) % frames for k in range(view.run)]
    return found


def draw_offsets(size: tuple[int, int], generator: torch.Generator) -> list[tuple[int, int]]:
    """Top left corners of the 49 fragments of a frame of this (height, width), row by row."""
    rooms = [max(0, length // CELLS - CELL) for length in size]
    corners = []
    for row in range(CELLS):
        for column in range(CELLS):
            y, x = (
                min(length // CELLS * place, max(0, length - CELL)) + _draw(room, generator)
                for length, place, room in zip(size, (row, column), rooms, strict=True)
            )
            corners.append((y, x))
    return corners


def mosaic(frame: NDArray[np.uint8], corners: list[tuple[int, int]]) -> NDArray[np.uint8]:
    """A frame's fragments side by side, ``[224, 224, 3]``.

    A frame with a side below 224 is enlarged first, and the corners stay those of the frame as it was, as in the
    published code: the fragments then cover the upper left of the picture only.
    """
    short = min(frame.shape[:2])
    if short < SIDE:
        size = tuple(int(length * SIDE / short) for length in frame.shape[:2])
        frame = scaled(frame, (max(SIDE, size[0]), max(SIDE, size[1])))
    made = np.empty((SIDE, SIDE, 3), np.uint8)
    for number, (y, x) in enumerate(corners):
        top, left = number // CELLS * CELL, number % CELLS * CELL
        made[top : top + CELL, left : left + CELL] = frame[y : y + CELL, x : x + CELL]
    return made


def scaled(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame at another (height, width): bilinear, without antialiasing, rounded to levels."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    made = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=False)
    return made[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def normalised(frames: NDArray[np.uint8], run: int) -> Tensor:
    """Frames ``[n, H, W, 3]`` as clips ``[n / run, 3, run, H, W]``, as the networks expect them."""
    pixels = (torch.from_numpy(frames).float() - torch.tensor(MEAN)) / torch.tensor(SPREAD)
    return pixels.unflatten(0, (-1, run)).permute(0, 4, 1, 2, 3)


class Views:
    """Takes the frames of a video in order, and then shows both views of it.

    Args:
        frames: How many will come.
        seed: Of what is drawn.
    """

    def __init__(self, frames: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._count = 0
        self._wanted: list[dict[int, list[int]]] = []  # for each view the places that a frame goes to
        self._made: list[NDArray[np.uint8]] = []
        for view in (TECHNICAL, AESTHETIC):
            places: dict[int, list[int]] = {}
            for place, number in enumerate(draw_frames(frames, view, self._generator)):
                places.setdefault(number, []).append(place)
            self._wanted.append(places)
            self._made.append(np.zeros((view.parts * view.run, SIDE, SIDE, 3), np.uint8))
        self._corners: list[list[tuple[int, int]]] = []

    def add(self, frame: NDArray[np.uint8]) -> None:
        """The next frame ``[H, W, 3]``."""
        if not self._corners:  # once for each clip, and the same in all of its frames
            height, width = frame.shape[:2]
            self._corners = [draw_offsets((height, width), self._generator) for _ in range(TECHNICAL.parts)]
        now, self._count = self._count, self._count + 1
        technical, aesthetic = self._wanted
        for place in technical.get(now, ()):
            self._made[0][place] = mosaic(frame, self._corners[place // TECHNICAL.run])
        if now in aesthetic:
            small = scaled(frame, (SIDE, SIDE))
            for place in aesthetic[now]:
                self._made[1][place] = small

    def judged(self, model: Dover, device: torch.device) -> Quality:
        """What DOVER says of the video; `model` is on `device`."""
        technical, aesthetic = (
            normalised(made, view.run if view is TECHNICAL else view.parts).to(device)
            for made, view in zip(self._made, (TECHNICAL, AESTHETIC), strict=True)
        )
        quality: Quality = model(technical, aesthetic)
        return quality


def _draw(below: int, generator: torch.Generator) -> int:
    """A whole number from 0, below `below`; 0 where that leaves no choice."""
    return int(torch.randint(below, (1,), generator=generator)) if below > 0 else 0
