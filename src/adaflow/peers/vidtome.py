"""VidToMe (Li et al., https://arxiv.org/abs/2312.10656): tokens of neighbouring frames are merged for self-attention.

Frames are denoised in windows of a few. Within a window most tokens of all frames but one are merged with the most
similar token of that one, so that they get the same output; what a window was merged to is merged again with what the
windows before it at this timestep left, which ties the whole video together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..attention import KeyAttention, KeyPass
from ..backbone import Site
from ..correspondence import CHUNK, normalise, similarities
from ..diskarray import DiskArray
from ..steps import Step
from .peer import read, with_source
from .pnp import PUBLISHED
from .stepwise import Prediction, Stepwise

FINE = 2
"""Levels on which tokens are merged: the grid is halved at most once there."""


class VidToMe(Stepwise):
    """Plug-and-Play in windows of frames, whose tokens are merged with each other and from window to window."""

    name = "vidtome"
    title = "VidToMe"
    about = "Tokens merged in windows of four frames and from window to window; no chunks."
    published = MappingProxyType(
        {
            **PUBLISHED,
            "inversion_steps": 50,
            "negative_prompt": "ugly, blurry, low res",
            "peers.chunk": 0,
            "peers.window": 4,
            "peers.local_merge": 0.9,
            "peers.global_merge": 0.8,
        }
    )

    def predict(self, step: Step, chunk: range, latents: DiskArray, source: DiskArray) -> Iterator[Prediction]:
        """See `Stepwise`: window by window, in the order drawn for this step."""
        ratios, random, branches = self.config.peers, self.random(step), with_source(step)
        former: dict[str, Tensor] = {}
        for frames in windows(chunk, ratios.window, random):
            merging = MergePass(
                KeyPass(branches, 1, extended=False, injected=self.injected(step)),
                frames=len(frames),
                target=int(random.integers(len(frames))),
                into_former=bool(random.random() < 0.5),
                local_share=ratios.local_merge,
                global_share=ratios.global_merge,
                former=former,
            )
            z, inverted = read(latents, frames), read(source, frames)
            yield frames, self.bench.predict(step, branches, z, inverted, frames, merging.processor, self.features)


def windows(chunk: range, size: int, random: np.random.Generator) -> list[range]:
    """The frames in windows of at most `size`, in the order of one step.

    The first window's length is drawn from 1 to `size`. A quarter of the windows, drawn at random, comes first; the
    others follow in sequence, from that end of the video at which the last drawn one lies.
    """
    first = min(int(random.integers(1, size + 1)), len(chunk))
    edges = [chunk.start, *range(chunk.start + first, chunk.stop, size), chunk.stop]
    found = [range(a, b) for a, b in pairwise(edges)]
    if random.random() < 0.5:
        found.reverse()
    drawn = random.permutation(len(found))[: len(found) // 4].tolist()
    rest = [i for i in range(len(found)) if i not in drawn]
    if drawn and rest and abs(rest[-1] - drawn[-1]) < abs(rest[0] - drawn[-1]):
        rest.reverse()
    return [found[i] for i in (*drawn, *rest)]


@dataclass(frozen=True)
class Merge:
    """Which source tokens are dropped, and which destination tokens stand for them.

    Attributes:
        sources: S, the number of source tokens.
        merged: Those that are dropped, ``[r]``; `into`: the destination of each, ``[r]``.
        kept: The others, rising, ``[S - r]``.
    """

    sources: int
    merged: Tensor
    into: Tensor
    kept: Tensor

    def merge(self, sources: Tensor, destinations: Tensor) -> Tensor:
        """``[B, S, C]`` and ``[B, D, C]`` as ``[B, S - r + D, C]``: the kept sources, then the destinations."""
        return torch.cat([sources[:, self.kept], destinations], dim=1)

    def unmerge(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse: sources ``[B, S, C]``, of which those dropped get their destination's value; destinations."""
        kept, destinations = tokens[:, : len(self.kept)], tokens[:, len(self.kept) :]
        sources = tokens.new_empty((len(tokens), self.sources, tokens.shape[2]))
        sources[:, self.kept] = kept
        sources[:, self.merged] = destinations[:, self.into]
        return sources, destinations


def best_merge(sources: Tensor, destinations: Tensor, share: float, chunk: int = CHUNK) -> Merge:
    """The merge of the `share` of the sources that are most like a destination, by cosine.

    All branches are merged alike: a source is as like a destination as it is in the branch where it is most so.

    Args:
        sources: ``[B, S, C]``; `destinations`: ``[B, D, C]``.
        share: Of the sources, rounded down.
        chunk: Sources compared at once. Memory grows with ``chunk * D``.
    """
    count, device = sources.shape[1], sources.device
    best = torch.full((count,), -torch.inf, device=device)
    index = torch.zeros(count, dtype=torch.int64, device=device)
    for one, other in zip(sources, destinations, strict=True):
        found = [s.max(dim=1) for s in similarities(normalise(one), normalise(other), chunk)] if count else []
        if found:
            value, place = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
            index = torch.where(value > best, place, index)
            best = torch.maximum(best, value)
    order = best.argsort(descending=True, stable=True)
    merged = order[: int(count * share + 1e-9)]
    return Merge(count, merged, index[merged], order[len(merged) :].sort().values)


@dataclass(frozen=True)
class MergePass:
    """One window's denoising at one step.

    Attributes:
        alone: What attention is among the merged tokens: plain, with the step's injection.
        frames: f, the frames of each branch.
        target: The frame whose tokens the others' are merged with.
        into_former: Whether the window's tokens are merged with the former windows', or these with the window's.
        local_share: Of the tokens of the other frames, how many are merged; `global_share`: with former windows.
        former: What the windows before left in each layer; this one leaves its own there.
    """

    alone: KeyPass
    frames: int
    target: int
    into_former: bool
    local_share: float
    global_share: float
    former: dict[str, Tensor] = field(default_factory=dict)

    def processor(self, site: Site) -> MergedAttention | KeyAttention:
        """The attention processor of one layer for this pass; coarse layers are left as they are."""
        if site.level < FINE:
            return MergedAttention(site, self)
        return KeyAttention(
            site, KeyPass(self.alone.branches, self.frames, extended=False, injected=self.alone.injected)
        )


class MergedAttention:
    """Self-attention among the tokens of a window's frames, merged."""

    def __init__(self, site: Site, merging: MergePass) -> None:
        self.site, self.merging = site, merging
        self._attention = KeyAttention(site, merging.alone)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[branches f, N, C]`` in and out, as diffusers' attention-processor API has it."""
        this = self.merging
        x = hidden_states.unflatten(0, (-1, this.frames))  # (branches, f, N, C)
        tokens = x.shape[2]
        others = [frame for frame in range(this.frames) if frame != this.target]
        sources, target = x[:, others].flatten(1, 2), x[:, this.target]
        local = best_merge(sources, target, this.local_share)
        window = local.merge(sources, target)
        window = self._with_former(attn, window, encoder_hidden_states, attention_mask)
        sources, target = local.unmerge(window)
        out = torch.empty_like(x)
        out[:, others], out[:, this.target] = sources.unflatten(1, (len(others), tokens)), target
        return out.flatten(0, 1)

    def _with_former(self, attn: Attention, window: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """The attention's output ``[B, L, C]`` for a window's tokens, merged with the former windows'."""
        this, name = self.merging, self.site.name
        former = this.former.get(name)
        if former is None:
            this.former[name] = window
            return self._attention(attn, window, context, mask)
        pair = (window, former) if this.into_former else (former, window)
        both = best_merge(*pair, this.global_share)
        merged = both.merge(*pair)
        here = 0 if this.into_former else 1
        this.former[name] = both.unmerge(merged)[here]
        return both.unmerge(self._attention(attn, merged, context, mask))[here]
