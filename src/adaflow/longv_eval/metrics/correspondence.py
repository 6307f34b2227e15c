"""Whether token correspondences are right: φ of a frame to its keyframe against the true motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...miniature.film import Film

WITHIN = 1.0  # tokens, along each axis
COVERED = 0.5  # share of a token's middle that an object must cover for the token to be the object's


def middles(grid: tuple[int, int], size: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the pixel at the middle of each token: two arrays ``[h, w]`` that index a frame ``[H, W]``."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    return ((rows + 0.5) * size[0] / grid[0]).astype(np.intp), ((columns + 0.5) * size[1] / grid[1]).astype(np.intp)


def true_tokens(
    film: Film, first: int, second: int, grid: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where the middle of each token of a frame is in another, by the true motion.

    Returns:
        Positions ``[h * w, 2]``, x and y in tokens, a token's own middle having its index; and whether they are known.
    """
    displacement, valid = film.flow(first, second)
    (h, w), (height, width) = grid, valid.shape
    y, x = np.mgrid[:h, :w]
    here = middles(grid, (height, width))
    position = np.stack([x, y], axis=-1) + displacement[here] * (w / width, h / height)
    return position.reshape(-1, 2), valid[here].reshape(-1)


def distance(matches: NDArray[np.integer], positions: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """How far matches ``[N]`` lie from true positions ``[N, 2]``, in tokens, along the axis where it is more."""
    found = np.stack([matches % width, matches // width], axis=-1)
    far: NDArray[np.float64] = np.abs(found - positions).max(axis=-1)
    return far


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
        positions, known = true_tokens(self.film, frame, key, self.grid)
        right = known & (distance(phi.reshape(-1), positions, self.grid[1]) <= WITHIN)
        coverage = self.film.masks(frame).sum(axis=0)
        on_objects = coverage[middles(self.grid, coverage.shape)].reshape(-1) >= COVERED
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
