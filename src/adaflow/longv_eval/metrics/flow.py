"""Motion estimated from pictures, where no truth is known: OpenCV's DIS flow, and which of it can be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...peers.flow import flow_by
from .images import sample

Picture = NDArray[np.uint8]
Field = NDArray[np.float32]
"""``[H, W, 2]``: where each pixel goes, right and down, in pixels."""
Flow = Callable[[Picture, Picture], Field]
"""The field from one picture ``[H, W, 3]`` to another."""

RELATIVE, ABSOLUTE = 0.01, 0.5  # N. Sundaram et al. 2010: how far there and back may miss, squared
SMALLEST = 32  # pixels a side, for an estimate


class DisFlow:
    """Dense inverse search (T. Kroeger et al. 2016, https://arxiv.org/abs/1603.03590), OpenCV's medium preset.

    Raises:
        MissingError: OpenCV is not installed.
    """

    def __init__(self) -> None:
        self._flow = flow_by("dis")

    def __call__(self, here: Picture, there: Picture) -> Field:
        """See `Flow`."""
        if min(here.shape[:2]) < SMALLEST:
            raise InputError(f"frames of {here.shape[1]}x{here.shape[0]} are too small to estimate motion from")
        return self._flow(here, there)


@dataclass(frozen=True)
class PairFlow:
    """Motion between a frame and the next.

    Attributes:
        ahead: From the first to the second.
        back: From the second to the first.
        seen_ahead: Pixels ``[H, W]`` of the first that can be followed to the second.
        seen_back: Pixels of the second that can be followed to the first.
    """

    ahead: Field
    back: Field
    seen_ahead: NDArray[np.bool_]
    seen_back: NDArray[np.bool_]

    @classmethod
    def between(cls, flow: Flow, first: Picture, second: Picture) -> PairFlow:
        """Estimated both ways; believed where going there and back leads home."""
        ahead, back = flow(first, second), flow(second, first)
        return cls(ahead, back, returns(ahead, back), returns(back, ahead))


def returns(there: Field, back: Field) -> NDArray[np.bool_]:
    """Pixels ``[H, W]`` that stay inside the picture and come home: |a + b|^2 <= 0.01 (|a|^2 + |b|^2) + 0.5."""
    height, width = there.shape[:2]
    x, y = destinations(there)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    home = sample(back, x.ravel(), y.ravel()).reshape(there.shape)
    miss = np.square(there + home).sum(axis=-1)
    allowed = RELATIVE * (np.square(there).sum(axis=-1) + np.square(home).sum(axis=-1)) + ABSOLUTE
    return np.asarray(inside & (miss <= allowed))


def destinations(field: Field) -> tuple[Field, Field]:
    """Columns and rows ``[H, W]`` to which the pixels go."""
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]].astype(np.float32)
    return columns + field[..., 0], rows + field[..., 1]


def fetched(picture: Picture, field: Field, seen: NDArray[np.bool_]) -> Field:
    """The colours of ``picture`` that the pixels in ``seen`` go to: ``[P, 3]`` in levels."""
    x, y = destinations(field)
    return sample(picture, x[seen], y[seen])
