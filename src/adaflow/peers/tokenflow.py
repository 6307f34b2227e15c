"""TokenFlow (Geyer et al., https://arxiv.org/abs/2307.10373): keyframes are edited jointly, their features propagated.

AdaFlow's predecessor: its keyframes are one for every few frames, and its matches are made anew in every layer and at
every step, from the source branch's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..attention import KeyAttention, KeyPass
from ..backbone import Site
from ..correspondence import match
from ..diskarray import DiskArray
from ..run import spans
from ..steps import Step
from .peer import read, with_source
from .pnp import PUBLISHED
from .stepwise import Prediction, Stepwise

Keys = Literal["clips", "adjacent"]


class TokenFlow(Stepwise):
    """Joint keyframes, one of every clip of a few frames, and features carried from two of them to each frame."""

    name = "tokenflow"
    title = "TokenFlow"
    about = "A keyframe of every eight frames edited jointly, its features propagated; in chunks of 128 frames."
    published = MappingProxyType(
        {
            **PUBLISHED,
            "inversion_steps": 500,
            "negative_prompt": "ugly, blurry, low res, unrealistic, unaesthetic",
            "peers.chunk": 128,
            "peers.clip": 8,
            "peers.keys": "clips",
        }
    )

    def predict(self, step: Step, chunk: range, latents: DiskArray, source: DiskArray) -> Iterator[Prediction]:
        """See `Stepwise`: a pass of the chunk's keyframes, and then its clips, one after the other."""
        bench, rule, branches = self.bench, self.config.peers.keys, with_source(step)
        clips = list(spans(chunk.start, chunk.stop, self.config.peers.clip))
        random = self.random(step)
        keys = [clip[int(random.integers(len(clip)))] for clip in clips]
        record = Record()
        joint = KeyPass(branches, len(keys), injected=self.injected(step), record=record)
        z, inverted = read(latents, keys), read(source, keys)
        bench.predict(step, branches, z, inverted, keys, lambda site: KeyTokens(site, joint, record), self.features)
        for number, clip in enumerate(clips):
            for frames in spans(clip.start, clip.stop, max(1, bench.rows // len(branches))):
                two = two_keys(clips, keys, number, frames, rule)
                z, inverted = read(latents, frames), read(source, frames)
                processor = TwoKeyPass(record, two).processor
                yield frames, bench.predict(step, branches, z, inverted, frames, processor, self.features)


@dataclass(frozen=True)
class Record:
    """What the keyframes' pass leaves, by layer.

    Attributes:
        tokens: The source branch's tokens before self-attention, ``[K, N, C]``.
        outputs: The outputs of self-attention, ``[branches, K, N, C]``.
    """

    tokens: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def put(self, layer: str, output: Tensor, first: int = 0, total: int = 0) -> None:
        """See `attention.AttentionRecord`."""
        self.outputs[layer] = output

    def get(self, layer: str, clip: int, branches: slice) -> Tensor:
        """See `attention.AttentionRecord`."""
        return self.outputs[layer][branches, clip]


class KeyTokens(KeyAttention):
    """The keyframes' joint attention, which also leaves the source's tokens in the record."""

    def __init__(self, site: Site, key_pass: KeyPass, record: Record) -> None:
        super().__init__(site, key_pass)
        self._record = record

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[B, N, C]`` in and out, as diffusers' attention-processor API has it."""
        self._record.tokens[self.site.name] = hidden_states[: self.key_pass.keys]
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


@dataclass(frozen=True)
class TwoKeys:
    """For each of some frames two keyframes ``[f]``, by their places, and the first one's weight ``[f]`` float32."""

    first: Tensor
    second: Tensor
    weight: Tensor


def two_keys(
    clips: Sequence[range], keys: Sequence[int], number: int, frames: Sequence[int], rule: Keys = "clips"
) -> TwoKeys:
    """Which keyframes the frames of clip `number` take their features from, and in which shares.

    ``clips``, the published code: their own clip's and the previous one's, by their distances d to the *clips'*
    middles: the own one weighs sigmoid(d_other / (d_own + d_other)). ``adjacent``, the paper: the keyframes on either
    side, by their distances to the keyframes themselves. Where there is only one, it is taken alone.

    Args:
        clips: The clips' frames; `keys`: the keyframe of each.
        frames: Some of the clip's frames.
    """
    chosen: list[tuple[int, int, float]] = []
    middles = [clip.start + len(clip) // 2 for clip in clips]
    for frame in frames:
        own = number if rule == "clips" or keys[number] >= frame else number + 1
        pair = [k for k in (own, own - 1) if 0 <= k < len(keys)]
        near, far = (abs(frame - (middles if rule == "clips" else keys)[k]) for k in (pair[0], pair[-1]))
        share = float(torch.tensor(far / (near + far), dtype=torch.float64).sigmoid()) if len(pair) == 2 else 1.0
        chosen.append((pair[0], pair[-1], share))
    first, second, weight = zip(*chosen, strict=True)
    return TwoKeys(torch.tensor(first), torch.tensor(second), torch.tensor(weight))


@dataclass(frozen=True)
class TwoKeyPass:
    """The denoising of some frames, whose self-attention is carried over from two keyframes each."""

    record: Record
    keys: TwoKeys

    def processor(self, site: Site) -> CarriedAttention:
        """The attention processor of one layer for this pass."""
        return CarriedAttention(site, self)


class CarriedAttention:
    """Features of two keyframes in place of self-attention, matched by the source's tokens in this very layer."""

    def __init__(self, site: Site, carried: TwoKeyPass) -> None:
        self.site, self.carried = site, carried

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[branches f, N, C]`` in and out, as diffusers' attention-processor API has it."""
        tokens, outputs = (of[self.site.name] for of in (self.carried.record.tokens, self.carried.record.outputs))
        two = self.carried.keys
        source = hidden_states[: len(two.first)]
        out = carried(source, tokens, outputs, two.first)
        if bool((two.weight < 1).any()):
            other = carried(source, tokens, outputs, two.second)
            out = torch.lerp(other, out, two.weight.to(out)[:, None, None])
        return out.flatten(0, 1).to(hidden_states.dtype)


def carried(source: Tensor, tokens: Tensor, outputs: Tensor, keys: Tensor) -> Tensor:
    """Each token of each frame gets the output of the most similar token of the frame's keyframe.

    Args:
        source: The frames' tokens ``[f, N, C]``; `tokens`: the keyframes', ``[K, N, C]``.
        outputs: The keyframes' outputs, ``[branches, K, N, C]``.
        keys: Which keyframe each frame looks at, ``[f]``.

    Returns:
        ``[branches, f, N, C]``.
    """
    out = outputs.new_empty((outputs.shape[0], *source.shape))
    for key in keys.unique().tolist():
        frames = (keys == key).nonzero()[:, 0].to(source.device)
        phi = match(source[frames].flatten(0, 1), tokens[key]).view(len(frames), -1)
        out[:, frames] = outputs[:, key][:, phi]
    return out
