"""Features in fewer dimensions: the directions that hold most of their energy, found from a sample of the frames."""

from __future__ import annotations

from torch import Tensor, linalg

from .correspondence import normalise

SAMPLED = 64
"""Frames of a video from which the directions of its features are found."""


def sampled_frames(frames: int, most: int = SAMPLED) -> list[int]:
    """Up to `most` frames of a video, evenly spread, the first and the last among them."""
    count = min(frames, most)
    return sorted({round(k * (frames - 1) / max(1, count - 1)) for k in range(count)})


def energy(features: Tensor) -> Tensor:
    """The sum of the outer products of all tokens, at unit length, of features ``[..., d]``: ``[d, d]`` fp64."""
    tokens = normalise(features).flatten(0, -2).double().cpu()
    return tokens.T @ tokens


def leading_directions(energy: Tensor, dimensions: int) -> Tensor:
    """The directions that hold most of the features, and so keep their cosines best: principal components.

    They are taken about the origin, as cosines are.

    Args:
        energy: ``[d, d]`` fp64, the sum of `energy` over frames.
        dimensions: How many directions, at most d.

    Returns:
        ``[d, dimensions]`` fp32, orthonormal columns, the one that holds most first; of each the number that is
        largest regardless of its sign is positive.
    """
    vectors = linalg.eigh(energy).eigenvectors.flip(1)[:, :dimensions]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return (vectors * largest.sign()).float()
