"""Self-attention in an edit: extended among keyframes, slimmed, and propagated to all other frames (Sections 4.2, 4.3).

A pass is a frozen value with all that its processors need; `attention_installed` puts them into the UNet for one call
and takes them out again. Rows of a batch are ordered branch by branch, and within a branch frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .backbone import Branch, Site


class AttentionRecord(Protocol):
    """What the key pass leaves for the propagation: every layer's output for every keyframe and branch."""

    def put(self, layer: str, output: Tensor) -> None:
        """Keep ``[branches, M, N, C]`` of one layer."""

    def get(self, layer: str, clip: int, branches: slice) -> Tensor:
        """``[branches, N, C]`` of one layer and one clip's keyframe."""


class MemoryRecord:
    """An `AttentionRecord` in the memory of one device, usually the host's.

    Holds ``branches x M x sum over layers of N C`` numbers (SD 2.1 at 384x672 in fp16: 68 MB a keyframe).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._outputs: dict[str, Tensor] = {}

    def put(self, layer: str, output: Tensor) -> None:
        """See `AttentionRecord`."""
        self._outputs[layer] = output.to(self.device)

    def get(self, layer: str, clip: int, branches: slice) -> Tensor:
        """See `AttentionRecord`."""
        return self._outputs[layer][branches, clip]


@dataclass(frozen=True)
class KeyPass:
    """One timestep's joint edit of the keyframes.

    Attributes:
        branches: The branches in the batch; the source, where it is there, comes first and sees only its own frame.
        keys: Keyframes M in each branch.
        extended: Whether edit branches attend to all keyframes; False gives plain self-attention.
        kept: By level, the tokens ``[M, m]`` of the M*N that each keyframe attends to; a level left out keeps all.
        injected: Layers in which the edit branches take the source's queries and keys.
        record: Where the outputs go; None keeps nothing.
    """

    branches: Sequence[Branch]
    keys: int
    extended: bool = True
    kept: Mapping[int, Tensor] = field(default_factory=dict)
    injected: frozenset[str] = frozenset()
    record: AttentionRecord | None = None

    def processor(self, site: Site) -> KeyAttention:
        """The attention processor of one layer for this pass."""
        return KeyAttention(site, self)


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
    """The denoising of a run of one clip's frames, whose self-attention is carried over from the clip's keyframe.

    Attributes:
        record: The keyframes' outputs.
        recorded: The branches in the record, in order.
        branches: The branches in this batch: a stretch of `recorded`.
        clip: Which clip, that is which keyframe.
        matches: By level, φ: for each token of each frame the matching token of the keyframe, ``[frames, N]``.
        blends: Frames that follow a second keyframe as well, each at most once.
    """

    record: AttentionRecord
    recorded: Sequence[Branch]
    branches: Sequence[Branch]
    clip: int
    matches: Mapping[int, Tensor]
    blends: Sequence[Blend] = ()

    def processor(self, site: Site) -> PropagatedAttention:
        """The attention processor of one layer for this pass."""
        return PropagatedAttention(site, self)


class KeyAttention:
    """Self-attention of the keyframes: the source's own; the edit's extended (Eq. 3) or slimmed (Eq. 7)."""

    def __init__(self, site: Site, key_pass: KeyPass) -> None:
        self.site, self.key_pass = site, key_pass

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[B, N, C]`` in and out, as diffusers' attention-processor API has it."""
        _check_plain(attn, encoder_hidden_states, attention_mask)
        this = self.key_pass
        branches = len(this.branches)
        if hidden_states.shape[0] != branches * this.keys:
            raise ValueError(f"{hidden_states.shape[0]} rows for {branches} branches of {this.keys} keyframes")
        injected = self.site.name in this.injected and this.branches[0] == "source"
        q, k, v = projections(attn, hidden_states, branches if injected else 0)
        own = (
            this.keys * branches if not this.extended or this.keys == 1 else this.keys * (this.branches[0] == "source")
        )
        parts = [scaled_dot_product_attention(q[:own], k[:own], v[:own])] if own else []
        kept = this.kept.get(self.site.level)
        for start in range(own, branches * this.keys, this.keys):
            rows = slice(start, start + this.keys)
            parts.append(extended_attention(q[rows], k[rows], v[rows], kept))
        out = torch.cat(parts).transpose(1, 2).flatten(-2).to(q.dtype)  # (B, N, C)
        for layer in attn.to_out:
            out = layer(out)
        if this.record is not None:
            this.record.put(self.site.name, out.unflatten(0, (branches, this.keys)))
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
        _check_plain(attn, encoder_hidden_states, attention_mask)
        this = self.propagation
        first = list(this.recorded).index(this.branches[0])
        branches = slice(first, first + len(this.branches))
        key = this.record.get(self.site.name, this.clip, branches)
        phi = this.matches[self.site.level].long()
        if hidden_states.shape[:2] != (len(this.branches) * len(phi), phi.shape[1]):
            raise ValueError(
                f"{hidden_states.shape[0]} rows of {hidden_states.shape[1]} tokens for {len(this.branches)} branches "
                f"of {len(phi)} frames of {phi.shape[1]} tokens"
            )
        out = key.to(hidden_states.device)[:, phi]  # (branches, frames, N, C)
        for blend in this.blends:
            other = this.record.get(self.site.name, blend.clip, branches).to(out.device)
            weights = blend.weights.to(out.device, out.dtype)[:, None, None]
            out[:, blend.rows] = out[:, blend.rows].lerp(other[:, blend.matches[self.site.level].long()], weights)
        return out.flatten(0, 1)


def projections(attn: Attention, hidden_states: Tensor, injected_branches: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``[B, H, N, C / H]`` of a batch ``[B, N, C]``.

    Args:
        attn: The layer.
        hidden_states: Its input.
        injected_branches: Where not 0, the batch has so many branches, and all of them take the queries and keys of the
            first one, which is the source (PnP).
    """
    if injected_branches:
        source = hidden_states[: len(hidden_states) // injected_branches]
        q, k = (to(source).repeat(injected_branches, 1, 1) for to in (attn.to_q, attn.to_k))
    else:
        q, k = attn.to_q(hidden_states), attn.to_k(hidden_states)
    q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, attn.to_v(hidden_states)))
    return q, k, v


def extended_attention(q: Tensor, k: Tensor, v: Tensor, kept: Tensor | None = None) -> Tensor:
    """Attention of M frames to each other's tokens, all of them (Eq. 3) or only those kept for each frame (Eq. 7).

    Args:
        q: Queries ``[M, H, N, d]``; `k` and `v` likewise.
        kept: Indices ``[M, m]`` into the M*N tokens, frame-major; None keeps all.

    Returns:
        ``[M, H, N, d]``. Memory beyond the result: one frame's kept keys and values, ``2 H m d``.
    """
    frames, _, tokens, _ = q.shape
    k, v = (x.transpose(0, 1).flatten(1, 2) for x in (k, v))  # (H, M N, d)
    if kept is None:
        every = q.transpose(0, 1).flatten(1, 2)  # all frames see the same keys: one long query
        return (
            scaled_dot_product_attention(every[None], k[None], v[None])[0]
            .unflatten(1, (frames, tokens))
            .transpose(0, 1)
        )
    out = torch.empty_like(q)
    for i in range(frames):
        out[i] = scaled_dot_product_attention(q[i, None], k[None, :, kept[i]], v[None, :, kept[i]])[0]
    return out


@contextmanager
def attention_installed(unet: nn.Module, sites: Sequence[Site], processor: Callable[[Site], Any]) -> Iterator[None]:
    """Use ``processor(site)`` at each of `sites`; the UNet gets its former processors back on the way out."""
    former: dict[str, Any] = dict(unet.attn_processors)  # type: ignore[arg-type]
    chosen = {f"{site.name}.processor": processor(site) for site in sites}
    set_processors: Any = unet.set_attn_processor
    try:
        set_processors(former | chosen)
        yield
    finally:
        set_processors(dict(former))  # a copy: the method empties the dict it is handed


def _check_plain(attn: Attention, context: Tensor | None, mask: Tensor | None) -> None:
    """The layers of Stable Diffusion's transformer blocks have no more than q, k, v and an output projection."""
    if context is not None or mask is not None:
        raise ValueError("a self-attention processor was given a text context or a mask")
    if attn.group_norm is not None or attn.norm_q is not None or attn.residual_connection:
        raise ValueError("this attention layer has norms or a residual of its own; only Stable Diffusion's are known")
