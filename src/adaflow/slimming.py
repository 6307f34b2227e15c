"""Adaptive Attention Slimming (Section 4.2): which keyframes' tokens each keyframe attends to.

Keyframe i keeps, over the tokens p of all keyframes j, those with the highest H_{k_j,k_i}[p] = max_q cos(f_j^p, f_i^q):
the tokens that look most like something in keyframe i. One list per keyframe and resolution, shared by its queries,
heads and both text branches. Pure functions; similarities in float32.

That rule fills the budget with copies where the background stands still: it is there in all keyframes, and every copy
has a high H. `SlimmingConfig.selection` has two other rules: "quota" takes equally many tokens of every keyframe, and
"distinct" takes each thing once before it takes a second copy of anything.
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
            "released" rounds as the published script does, which for some M loses one. `selection`: "score" keeps
            those with the highest H; "quota" is `_quota`, "distinct" is `_distinct`.
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
    distinct = config.selection == "distinct"
    block = max(1, min(frames, HEAT_BYTES // (4 * frames * tokens * (2 if distinct else 1))))
    lists = []
    for start in range(0, frames, block):
        queries = range(start, min(start + block, frames))
        twins = unit.new_full((len(queries), frames, tokens), -1, dtype=torch.int32) if distinct else None
        heat = _heat(unit, queries, chunk, twins)
        for n, i in enumerate(queries):
            row = heat[n]
            if config.selection != "score":
                row.clamp_(max=1)[i] = 1  # what rounding makes of them does not decide among own tokens and copies
            if config.own_tokens:
                row[i] = torch.inf
            if twins is not None:
                lists.append(_distinct(row, twins[n], i, kept))
            elif config.selection == "quota":
                lists.append(_quota(row, i if config.own_tokens else None, kept))
            else:
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


def _heat(unit: Tensor, queries: range, chunk: int, twins: Tensor | None = None) -> Tensor:
    """H `[len(queries), M, N]` for some keyframes, from features `[M, N, d]` of unit length.

    A pair's matrix of similarities holds both H_ij (maxima of its rows) and H_ji (of its columns): where both keyframes
    are queries it is computed once.

    Args:
        twins: `[len(queries), M, N]` int32, filled with -1: where given, the token of the query keyframe that each
            token is a mutual match of, if it is one, is written into it.
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
                    mutual = None if twins is None else _mutual(similarity)
                    if twins is not None and mutual is not None:
                        twins[n, start:stop] = mutual[0]
                    both = range(max(start, i + 1), min(stop, queries.stop))
                    if both:
                        back = similarity[both.start - start : both.stop - start].amax(dim=1)
                        heat[both.start - queries.start : both.stop - queries.start, i] = back
                        if twins is not None and mutual is not None:
                            there = slice(both.start - queries.start, both.stop - queries.start)
                            twins[there, i] = mutual[1][both.start - start : both.stop - start]
    return heat


def _mutual(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Mutual matches in similarities `[b, N, N']`: of each row its column or -1, and of each column its row or -1.

    Row p and column q match mutually where each is the most similar of the other; of equally similar ones the first.
    """
    _, rows, columns = similarity.shape
    p = torch.arange(rows, dtype=torch.int32, device=similarity.device)
    q = torch.arange(columns, dtype=torch.int32, device=similarity.device)
    of_row = torch.where(similarity == similarity.amax(dim=2, keepdim=True), q, columns).amin(dim=2)
    of_column = torch.where(similarity == similarity.amax(dim=1, keepdim=True), p[:, None], rows).amin(dim=1)
    return (
        torch.where(of_column.gather(1, of_row.long()) == p, of_row, -1),
        torch.where(of_row.gather(1, of_column.long()) == q, of_column, -1),
    )


def _quota(heat: Tensor, own: int | None, count: int) -> Tensor:
    """`count` of the M * N tokens with H `[M, N]`, of every keyframe the same number.

    Each keyframe gives its highest; where `count` is no multiple, those with the highest H in the next place give one
    more. All of keyframe `own` are taken, and the others share the rest.
    """
    frames, tokens = heat.shape
    others = torch.tensor([j for j in range(frames) if j != own], device=heat.device)
    each, left = divmod(count - (0 if own is None else tokens), len(others))
    order = heat[others].sort(dim=1, descending=True, stable=True)  # of equal ones the first
    quota = torch.full((len(others),), each, device=heat.device)
    if left:
        quota[_highest(order.values[:, each], left)] += 1
    given = torch.arange(tokens, device=heat.device) < quota[:, None]
    kept = torch.zeros(frames, tokens, dtype=torch.bool, device=heat.device)
    kept[others] = torch.zeros_like(given).scatter(1, order.indices, given)
    if own is not None:
        kept[own] = True
    return kept.flatten().nonzero().flatten()


def _distinct(heat: Tensor, twins: Tensor, i: int, count: int) -> Tensor:
    """`count` of the M * N tokens with H `[M, N]` to keyframe i, each thing once before a second copy of anything.

    A token q of keyframe i and its mutual matches in other keyframes (`twins` `[M, N]`: q, or -1) are copies of one
    thing; a token without one is a thing by itself. Copies are ranked by H, of equal ones the first, and tokens are
    kept by rank, within a rank by H, and of equal ones the first.
    """
    frames, tokens = heat.shape
    twins = twins.long()
    twins[i] = torch.arange(tokens, device=heat.device)
    keyframe, token = (twins >= 0).nonzero(as_tuple=True)
    thing = twins[keyframe, token]
    copies = heat.new_full((tokens, frames), -torch.inf)  # a thing has at most one copy in a keyframe
    copies[thing, keyframe] = heat[keyframe, token]
    order = copies.sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(frames, device=heat.device).expand_as(order)
    rank = torch.zeros_like(twins)
    rank[keyframe, token] = torch.empty_like(order).scatter(1, order, places)[thing, keyframe]
    rank = rank.flatten()
    size = torch.bincount(rank, minlength=frames).cumsum(0)
    last = int((size < count).sum())  # the rank in which the count is reached
    kept = rank < last
    within = (rank == last).nonzero().flatten()
    kept[within[_highest(heat.flatten()[within], count - int(kept.sum()))]] = True
    return kept.nonzero().flatten()


def _highest(values: Tensor, count: int) -> Tensor:
    """The ascending indices of the `count` highest of `values`; of equal ones the first, where `topk` names any."""
    last = values.topk(count, sorted=False).values.amin()
    kept = values > last
    equal = values == last
    kept |= equal & (equal.cumsum(0) <= count - kept.sum())
    return kept.nonzero().flatten()
