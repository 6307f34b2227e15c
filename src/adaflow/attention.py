"""Self-attention of the keyframes: extended among them, and slimmed (Section 4.2); and where its outputs are kept.

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

    def put(self, layer: str, output: Tensor, first: int = 0, total: int = 0) -> None:
        """Keep ``[branches, f, N, C]`` of one layer: of all keyframes, or of f from `first` on of `total`."""

    def get(self, layer: str, clip: int, branches: slice) -> Tensor:
        """``[branches, N, C]`` of one layer and one clip's keyframe."""


class MemoryRecord:
    """An `AttentionRecord` in the memory of one device, usually the host's.

    Holds ``branches x M x sum over layers of N C`` numbers (SD 2.1 at 384x672 in fp16: 68 MB a keyframe).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._outputs: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Forget the last step."""
        self._outputs.clear()

    def put(self, layer: str, output: Tensor, first: int = 0, total: int = 0) -> None:
        """See `AttentionRecord`."""
        if not total:
            self._outputs[layer] = output.to(self.device)
            return
        shape = (output.shape[0], total, *output.shape[2:])
        kept = self._outputs.get(layer)
        if kept is None or kept.shape != shape:
            kept = self._outputs[layer] = torch.empty(shape, dtype=output.dtype, device=self.device)
        kept[:, first : first + output.shape[1]] = output

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
        recorded: The layers whose outputs go there; None: all.
        changes: Whether what goes there is what the edit branches' outputs differ by from the source's.
        first, total: Where these are a part of all keyframes, and see nothing of the others: which.
    """

    branches: Sequence[Branch]
    keys: int
    extended: bool = True
    kept: Mapping[int, Tensor] = field(default_factory=dict)
    injected: frozenset[str] = frozenset()
    record: AttentionRecord | None = None
    recorded: frozenset[str] | None = None
    changes: bool = False
    first: int = 0
    total: int = 0

    @property
    def joint(self) -> bool:
        """Whether keyframes see each other at all."""
        return self.extended and self.keys > 1

    @property
    def own_branches(self) -> int:
        """Branches that come first and see only their own frame, even where the edit's see all."""
        return int(self.branches[0] == "source")

    def processor(self, site: Site) -> KeyAttention:
        """The attention processor of one layer for this pass."""
        return KeyAttention(site, self)

    def keep(self, layer: str, output: Tensor, first: int = 0, total: int = 0) -> None:
        """Put a layer's outputs ``[branches, f, N, C]`` into the record, if they belong there."""
        if self.record is not None and (self.recorded is None or layer in self.recorded):
            self.record.put(layer, self.kept_of(output), first, total)

    def kept_of(self, output: Tensor) -> Tensor:
        """What is kept of ``[branches, f, …]``: all of it, or the edit branches less the source."""
        return output[1:] - output[:1] if self.changes else output


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
        check_plain(attn, encoder_hidden_states, attention_mask)
        this = self.key_pass
        branches = len(this.branches)
        if hidden_states.shape[0] != branches * this.keys:
            raise ValueError(f"{hidden_states.shape[0]} rows for {branches} branches of {this.keys} keyframes")
        injected = self.site.name in this.injected and this.branches[0] == "source"
        q, k, v = projections(attn, hidden_states, branches if injected else 0)
        own = this.keys * (this.own_branches if this.joint else branches)
        parts = [scaled_dot_product_attention(q[:own], k[:own], v[:own])] if own else []
        kept = this.kept.get(self.site.level)
        for start in range(own, branches * this.keys, this.keys):
            rows = slice(start, start + this.keys)
            parts.append(extended_attention(q[rows], k[rows], v[rows], kept))
        out = layer_output(attn, parts)
        this.keep(self.site.name, out.unflatten(0, (branches, this.keys)), this.first, this.total)
        return out


class KeyValueStore:
    """One layer's keys and values of all keyframes, for each of the edit's branches, filled chunk by chunk.

    They lie as attention reads them, ``[e, H, M, N, d]``: nothing is copied again. With injection the keys are the
    source's for all branches, and are held once.

    Args:
        frames: Keyframes M.
        branches: The edit's branches e.
        device: Where they are held: what does not fit on the device lies on the host, and each keyframe's kept tokens
            are brought from there.
    """

    def __init__(self, frames: int, branches: int, device: torch.device) -> None:
        self.frames, self.branches, self.device = frames, branches, device
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def put(self, first: int, k: Tensor, v: Tensor) -> None:
        """Keys ``[e or 1, f, H, N, d]`` and values ``[e, f, H, N, d]`` of the keyframes from number `first` on."""
        if self._keys is None or self._values is None:
            self._keys, self._values = self._room(k), self._room(v)
        span = slice(first, first + k.shape[1])
        self._keys[:, :, span] = k.transpose(1, 2).to(self.device)
        self._values[:, :, span] = v.transpose(1, 2).to(self.device)

    def move(self, device: torch.device) -> None:
        """Hold them there from now on."""
        self.device = device
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys.to(device), self._values.to(device)

    def of(self, branch: int) -> tuple[Tensor, Tensor]:
        """Keys and values ``[M, H, N, d]`` of the edit's branch of that number, views of what is held."""
        if self._keys is None or self._values is None:
            raise ValueError("no keys were put")
        return self._keys[min(branch, len(self._keys) - 1)].transpose(0, 1), self._values[branch].transpose(0, 1)

    def _room(self, x: Tensor) -> Tensor:
        e, _, heads, tokens, width = x.shape
        return torch.empty(e, heads, self.frames, tokens, width, dtype=x.dtype, device=self.device)


class ChunkAttention:
    """`KeyAttention` for a chunk of the keyframes, in two halves: what it gives the others, and what it takes.

    Between the two all chunks have to have given. The result is `KeyAttention`'s, a chunk's rows of it.
    """

    def __init__(self, site: Site, key_pass: KeyPass) -> None:
        self.site, self.key_pass = site, key_pass
        self._injected = site.name in key_pass.injected and key_pass.branches[0] == "source"

    def give(self, attn: Attention, hidden_states: Tensor, first: int, store: KeyValueStore) -> None:
        """Put the chunk's keys and values into `store`, from its input ``[branches f, N, C]``."""
        check_plain(attn, None, None)
        this = self.key_pass
        f = len(hidden_states) // len(this.branches)
        edited = hidden_states[f * this.own_branches :]
        k = attn.to_k(hidden_states[:f] if self._injected else edited)
        k, v = (x.unflatten(0, (-1, f)).unflatten(-1, (attn.heads, -1)).transpose(2, 3) for x in (k, attn.to_v(edited)))
        store.put(first, k, v)

    def take(self, attn: Attention, hidden_states: Tensor, first: int, store: KeyValueStore) -> Tensor:
        """The layer's output ``[branches f, N, C]``, put into the pass's record too."""
        this = self.key_pass
        branches, own = len(this.branches), this.own_branches
        f = len(hidden_states) // branches
        source = hidden_states[: f * own]
        q = attn.to_q(source).repeat(branches, 1, 1) if self._injected else attn.to_q(hidden_states)
        q = _by_head(attn, q)
        parts = []
        if own:
            shared = store.of(0)[0][first : first + f] if self._injected else None
            k = _by_head(attn, attn.to_k(source)) if shared is None else shared.to(q.device)
            parts.append(scaled_dot_product_attention(q[:f], k, _by_head(attn, attn.to_v(source))))
        kept = this.kept.get(self.site.level)
        kept = None if kept is None else kept[first : first + f]
        for branch in range(branches - own):
            start = f * (own + branch)
            parts.append(extended_attention(q[start : start + f], *store.of(branch), kept))
        out = layer_output(attn, parts)
        this.keep(self.site.name, out.unflatten(0, (branches, f)), first, this.keys)
        return out


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
    q, k, v = (_by_head(attn, x) for x in (q, k, attn.to_v(hidden_states)))
    return q, k, v


def _by_head(attn: Attention, x: Tensor) -> Tensor:
    """``[B, N, C]`` as ``[B, H, N, C / H]``."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def layer_output(attn: Attention, parts: Sequence[Tensor]) -> Tensor:
    """A layer's output ``[B, N, C]`` from what its heads gave, ``[b, H, N, C / H]`` a part."""
    out = torch.cat(list(parts)).transpose(1, 2).flatten(-2)
    for layer in attn.to_out:
        out = layer(out)
    return out


def extended_attention(q: Tensor, k: Tensor, v: Tensor, kept: Tensor | None = None) -> Tensor:
    """Attention of frames to the tokens of M frames, all of them (Eq. 3) or only those kept for each frame (Eq. 7).

    Args:
        q: Queries ``[f, H, N, d]``, of all M frames or of some.
        k: Keys ``[M, H, N, d]``, and `v` likewise; they may lie on another device. Where ``[H, M, N, d]`` is their
            order in memory they are read in place.
        kept: Indices ``[f, m]`` into the M*N tokens, frame-major; None keeps all.

    Returns:
        ``[f, H, N, d]``. Memory beyond the result: one frame's kept keys and values, ``2 H m d``.
    """
    frames, _, tokens, _ = q.shape
    k, v = (x.transpose(0, 1).flatten(1, 2) for x in (k, v))  # (H, M N, d)
    if kept is None:
        k, v = k.to(q.device), v.to(q.device)
        every = q.transpose(0, 1).flatten(1, 2)  # all frames see the same keys: one long query
        return (
            scaled_dot_product_attention(every[None], k[None], v[None])[0]
            .unflatten(1, (frames, tokens))
            .transpose(0, 1)
        )
    out = torch.empty_like(q)
    for i in range(frames):
        rows = kept[i].to(k.device)
        k_i, v_i = (x[None, :, rows].to(q.device) for x in (k, v))
        out[i] = scaled_dot_product_attention(q[i, None], k_i, v_i)[0]
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


def check_plain(attn: Attention, context: Tensor | None, mask: Tensor | None) -> None:
    """The layers of Stable Diffusion's transformer blocks have no more than q, k, v and an output projection."""
    if context is not None or mask is not None:
        raise ValueError("a self-attention processor was given a text context or a mask")
    if attn.group_norm is not None or attn.norm_q is not None or attn.residual_connection:
        raise ValueError("this attention layer has norms or a residual of its own; only Stable Diffusion's are known")
