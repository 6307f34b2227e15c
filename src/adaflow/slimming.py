"""Adaptive Attention Slimming (Section 4.2): which keyframes' tokens each keyframe attends to.

Keyframe i keeps, over the tokens p of all keyframes j, those with the highest H_{k_j,k_i}[p] = max_q cos(f_j^p, f_i^q):
the tokens that look most like something in keyframe i. One list per keyframe and resolution, shared by its queries,
heads and both text branches. Pure functions; similarities in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import SlimmingConfig
from .correspondence import normalise

ROWS = 4096
"""Tokens of other keyframes compared with one keyframe at once, about; whole keyframes."""

HEAT_BYTES = 256 * 2**20
"""Similarities `[queries, M, N]` held at once, which is what lets each pair of keyframes be compared only once."""


@torch.no_grad()
def kept_tokens(features: Tensor, budget: int, config: SlimmingConfig | None = None, chunk: int = 0) -> Tensor:
    """The tokens that each keyframe keeps, as sorted indices into all M * N keyframe tokens.

    Args:
        features: Features `[M, N, d]` of the keyframes at one resolution, of any floating type.
        budget: Keyframes' worth of tokens to keep, the paper's 14.
        config: `own_tokens`: a keyframe's own tokens are always among them. `count`: "exact" keeps budget * N tokens;
            "released" rounds as the published script does, which for some M loses one.
        chunk: Keyframes compared with one keyframe at once; 0: about `ROWS` tokens' worth.
            Memory grows with `chunk * N * N`, and with `HEAT_BYTES`.

    Returns:
        `[M, m]` int64, each row ascending and without repeats; all M * N tokens where budget >= M. Of tokens equally
        similar at the end of the budget, those with lower indices are kept: of equal copies, the earlier keyframes'.
    """
    config = (config or SlimmingConfig()).completed()
    frames, tokens = _check(features)
    kept = kept_count(frames, tokens, budget, config)
    if budget >= frames:
        return torch.arange(kept, device=features.device).repeat(frames, 1)
    unit = normalise(features)
    block = max(1, min(frames, HEAT_BYTES // (4 * frames * tokens)))
    lists = []
    for start in range(0, frames, block):
        queries = range(start, min(start + block, frames))
        heat = _heat(unit, queries, chunk)
        for i, row in zip(queries, heat, strict=True):
            if config.own_tokens:
                row[i] = torch.inf
            lists.append(_highest(row.flatten(), kept))
    return torch.stack(lists)


def kept_count(frames: int, tokens: int, budget: int, config: SlimmingConfig | None = None) -> int:
    """How many of the tokens of all keyframes each keyframe keeps: m."""
    if budget < 1:
        raise ValueError(f"budget is {budget}; it must be at least 1")
    if budget >= frames:
        return frames * tokens
    if (config or SlimmingConfig()).completed().count == "released":
        return int(frames * tokens // (frames / budget))  # in floating point: one too few for about 40 % of M
    return budget * tokens


def kept_per_keyframe(kept: Tensor, tokens: int) -> Tensor:
    """How many tokens of keyframe j keyframe i keeps: `[M, M]` int64, from `kept_tokens`' `[M, m]`."""
    frames = len(kept)
    source = torch.div(kept, tokens, rounding_mode="floor")
    if kept.numel() and (int(source.min()) < 0 or int(source.max()) >= frames):
        raise ValueError(f"the indices do not belong to {frames} keyframes of {tokens} tokens")
    cell = source + frames * torch.arange(frames, device=kept.device)[:, None]
    return torch.bincount(cell.flatten(), minlength=frames * frames).view(frames, frames)


@torch.no_grad()
def similarity_to(features: Tensor, i: int, chunk: int = 0) -> Tensor:
    """H_{k_j,k_i}: how well each token of every keyframe `[M, N, d]` is matched in keyframe i. `[M, N]` float32."""
    frames, _ = _check(features)
    if not 0 <= i < frames:
        raise IndexError(f"keyframe {i} of {frames}")
    return _heat(normalise(features), range(i, i + 1), chunk)[0].clamp(-1, 1)


def _check(features: Tensor) -> tuple[int, int]:
    if features.ndim != 3 or not features.numel():
        raise ValueError(f"features have shape {tuple(features.shape)}; wanted [M, N, d]")
    return features.shape[0], features.shape[1]


def _heat(unit: Tensor, queries: range, chunk: int) -> Tensor:
    """H `[len(queries), M, N]` for some keyframes, from features `[M, N, d]` of unit length.

    A pair's matrix of similarities holds both H_ij (maxima of its rows) and H_ji (of its columns): where both keyframes
    are queries it is computed once.
    """
    frames, tokens, _ = unit.shape
    if chunk < 0:
        raise ValueError(f"chunk is {chunk}; it must not be negative")
    chunk = min(frames, chunk or max(1, ROWS // tokens))
    heat = unit.new_empty(len(queries), frames, tokens)
    with torch.autocast(unit.device.type, enabled=False):
        for n, i in enumerate(queries):
            target = unit[i].T
            for first, last in ((0, queries.start), (i, frames)):  # those between were compared when they were queries
                for start in range(first, last, chunk):
                    stop = min(start + chunk, last)
                    others = unit[start:stop]
                    if missing := chunk - len(others):  # one shape for all products
                        others = F.pad(others, (0, 0, 0, 0, 0, missing))
                    similarity = (others.flatten(0, 1) @ target).view(chunk, tokens, tokens)[: stop - start]
                    heat[n, start:stop] = similarity.amax(dim=2)
                    both = range(max(start, i + 1), min(stop, queries.stop))
                    if both:
                        back = similarity[both.start - start : both.stop - start].amax(dim=1)
                        heat[both.start - queries.start : both.stop - queries.start, i] = back
    return heat


def _highest(values: Tensor, count: int) -> Tensor:
    """The ascending indices of the `count` highest of `values`; of equal ones the first, where `topk` names any."""
    last = values.topk(count, sorted=False).values.amin()
    kept = values > last
    equal = values == last
    kept |= equal & (equal.cumsum(0) <= count - kept.sum())
    return kept.nonzero().flatten()
