"""Which token of one frame looks most like each token of another: φ of Sections 4.1 and 4.3 (Eq. 4, 5, 8).

Pure functions. Features may have any floating type; they are normalised and compared in float32, outside autocast.
Nothing here changes torch's global switches: on a GPU leave TF32 matrix products off, as torch does by itself.

The rows of one frame are compared in chunks of one fixed, padded size: the chunk decides about memory, and about the
result only where the two best candidates lie within float32 rounding of each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2048
"""Tokens compared at once with all tokens of another frame."""


def normalise(features: Tensor) -> Tensor:
    """Features `[..., d]` of any type as a new float32 tensor of unit length per token; a zero token stays zero.

    Raises:
        ValueError: a token is not finite, or too large to have a length in float32.
    """
    values = features.to(torch.float32)
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    if not bool(norm.isfinite().all()):
        raise ValueError("features hold values that are not finite")
    return torch.div(values, norm.masked_fill(norm == 0, 1.0))


def match(f_i: Tensor, f_j: Tensor, chunk: int = CHUNK) -> Tensor:
    """For each token of frame i, the most similar token of frame j (Eq. 5, 8).

    A frame is not matched with itself here: where i *is* the keyframe, φ is the identity and the caller writes it down.
    (This function would give it too, except where a frame has equal tokens: of these it names the first.)

    Args:
        f_i: Features `[N, d]` of the frame to be matched.
        f_j: Features `[N', d]` of the frame to match with, on the same device.
        chunk: Tokens of i compared at once. Memory grows with `chunk * N'`.

    Returns:
        The indices `[N]`, int64 in [0, N'). Of equally similar tokens the one with the lower index.
    """
    return match_with_similarity(f_i, f_j, chunk)[0]


@torch.no_grad()
def match_with_similarity(f_i: Tensor, f_j: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """`match`, and the cosine `[N]` of each token with its match, float32 in [-1, 1]."""
    _check(f_i, f_j)
    return match_units(normalise(f_i), normalise(f_j), chunk)


@torch.no_grad()
def match_units(f_i: Tensor, f_j: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """`match_with_similarity` of float32 features that have unit length already; a GPU is not waited for."""
    order = torch.arange(len(f_j), dtype=torch.int32, device=f_j.device)
    index, best = [], []
    for similarity in similarities(f_i, f_j, chunk):
        highest = similarity.amax(dim=1)
        # max() over a row may name any of several equal maxima; the lowest index of those that equal it cannot
        first = torch.where(similarity == highest[:, None], order, len(order)).amin(dim=1)
        index.append(first.long())
        best.append(highest)
    return torch.cat(index), torch.cat(best).clamp(-1, 1)


@torch.no_grad()
def best_similarity(f_i: Tensor, f_j: Tensor, chunk: int = CHUNK) -> Tensor:
    """For each token of frame i `[N, d]`, its cosine with the most similar one of frame j `[N', d]`: `[N]` float32."""
    _check(f_i, f_j)
    return torch.cat([s.amax(dim=1) for s in similarities(normalise(f_i), normalise(f_j), chunk)]).clamp(-1, 1)


@torch.no_grad()
def best_similarities(f_i: Tensor, f_j: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """`best_similarity(f_i, f_j)` and `best_similarity(f_j, f_i)` from one matrix of similarities: `[N]` and `[N']`."""
    _check(f_i, f_j)
    rows, columns = [], []
    for similarity in similarities(normalise(f_i), normalise(f_j), chunk):
        rows.append(similarity.amax(dim=1))
        columns.append(similarity.amax(dim=0))
    return torch.cat(rows).clamp(-1, 1), torch.stack(columns).amax(dim=0).clamp(-1, 1)


@torch.no_grad()
def resize(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features `[h, w, d]` on another grid, as tokens: `[h' * w', d]`, float32 of unit length.

    Bilinear without antialiasing, as the paper's release does it; on its own grid a frame is only normalised.
    """
    if features.ndim != 3 or features.numel() == 0:
        raise ValueError(f"features have shape {tuple(features.shape)}; wanted [h, w, d]")
    if min(grid) < 1:
        raise ValueError(f"the grid is {grid}; both sides must be at least 1")
    values = features.to(torch.float32)
    if tuple(values.shape[:2]) != tuple(grid):
        values = F.interpolate(values.permute(2, 0, 1)[None], size=grid, mode="bilinear", align_corners=False)[0]
        values = values.permute(1, 2, 0)
    return normalise(values).flatten(0, 1)


def similarities(a: Tensor, b: Tensor, chunk: int = CHUNK) -> Iterator[Tensor]:
    """The similarities of unit features `a` `[N, d]` and `b` `[N', d]`, a chunk of rows at a time: `[<= chunk, N']`.

    Every product has the same shape, the last one padded with zeros, so that all rows meet the same arithmetic.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    chunk = min(chunk, len(a))
    with torch.autocast(a.device.type, enabled=False):
        for start in range(0, len(a), chunk):
            rows = a[start : start + chunk]
            missing = chunk - len(rows)
            yield (F.pad(rows, (0, 0, 0, missing)) @ b.T)[: len(rows)] if missing else rows @ b.T


def _check(f_i: Tensor, f_j: Tensor) -> None:
    if f_i.ndim != 2 or f_j.ndim != 2 or f_i.shape[1] != f_j.shape[1] or not f_i.numel() or not f_j.numel():
        raise ValueError(f"features have shapes {tuple(f_i.shape)} and {tuple(f_j.shape)}; wanted [N, d] and [N', d]")
