"""An edited video measured against the truth: what was asked, what a perfect edit shows, how everything really moves.

The world is rendered, so the right answer is known for every frame. All measures are taken in one pass over the
frames; memory does not grow with their number. Definitions, ranges and traps: docs/benchmark-metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .answers import Answers, Classifier
from .images import psnr, ssim
from .mean import Mean
from .motion import FEWEST, Motion

if TYPE_CHECKING:
    from ..suites import Case, Edit


class Frames(Protocol):
    """Pictures `[H, W, 3]` uint8 that can be counted and read once, in order: a list, an array, a `Film`, a reader."""

    def __len__(self) -> int:
        """How many."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Each of them, in order."""


def measure(
    case: Case, edit: Edit, frames: Frames, *, borders: Sequence[int] | None, classifier: Classifier
) -> dict[str, float | None]:
    """Every measure of one edited video, by name.

    Args:
        case: The source video, with its true motion.
        edit: The edit that was asked for, with its ground-truth target.
        frames: The edited video, lossless. Where it is longer or shorter than the source, the frames both have count.
        borders: First frames of the clips or chunks the method worked in, without frame 0 and with true cuts or not;
            None where it has none.
        classifier: Reads the attributes of a frame.

    Returns:
        `success`, `kept`, `readable`, `psnr`, `ssim`, `gain`, `unedited_psnr`, `warp`, `warp_relative`, `flicker`,
        `drift`, `seam`, `motion` and `frames`; None for what this video cannot tell.

    Raises:
        InputError: there is no frame.
        ValueError: a frame is not uint8 or not of the source's size.
    """
    count = min(len(frames), len(case.film))
    if not count:
        raise InputError("the edited video has no frames to measure")
    answers, motion = Answers(edit, classifier), Motion(case, edit, count, borders)
    fidelity, likeness, gain, unedited = Mean(), Mean(), Mean(), Mean()
    for _, edited, target, source in zip(range(count), frames, edit.target, case.film, strict=False):
        if edited.dtype != np.uint8 or edited.shape != source.shape:
            raise ValueError(f"a frame is {edited.dtype} {edited.shape}; wanted uint8 {source.shape}")
        answers.add(edited, target)
        motion.add(edited, target)
        to_target = psnr(edited, target)
        fidelity.add(to_target)
        likeness.add(ssim(edited, target))
        gain.add(to_target - psnr(source, target))
        untouched = (source == target).all(axis=-1)
        if edit.kind != "style" and untouched.mean() >= FEWEST:
            unedited.add(psnr(edited, source, untouched))
    return {
        **answers.results(),
        "psnr": fidelity.value,
        "ssim": likeness.value,
        "gain": gain.value,
        "unedited_psnr": unedited.value,
        **motion.results(),
        "frames": fidelity.count,
    }
