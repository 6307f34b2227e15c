"""The noise predictions of an edit: at every timestep the keyframes jointly, all other frames by propagation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from .attention import AttentionRecord, KeyPass, attention_installed
from .backbone import Backbone, Branch, Conditioning
from .config import ResolvedConfig
from .injection import injected_from, injected_within, source_features
from .inversion import guided
from .keypass import ALL_AT_ONCE, KeyChunks, key_pass_in_chunks
from .propagation import Blend, OwnAttention, PropagationPass
from .reuse import DeepFeatures, deep_features, deep_features_only
from .slimming import kept_tokens
from .steps import Step, edit_steps
from .walk import Rows, begin, parts

DEEP = "deep"
"""The name under which the record has the keyframes' deep features."""
NONE_KNOWN: Mapping[int, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Source:
    """What a run of frames takes from its own source at one step.

    Attributes:
        features: What is injected, by site.
        outputs: Its self-attention's outputs ``[f, N, C]`` by layer; `deep`: its deep features ``[f, C, h, w]``.
    """

    features: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    deep: Tensor | None = None


class Editor:
    """The noise predictions of an edit (Section 4), for keyframes and for the frames that follow them.

    Args:
        backbone: The model.
        config: Injection, steps, guidance.
        conditioning: The three branches' text.
    """

    def __init__(self, backbone: Backbone, config: ResolvedConfig, conditioning: Conditioning) -> None:
        self.backbone, self.config, self.conditioning = backbone, config, conditioning
        self.scheduler = backbone.scheduler(config.steps)
        self._attention = backbone.attention_sites()
        self._layers = {id(backbone.unet.get_submodule(site.name)): site for site in self._attention}
        self._features = backbone.injection_feature_sites(config.injection.sites)
        self._queries = frozenset(site.name for site in backbone.injection_attention_sites())
        self._features_in_finest = any(backbone.in_finest_level(site) for site in self._features)
        self._in_finest = frozenset(site.name for site in self._attention if backbone.in_finest_level(site))
        last = self._attention[-1]  # what comes after it is of no use in a source row; deep features come before it
        self._source_end = last.name if last.part == "up" and backbone.in_finest_level(last) else "conv_out"
        self.steps = edit_steps(config, self.scheduler.timesteps.tolist())

    def edit_keys(
        self,
        step: Step,
        latents: Tensor,
        source: Tensor,
        keys: Sequence[int],
        kept: Mapping[int, Tensor],
        record: AttentionRecord | None,
        deep: DeepFeatures | None = None,
        chunks: KeyChunks = ALL_AT_ONCE,
        on_shrink: Callable[[KeyChunks], None] | None = None,
    ) -> Tensor:
        """The joint edit of all keyframes at one step; leaves their attention outputs in `record`.

        Args:
            latents: The edit's latents ``[M, c, h, w]`` of the keyframes.
            source: The inversion's latents of the same frames at this timestep.
            keys: The keyframes' numbers.
            kept: By level, the tokens ``[M, m]`` that each keyframe attends to; levels left out keep all.
            deep: Where a whole step leaves its deep features, and another takes them from.
            chunks: How many keyframes go through the UNet together; `on_shrink`: told when memory has run out and they
                have become smaller.

        Returns:
            The edit branches' predictions ``[2M, c, h, w]``, of a step without guidance ``[M, c, h, w]``.
        """
        if record is None:  # for no other frames: then nobody asks what the edit has changed
            step = replace(step, changes=False)
        branches = step.branches
        key_pass = KeyPass(
            branches,
            len(keys),
            extended=self.config.slimming.budget > 0,
            kept=kept,
            injected=self._queries if step.attention else frozenset(),
            record=record,
            recorded=self._in_finest if step.deep and (step.changes or not self.source_rows(step)) else None,
            changes=step.changes,
        )
        if not 0 < chunks.size < len(keys):
            return self._edit_at_once(step, latents, source, keys, key_pass, deep)
        if key_pass.joint:
            return self._edit_in_chunks(step, latents, source, keys, key_pass, deep, chunks, on_shrink)
        found = []
        for part in chunks.spans(len(keys)):  # they do not see each other: one after the other
            some = replace(key_pass, keys=len(part), first=part.start, total=len(keys))
            rows = slice(part.start, part.stop)
            noise = self._edit_at_once(step, latents[rows], source[rows], keys[rows], some, deep)
            found.append(noise.unflatten(0, (-1, len(part))))
        return torch.cat(found, dim=1).flatten(0, 1)

    def _edit_at_once(
        self,
        step: Step,
        latents: Tensor,
        source: Tensor,
        keys: Sequence[int],
        key_pass: KeyPass,
        deep: DeepFeatures | None,
    ) -> Tensor:
        """`edit_keys` in one call of the UNet."""
        branches = step.branches
        inputs = torch.cat([source if branch == "source" else latents for branch in branches])
        below = None
        if not step.whole:
            below = self._deep_keys(step, source, keys, key_pass.record, deep, key_pass.first, key_pass.total)
        with ExitStack() as stack:
            stack.enter_context(attention_installed(self.backbone.unet, self._attention, key_pass.processor))
            if step.features:
                stack.enter_context(injected_within(self.backbone.unet, self._features, len(branches)))
            noise = self._predict(step, inputs, keys, branches, deep, below, key_pass)
        return noise[-len(step.edited) * len(keys) :]

    @torch.inference_mode()
    def _edit_in_chunks(
        self,
        step: Step,
        latents: Tensor,
        source: Tensor,
        keys: Sequence[int],
        key_pass: KeyPass,
        deep: DeepFeatures | None,
        chunks: KeyChunks,
        on_shrink: Callable[[KeyChunks], None] | None,
    ) -> Tensor:
        """`edit_keys`, a few keyframes at a time, from one self-attention to the next."""
        unet, branches = self.backbone.unet, step.branches
        device, dtype = self.backbone.device, self.backbone.dtype
        record = key_pass.record

        def numbers(frames: range) -> list[int]:
            return [keys[i] for i in frames]

        def begun(frames: range) -> Rows:
            rows = [(source if branch == "source" else latents)[frames.start : frames.stop] for branch in branches]
            text = self.conditioning.rows(numbers(frames), *branches)["encoder_hidden_states"]
            return begin(unet, frames, torch.cat(rows).to(device, dtype), step.timestep, text)

        def take(rows: Rows) -> None:
            self._keep_deep(step, numbers(rows.frames), rows.x, deep, key_pass, rows.frames.start, len(keys))

        below: list[Tensor] = []  # of each chunk [branches, f, C, h, w]; made first: what is injected is not for it
        for part in [] if step.whole else chunks.spans(len(keys)):
            rows = source[part.start : part.stop]
            some = self._deep_keys(step, rows, numbers(part), record, deep, part.start, len(keys))
            some = some.unflatten(0, (len(branches), len(part)))
            below.append(some if chunks.rows == "device" else some.cpu())

        def give(rows: Rows) -> Tensor:
            picked = [below[i // chunks.size][:, i % chunks.size] for i in rows.frames]
            return torch.stack(picked, dim=1).flatten(0, 1).to(device)

        found = parts(unet, take=take) if step.whole else parts(unet, finest=True, give=give)
        with ExitStack() as stack:
            if step.features:
                stack.enter_context(injected_within(unet, self._features, len(branches)))
            return key_pass_in_chunks(key_pass, chunks, found, self._layers, begun, device, on_shrink)

    def _deep_keys(
        self,
        step: Step,
        source: Tensor,
        keys: Sequence[int],
        record: AttentionRecord | None,
        deep: DeepFeatures | None,
        first: int = 0,
        total: int = 0,
    ) -> Tensor:
        """Deep features of the keyframes in a step that is not whole: the edit's of the last one, the source's own."""
        parts = [] if deep is None else [deep.get(keys, step.edited).to(self.backbone.device)]
        if step.branches[0] == "source":
            left = None if step.changes else record  # for the frames' source rows, where they follow the keyframe's
            alone = KeyPass(("source",), len(keys), record=left, first=first, total=total)
            taken: list[Tensor] = []
            with (
                attention_installed(self.backbone.unet, self._attention, alone.processor),
                deep_features_only(self.backbone.unet, taken.append),
            ):
                self.backbone.predict(source, step.timestep, self.conditioning.rows(keys, "source"))
            parts = taken + parts
        return torch.cat(parts)

    def _predict(
        self,
        step: Step,
        inputs: Tensor,
        frames: Sequence[int],
        branches: Sequence[Branch],
        deep: DeepFeatures | None,
        below: Tensor | None,
        key_pass: KeyPass | None = None,
    ) -> Tensor:
        """One call of the whole UNet, which leaves its deep features, or of its finest level with those `below`."""
        text = self.conditioning.rows(frames, *branches)
        if below is not None:
            return self.backbone.predict_finest(inputs, step.timestep, below, text)
        if deep is None and not (step.deep and key_pass):
            return self.backbone.predict(inputs, step.timestep, text)
        taken: list[Tensor] = []
        with deep_features(self.backbone.unet, taken.append):
            noise = self.backbone.predict(inputs, step.timestep, text)
        first, total = (key_pass.first, key_pass.total) if key_pass else (0, 0)
        self._keep_deep(step, frames, taken[0], deep, key_pass, first, total)
        return noise

    def _keep_deep(
        self,
        step: Step,
        frames: Sequence[int],
        taken: Tensor,
        deep: DeepFeatures | None,
        key_pass: KeyPass | None,
        first: int,
        total: int,
    ) -> None:
        """Keep the edit's deep features of some frames: for later steps, and of keyframes for the frames of this one.

        Args:
            taken: Those of all branches in a call, the edit's last.
            key_pass: Where they are keyframes'; these are `first` and following of `total`, or all.
        """
        if deep is not None:
            deep.put(frames, step.edited, taken[-len(step.edited) * len(frames) :])
        if step.deep and key_pass and key_pass.record is not None:
            kept = key_pass.kept_of(taken.unflatten(0, (-1, len(frames))))[-len(step.edited) :]
            key_pass.record.put(DEEP, kept.flatten(3).transpose(2, 3).contiguous(), first, total)

    def propagate(
        self,
        step: Step,
        latents: Tensor,
        source: Tensor,
        frames: range,
        clips: Sequence[int],
        matches: Mapping[int, Tensor],
        record: AttentionRecord,
        blends: Sequence[Blend] = (),
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """The predictions ``[2f, c, h, w]`` for a run of frames, their self-attention propagated (Eq. 9).

        Of a step without guidance they are ``[f, c, h, w]``, the prompt's alone.

        Args:
            latents: The edit's latents ``[f, c, h, w]``.
            source: The inversion's, used only while features are injected.
            clips: Of each of the frames the clip, whose keyframe it follows.
            matches: By level, φ ``[f, N]`` of these frames to their keyframes.
            blends: Frames of these that follow another clip's keyframe as well.
            deep: Where a whole step leaves its deep features, and another takes them from.
        """
        own = self._source(step, source, frames, clips, matches, record, blends)
        edited = step.edited
        propagation = PropagationPass(record, step.recorded, edited, clips, matches, blends, own.outputs)
        below = None if step.whole or deep is None else deep.get(frames, edited)
        if step.deep:
            below = self._carried_deep(propagation, latents.shape[-2:], own.deep)
            if deep is not None:
                deep.put(frames, edited, below)
        with (
            attention_installed(self.backbone.unet, self._attention, propagation.processor),
            injected_from(self.backbone.unet, own.features, len(edited)),
        ):
            return self._predict(step, torch.cat([latents] * len(edited)), frames, edited, deep, below)

    def _source(
        self,
        step: Step,
        latents: Tensor,
        frames: range,
        clips: Sequence[int],
        matches: Mapping[int, Tensor],
        record: AttentionRecord,
        blends: Sequence[Blend],
    ) -> Source:
        """What a run of frames takes from its own source, whose row is run as far as anything is taken from it."""
        if not self.source_rows(step):
            return Source()
        unet, text = self.backbone.unet, self.conditioning.rows(frames, "source")
        if not step.changes:
            cut = PropagationPass(record, step.recorded, ("source",), clips, matches, blends)
            with (
                attention_installed(unet, self._attention, cut.processor),
                source_features(unet, self._features) as features,
            ):
                self.backbone.predict(latents, step.timestep, text)
            return Source(features)
        outputs: dict[str, Tensor] = {}
        deep: list[Tensor] = []
        with ExitStack() as stack:
            below = step.whole and not step.deep  # whether what lies below the finest level is run for the edit as well
            added = [site for site in self._attention if below or site.name in self._in_finest]
            stack.enter_context(attention_installed(unet, added, lambda site: OwnAttention(site, outputs)))
            if step.deep:
                stack.enter_context(deep_features(unet, deep.append))
            sites = self._features if step.features else ()
            features = stack.enter_context(source_features(unet, sites, until=self._source_end))
            self.backbone.predict(latents, step.timestep, text)
        return Source(features, outputs, deep[0] if deep else None)

    def source_rows(self, step: Step) -> bool:
        """Whether each frame's own source row is run, for what is injected, or added, where its edit rows are run."""
        injects = (step.whole and not step.deep) or self._features_in_finest
        return step.changes or (step.features and injects)

    def _carried_deep(self, propagation: PropagationPass, size: Sequence[int], own: Tensor | None) -> Tensor:
        """The keyframe's deep features where φ finds them for each of the frames: ``[b f, C, h, w]``.

        Args:
            own: Where the record holds what the edit has changed: the frames' own source's ``[f, C, h, w]``.
        """
        level = min(propagation.matches)
        tokens = propagation.carried(DEEP, slice(0, len(propagation.branches)), level, self.backbone.device)
        carried = tokens.transpose(2, 3).unflatten(-1, tuple(size))
        return (carried if own is None else carried + own).flatten(0, 1)

    def denoise(self, step: Step, noise: Tensor, latents: Tensor) -> Tensor:
        """The latents of the next timestep, from the edit branches' predictions ``[2f, …]``: guidance, then DDIM."""
        x = latents.to(noise.device)
        combined = guided(noise, self.config.guidance_scale) if step.guided else noise
        return self.scheduler.step(combined, step.timestep, x, return_dict=False)[0]

    def kept(
        self,
        features_at: Callable[[int], Tensor],
        keys: int,
        whole: bool = True,
        known: Mapping[int, Tensor] = NONE_KNOWN,
    ) -> dict[int, Tensor]:
        """The slimmed tokens of every level, or nothing where none are left out (Section 4.2).

        Args:
            features_at: Gives the features ``[M, N, d]`` of the keyframes at a level.
            keys: M.
            whole: Of the whole UNet, or of the finest level alone.
            known: Levels of which they have been found for the same keyframes.
        """
        slimming = self.config.slimming
        if keys <= slimming.budget or not slimming.budget:
            return {}
        levels = sorted({site.level for site in self._attention if whole or self.backbone.in_finest_level(site)})
        missing = [level for level in levels if level not in known]
        found = {level: kept_tokens(features_at(level), slimming.budget, slimming).int() for level in missing}
        return {**known, **found}
