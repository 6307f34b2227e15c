"""Feature-matched propagation: the attention of all frames that are not keyframes of a step (Section 4.3).

A frame takes its keyframe's attention outputs where φ finds them, or what the edit has changed in them, and its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .attention import AttentionRecord, check_plain, layer_output, projections
from .backbone import Branch, Site


@dataclass(frozen=True)
class Blend:
    """A stretch of a propagation run whose frames also follow the keyframe of another clip.

    Attributes:
        clip: The other clip.
        rows: Which of the run's frames.
        weights: Of the other keyframe ``[f]``, between 0 and 1; the own one has the rest.
        matches: By level, φ of these frames to the other keyframe, ``[f, N]``.
    """

    clip: int
    rows: slice
    weights: Tensor
    matches: Mapping[int, Tensor]


@dataclass(frozen=True)
class PropagationPass:
    """The denoising of a run of frames, whose self-attention is carried over from the keyframes of their clips.

    Attributes:
        record: The keyframes' outputs.
        recorded: The branches in the record, in order.
        branches: The branches in this batch: a stretch of `recorded`.
        clips: Of each frame the clip, that is the keyframe; rising.
        matches: By level, φ: for each token of each frame the matching token of its keyframe, ``[frames, N]``.
        blends: Frames that follow a second keyframe as well, each at most once.
        own: Where the record holds what the edit has changed: by layer, the frames' own source's outputs ``[f, N, C]``,
            to which that is added.
    """

    record: AttentionRecord
    recorded: Sequence[Branch]
    branches: Sequence[Branch]
    clips: Sequence[int]
    matches: Mapping[int, Tensor]
    blends: Sequence[Blend] = ()
    own: Mapping[str, Tensor] = field(default_factory=dict)

    def processor(self, site: Site) -> PropagatedAttention:
        """The attention processor of one layer for this pass."""
        return PropagatedAttention(site, self)

    def carried(self, layer: str, branches: slice, level: int, device: torch.device) -> Tensor:
        """What the keyframes left in the record, where φ finds it for these frames (Eq. 9): ``[b, frames, N, C]``.

        Args:
            layer: Of which layer; `branches`: of which b branches in the record; `level`: of whose tokens.
        """
        phi, parts, start = self.matches[level].long(), [], 0
        for clip, frames in groupby(self.clips):
            stop = start + len(list(frames))
            parts.append(self.record.get(layer, clip, branches).to(device)[:, phi[start:stop]])
            start = stop
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        for blend in self.blends:
            other = self.record.get(layer, blend.clip, branches).to(device)
            weights = blend.weights.to(device, out.dtype)[:, None, None]
            out[:, blend.rows] = out[:, blend.rows].lerp(other[:, blend.matches[level].long()], weights)
        return out


class PropagatedAttention:
    """Feature-matched propagation (Eq. 9): A_i[p] = A_j[φ_ij(p)]; no query, key or value is computed."""

    def __init__(self, site: Site, propagation: PropagationPass) -> None:
        self.site, self.propagation = site, propagation

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[B, N, C]`` in and out, as diffusers' attention-processor API has it."""
        check_plain(attn, encoder_hidden_states, attention_mask)
        this = self.propagation
        first = list(this.recorded).index(this.branches[0])
        branches = slice(first, first + len(this.branches))
        phi = this.matches[self.site.level]
        if hidden_states.shape[:2] != (len(this.branches) * len(phi), phi.shape[1]):
            raise ValueError(
                f"{hidden_states.shape[0]} rows of {hidden_states.shape[1]} tokens for {len(this.branches)} branches "
                f"of {len(phi)} frames of {phi.shape[1]} tokens"
            )
        if len(this.clips) != len(phi):
            raise ValueError(f"{len(this.clips)} clips for {len(phi)} frames")
        out = this.carried(self.site.name, branches, self.site.level, hidden_states.device)
        if self.site.name in this.own:
            out += this.own[self.site.name]
        return out.flatten(0, 1)


class OwnAttention:
    """A frame's plain self-attention, whose output is left in `outputs` under the layer's name."""

    def __init__(self, site: Site, outputs: dict[str, Tensor]) -> None:
        self.site, self.outputs = site, outputs

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[B, N, C]`` in and out, as diffusers' attention-processor API has it."""
        check_plain(attn, encoder_hidden_states, attention_mask)
        out = layer_output(attn, [scaled_dot_product_attention(*projections(attn, hidden_states))])
        self.outputs[self.site.name] = out
        return out
