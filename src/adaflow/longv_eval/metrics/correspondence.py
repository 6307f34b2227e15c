"""Whether token correspondences are right: φ of a frame to its keyframe against the true motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...miniature.film import Film

WITHIN = 1.0  # tokens, along each axis
COVERED = 0.5  # share of a token's middle that an object must cover for the token to be the object's


@dataclass
class Correspondence:
    """Counts right matches over frames and their keyframes.

    A token counts where the pixels at its middle are to be seen in the keyframe too; its match is right if that token's
    middle is at most `WITHIN` tokens, along each axis, from where the true motion takes its own.

    Args:
        film: The source video.
        grid: Tokens of a frame, (h, w).
    """

    film: Film
    grid: tuple[int, int]
    known: int = 0
    right: int = 0
    known_on_objects: int = 0
    right_on_objects: int = 0

    def add(self, frame: int, key: int, phi: NDArray[np.integer]) -> None:
        """The matches ``[h * w]`` of one frame's tokens to the tokens of a keyframe."""
        displacement, valid = self.film.flow(frame, key)
        (h, w), (height, width) = self.grid, valid.shape
        rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        tall, wide = height / h, width / w
        y, x = ((rows + 0.5) * tall).astype(int), ((columns + 0.5) * wide).astype(int)
        moved = displacement[y, x] / (wide, tall)  # x, y in tokens
        found_row, found_column = np.divmod(phi.reshape(h, w), w)
        off = np.maximum(abs(columns + moved[..., 0] - found_column), abs(rows + moved[..., 1] - found_row))
        known, right = valid[y, x], valid[y, x] & (off <= WITHIN)
        on_objects = self.film.masks(frame).sum(axis=0)[y, x] >= COVERED
        self.known += int(known.sum())
        self.right += int(right.sum())
        self.known_on_objects += int((known & on_objects).sum())
        self.right_on_objects += int((right & on_objects).sum())

    def results(self) -> dict[str, float | None]:
        """`matches_right` and `matches_right_on_objects`, from 0 to 1; None where no token could be told."""
        return {
            "matches_right": self.right / self.known if self.known else None,
            "matches_right_on_objects": self.right_on_objects / self.known_on_objects
            if self.known_on_objects
            else None,
        }
