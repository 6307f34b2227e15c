"""Motion estimated from pictures, where no truth is known: OpenCV's DIS flow, and which of it can be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingError
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
        try:
            cv2: Any = import_module("cv2")
        except ImportError as error:
            raise MissingError(
                "OpenCV, which estimates motion, is not installed; get it with: pip install opencv-python-headless"
            ) from error
        self._cv2 = cv2
        self._dis: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, here: Picture, there: Picture) -> Field:
        """See `Flow`."""
        if min(here.shape[:2]) < SMALLEST:
            raise InputError(f"frames of {here.shape[1]}x{here.shape[0]} are too small to estimate motion from")
        grey = [self._cv2.cvtColor(np.ascontiguousarray(p), self._cv2.COLOR_RGB2GRAY) for p in (here, there)]
        field: Field = self._dis.calc(grey[0], grey[1], None)
        return field


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
