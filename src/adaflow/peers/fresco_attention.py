"""FRESCO-guided attention: like the input in space, common keys across frames, and along the paths through time.

Yang et al. 2024 (https://arxiv.org/abs/2403.12962), Section 3.3: spatial-guided attention, efficient cross-frame
attention, temporal-guided attention, one after the other in each of the decoder's finer layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..attention import KeyAttention, KeyPass, projections
from ..backbone import Branch, Site
from .fresco_motion import Paths

SHARPNESS = 0.2
"""Of the attention in space and along paths, as a factor of the usual scale."""

FINER = 2
"""Levels, from the finest, whose decoder layers are guided: SD's last two decoder blocks."""


def guided_layer(site: Site) -> bool:
    """Whether a layer is one of those that FRESCO changes."""
    return site.part == "up" and site.level < FINER


def guided_in_space(q: Tensor, source_q: Tensor, source_k: Tensor) -> Tensor:
    """Queries ``[f, H, N, d]`` gathered from where the input frames are alike, by their own queries and keys."""
    return scaled_dot_product_attention(source_q, source_k, q, scale=SHARPNESS / q.shape[-1] ** 0.5)


def across_frames(q: Tensor, k: Tensor, v: Tensor, new: Tensor) -> Tensor:
    """Attention ``[f, H, N, d]`` of all frames to the same tokens: those that show something for the first time.

    Args:
        q: Queries ``[f, H, N, d]``; `k` and `v` likewise.
        new: Which tokens these are, ``[f, N]`` bool.
    """
    k, v = (x.transpose(1, 2)[new].transpose(0, 1)[None].expand(len(q), -1, -1, -1) for x in (k, v))
    return scaled_dot_product_attention(q, k, v)


def along_time(q: Tensor, k: Tensor, y: Tensor, paths: Paths) -> Tensor:
    """Attention ``[f, H, N, d]`` of each token to those on its path, as far as this follows one point.

    Args:
        q: Queries ``[f, H, N, d]``; `k`: keys; `y`: what is attended to in place of values.
        paths: The paths through the f frames.
    """
    frames = torch.arange(len(q), device=q.device)[:, None]
    # (f, N, H, d) to (N, H, f, d)
    of_q, of_k, of_y = (x.transpose(1, 2)[frames, paths.cells].permute(1, 2, 0, 3) for x in (q, k, y))
    scale = SHARPNESS / q.shape[-1] ** 0.5
    found = scaled_dot_product_attention(of_q, of_k, of_y, attn_mask=paths.together[:, None], scale=scale)
    out = torch.empty_like(y)
    out.transpose(1, 2)[frames, paths.cells] = found.permute(2, 0, 1, 3)
    return out


@dataclass(frozen=True)
class GuidedPass:
    """One step of a batch.

    Attributes:
        branches: The branches in the call, none of them the source.
        frames: f, the frames of each branch.
        new: By level, the tokens ``[f, N]`` that all frames attend to.
        paths: By level, the paths through the frames; empty where time does not guide.
        source: By layer, the input frames' tokens ``[f, N, C]``; empty where space does not guide.
    """

    branches: Sequence[Branch]
    frames: int
    new: Mapping[int, Tensor]
    paths: Mapping[int, Paths] = field(default_factory=dict)
    source: Mapping[str, Tensor] = field(default_factory=dict)

    def processor(self, site: Site) -> GuidedAttention | KeyAttention:
        """The attention processor of one layer for this pass."""
        if guided_layer(site):
            return GuidedAttention(site, self)
        return KeyAttention(site, KeyPass(self.branches, self.frames, extended=False))


class GuidedAttention:
    """Self-attention of a batch's frames, guided in space, across frames and along time."""

    def __init__(self, site: Site, guided: GuidedPass) -> None:
        self.site, self.guided = site, guided

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[branches f, N, C]`` in and out, as diffusers' attention-processor API has it."""
        this, level = self.guided, self.site.level
        q, k, v = projections(attn, hidden_states)
        source = this.source.get(self.site.name)
        of_source = None if source is None else projections(attn, source.to(hidden_states))[:2]
        parts = []
        for rows in (slice(b * this.frames, (b + 1) * this.frames) for b in range(len(this.branches))):
            asked = q[rows] if of_source is None else guided_in_space(q[rows], *of_source)
            out = across_frames(asked, k[rows], v[rows], this.new[level])
            parts.append(along_time(q[rows], k[rows], out, this.paths[level]) if level in this.paths else out)
        out = torch.cat(parts).transpose(1, 2).flatten(-2).to(hidden_states.dtype)
        for layer in attn.to_out:
            out = layer(out)
        return out


class WatchedAttention(KeyAttention):
    """Each frame's own self-attention, which also leaves its tokens."""

    def __init__(self, site: Site, key_pass: KeyPass, left: dict[str, Tensor]) -> None:
        super().__init__(site, key_pass)
        self._left = left

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[f, N, C]`` in and out, as diffusers' attention-processor API has it."""
        self._left[self.site.name] = hidden_states
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
