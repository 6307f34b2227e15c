"""Rerender-A-Video (Yang et al., https://arxiv.org/abs/2306.07954) without ControlNet, GMFlow and EbSynth.

Keyframes are edited one after the other. Each looks only at the first one and at the one before it (their tokens are
the keys and values of its decoder's self-attention), starts from the first one's shape, and in a second run is drawn
towards what flow carries over from both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..attention import KeyAttention, KeyPass
from ..backbone import Branch, Site
from ..inversion import clean_and_noise, guided
from ..run import Run
from ..steps import Step
from ..workspace import Stage
from .flow import Picture, resized
from .keyed import Keyed, Keys
from .warp import grown, occluded, on_latents, softened, warped

SHAPED = 0.1
"""First share of the steps in which the first keyframe's clean latents are carried over."""

FUSED = (0.5, 0.8)
"""Between which shares of the steps the second run is drawn towards what flow carries over."""

STRENGTH, INNER = 0.5, 0.9
"""Of that draw, and of the noise given back where it is the same all around."""

DRIFT = 0.25 * 127.5
"""Levels by which a pixel may be wrong when the VAE's loss is made up for."""


class RerenderLite(Keyed):
    """Keyframes one after the other, each tied to the first and to the last one; flow for the frames between."""

    name = "rerender-lite"
    title = "Rerender-A-Video, lite"
    about = "A keyframe of every ten frames, each from the first and the one before; flow for the rest; no chunks."
    published = MappingProxyType(
        {
            "steps": 20,
            "inversion_steps": 20,
            "guidance_scale": 7.5,
            "injection.features": 0.8,
            "injection.attention": 0.5,
            "peers.interval": 10,
            "peers.flow": "dis",
        }
    )

    def keys(self, run: Run) -> list[int]:
        """See `Keyed`: the first frame, every so-manieth after it, and the last."""
        return sorted({*range(0, run.frames, self.config.peers.interval), run.frames - 1})

    def edit_group(self, number: int, keys: Keys, memory: Stage, tick: Callable[[float], None]) -> Iterable[Picture]:
        """See `Keyed`: each keyframe is a group of its own."""
        return [self._edit_key(number, keys, memory, tick)]

    def _edit_key(self, place: int, keys: Keys, memory: Stage, tick: Callable[[float], None]) -> Picture:
        """The first one is plainly edited; later ones in two runs."""
        kept = Memory(self, memory)
        own = ("even", "odd")[place % 2]
        if place == 0:
            return self._decoded(self._sample(Sampling(place, keys, kept, leaves=("first", own)), tick))
        context = ("first", ("odd", "even")[place % 2])
        to_first, to_former = (self._ties(keys, place, other) for other in (0, place - 1))
        sampling = Sampling(place, keys, kept, context=context, first=to_first)
        direct = self._decoded(self._sample(sampling, lambda share: tick(share / 2)))
        drawn = blended(_levels(direct), to_former.carried(keys.edited(place - 1)), to_former.lost)
        drawn = blended(drawn, to_first.carried(keys.edited(0)), to_first.lost)
        fusion = self._fusion(drawn, to_first.lost * to_former.lost)
        again = replace(sampling, fusion=fusion, leaves=(own,))
        return self._decoded(self._sample(again, lambda share: tick(0.5 + share / 2)))

    def _sample(self, this: Sampling, tick: Callable[[float], None]) -> Tensor:
        """One run: the clean latents ``[1, c, h, w]``."""
        bench, kind = self.bench, self.bench.scheduler.config.prediction_type
        frames = [this.keys.numbers[this.place]]
        levels = [float(bench.scheduler.alphas_cumprod[step.timestep]) for step in bench.steps]
        levels.append(float(bench.scheduler.final_alpha_cumprod))
        x, noise = this.inverted(0).to(bench.backbone.device), torch.zeros(())
        for step, level, after in zip(bench.steps, levels, levels[1:], strict=False):
            if this.fusion is not None and FUSED[0] * len(bench.steps) < step.number < FUSED[1] * len(bench.steps):
                fresh = torch.from_numpy(self.random(step, this.place).standard_normal(x.shape)).to(x)
                x = this.fusion.draw(x, noise, fresh, level)
            attention = StylePass(KeyPass(step.branches, 1, extended=False, injected=self.injected(step)), step, this)
            source = this.inverted(step.number).to(x.device)
            found = bench.predict(step, step.branches, x, source, frames, attention.processor, self.features)
            found = guided(found, self.config.guidance_scale) if len(found) > 1 else found
            clean, noise = clean_and_noise(found, x, level, kind)
            if this.first is not None and step.number < SHAPED * len(bench.steps):
                shape = this.first.on_grid(this.memory.clean(step)).to(clean)
                seen = 1 - on_latents(this.first.lost, bench.backbone.vae_factor).to(clean)
                clean = seen * shape + (1 - seen) * clean
            if "first" in this.leaves:
                this.memory.keep_clean(step, clean)
            x = after**0.5 * clean + (1 - after) ** 0.5 * noise
            tick((step.number + 1) / len(bench.steps))
        return x

    def _ties(self, keys: Keys, place: int, other: int) -> Ties:
        """A keyframe's flow towards an earlier one, both ways estimated."""
        here, there = keys.source(place), keys.source(other)
        flow, back = (torch.from_numpy(self.flow(a, b)) for a, b in ((here, there), (there, here)))
        return Ties(flow, occluded(flow, back).float())

    def _fusion(self, picture: Tensor, lost: Tensor) -> Fusion:
        """A picture ``[3, H, W]`` as latents to be drawn to, the VAE's loss made up for where that does no harm."""
        z = self._encoded(picture)
        missed = z - self._encoded(_levels(self._decoded(z)))
        better = _levels(self._decoded(z + missed))
        wrong = ((better - picture).abs().mean(0) > DRIFT).float()
        harm = grown(on_latents(wrong, self.bench.backbone.vae_factor), 3).to(z)
        weight = 1 - on_latents(softened(lost), self.bench.backbone.vae_factor)
        return Fusion((z + (1 - harm) * missed) * weight.to(z), weight.to(z))

    def _encoded(self, picture: Tensor) -> Tensor:
        frames = picture.permute(1, 2, 0).round().clamp(0, 255).byte()[None]
        return self.bench.backbone.encode(frames)

    def _decoded(self, latents: Tensor) -> Picture:
        return self.bench.backbone.decode(latents)[0].cpu().numpy()


@dataclass(frozen=True)
class Ties:
    """What a keyframe has in common with an earlier one.

    Attributes:
        flow: From the keyframe to the earlier one, ``[H, W, 2]``.
        lost: 1 where the keyframe shows what the earlier one does not, ``[H, W]``.
    """

    flow: Tensor
    lost: Tensor

    def carried(self, picture: Picture) -> Tensor:
        """The earlier one's edit ``[3, H, W]`` in levels on the keyframe's grid."""
        return warped(_levels(picture), self.flow)

    def on_grid(self, latents: Tensor) -> Tensor:
        """The earlier one's latents ``[1, c, h, w]`` on the keyframe's grid, each cell as it is."""
        h, w = latents.shape[-2:]
        return warped(latents[0], resized(self.flow, (h, w), "bilinear"), "nearest")[None]


@dataclass(frozen=True)
class Fusion:
    """Latents ``[1, c, h, w]`` to which a run is drawn, and where: ``[h, w]`` in [0, 1]."""

    latents: Tensor
    weight: Tensor

    def draw(self, x: Tensor, noise: Tensor, fresh: Tensor, level: float) -> Tensor:
        """A step's latents, drawn to these: noised afresh, and with the old noise given back where none is drawn.

        Args:
            x: The latents ``[1, c, h, w]``; `noise`: what was last predicted to be noise in them.
            fresh: Gaussian noise of the same shape.
            level: The signal's share of the variance at this timestep.
        """
        share = self.weight * STRENGTH
        same = grown(self.weight.cpu(), 3) + grown(-self.weight.cpu(), 3) == 0  # the most is the least, all around
        back = 1 - share
        inner = torch.where(same.to(share.device), torch.maximum(back, INNER * (1 - share.square()).sqrt()), back)
        old = (1 - level) ** 0.5 * noise
        wanted = level**0.5 * self.latents + (1 - level) ** 0.5 * fresh
        return share * wanted + (1 - share) * (x - old) + inner * old


class Memory:
    """What later keyframes look at, on disk: the decoder's tokens of the first and of the last ones, step by step.

    Holds for three keyframes ``steps x branches x sum over the decoder's layers of N C`` numbers each.
    """

    def __init__(self, peer: RerenderLite, stage: Stage) -> None:
        self._peer, self._stage = peer, stage

    def keep(self, slot: str, step: Step, site: Site, tokens: Tensor) -> None:
        """Keep ``[branches, N, C]`` of one layer at one step."""
        array = self._stage.array(f"{slot}.{site.name}", (self._steps, 3, *tokens.shape[1:]), tokens.dtype)
        array.sub(step.number).write(0, tokens)

    def tokens(self, slot: str, step: Step, site: Site, branches: int) -> Tensor:
        """What was kept, ``[branches, N, C]``."""
        return self._stage.existing(f"{slot}.{site.name}").sub(step.number).read(0, branches)

    def keep_clean(self, step: Step, latents: Tensor) -> None:
        """Keep the first keyframe's clean latents ``[1, c, h, w]``, as predicted at one step."""
        self._stage.array("clean", (self._steps, *latents.shape[1:]), torch.float32).write(step.number, latents)

    def clean(self, step: Step) -> Tensor:
        """What was kept, ``[1, c, h, w]``."""
        return self._stage.existing("clean").read(step.number, step.number + 1)

    @property
    def _steps(self) -> int:
        return len(self._peer.bench.steps)


@dataclass(frozen=True)
class Sampling:
    """One run of one keyframe.

    Attributes:
        place: Its place among the keyframes; `keys`: all of them; `memory`: what earlier ones left.
        context: Of which slots of the memory the tokens are looked at; none: of no others.
        first: The ties to the first keyframe, whose shape is carried over; None: it is the first.
        fusion: What the run is drawn to; None: nothing.
        leaves: In which slots it leaves its own tokens.
    """

    place: int
    keys: Keys
    memory: Memory
    context: tuple[str, ...] = ()
    first: Ties | None = None
    fusion: Fusion | None = None
    leaves: tuple[str, ...] = field(default=())

    def inverted(self, step: int) -> Tensor:
        """The inversion's latents ``[1, c, h, w]`` at a step."""
        return self.keys.origin.sub(step).read(self.place, self.place + 1).float()


@dataclass(frozen=True)
class StylePass:
    """One step of a run; `alone` is what attention is without others."""

    alone: KeyPass
    step: Step
    sampling: Sampling

    def processor(self, site: Site) -> StyleAttention | KeyAttention:
        """The attention processor of one layer for this pass."""
        return StyleAttention(site, self) if site.part == "up" else KeyAttention(site, self.alone)


class StyleAttention:
    """Self-attention whose keys and values are other keyframes' tokens; the source branch sees its own."""

    def __init__(self, site: Site, style: StylePass) -> None:
        self.site, self.style = site, style

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[branches, N, C]`` in and out, as diffusers' attention-processor API has it."""
        this, step, memory = self.style.sampling, self.style.step, self.style.sampling.memory
        branches: Sequence[Branch] = self.style.alone.branches
        for slot in this.leaves:
            memory.keep(slot, step, self.site, hidden_states)
        if not this.context:
            plain = KeyAttention(self.site, self.style.alone)
            return plain(attn, hidden_states, encoder_hidden_states, attention_mask)
        others = torch.cat([memory.tokens(slot, step, self.site, len(branches)) for slot in this.context], dim=1)
        others = others.to(hidden_states)
        injected = branches[0] == "source" and self.site.name in self.style.alone.injected
        parts = [(hidden_states[:1], hidden_states[:1], hidden_states[:1])] if branches[0] == "source" else []
        for row in range(len(parts), len(branches)):
            of = 0 if injected else row
            parts.append((hidden_states[of, None], others[of, None], others[row, None]))
        outputs = []
        for of_query, of_key, of_value in parts:
            q, k, v = (
                x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for x in (attn.to_q(of_query), attn.to_k(of_key), attn.to_v(of_value))
            )
            outputs.append(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        out = torch.cat(outputs).to(hidden_states.dtype)
        for layer in attn.to_out:
            out = layer(out)
        return out


def blended(under: Tensor, over: Tensor, lost: Tensor) -> Tensor:
    """Pictures ``[3, H, W]``: `over` where it is to be seen, with a soft edge, and `under` elsewhere."""
    share = softened(lost)
    return share * under + (1 - share) * over


def _levels(picture: Picture) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float()
