"""The edit itself: at every timestep the keyframes are edited jointly, then all frames are denoised by propagation.

`Editor` computes the noise of one step for keyframes and for runs of frames; `edit` walks over the steps, with what is
between them on disk, so that a killed run loses at most the step in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .attention import AttentionRecord, Blend, KeyPass, PropagationPass, attention_installed
from .backbone import Backbone, Branch, Conditioning
from .borders import BorderMatches
from .config import ResolvedConfig
from .diskarray import DiskArray
from .injection import injected_from, injected_steps, injected_within, source_features
from .inversion import guided
from .keyframes import Partition
from .record import attention_record
from .reuse import DeepFeatures, DiskDeepFeatures, MemoryDeepFeatures, deep_features, deep_features_only
from .run import Run, spans
from .slimming import kept_tokens
from .stages import Matches, key_features
from .workspace import Stage

EDITED: tuple[Branch, Branch] = ("negative", "prompt")


@dataclass(frozen=True)
class Step:
    """One timestep: its number, its place on the noise scale, and what is done in it.

    Attributes:
        features, attention: Whether features, and queries and keys, of the source are injected.
        guided: Whether there is guidance.
        whole: Whether the whole UNet is run, or its finest level with the deep features of the last whole step.
    """

    number: int
    timestep: int
    features: bool
    attention: bool
    guided: bool = True
    whole: bool = True

    @property
    def edited(self) -> tuple[Branch, ...]:
        """The edit's branches: without guidance there is nothing negative to run."""
        return EDITED if self.guided else ("prompt",)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches of the key pass: the source is run only while something is taken from it."""
        return ("source", *self.edited) if self.features or self.attention else self.edited


def edit_steps(config: ResolvedConfig, timesteps: Sequence[int]) -> list[Step]:
    """The steps of an edit.

    Injection is in the first of them, guidance in an interval (Kynkäänniemi et al. 2024, https://arxiv.org/abs/
    2404.07724). Of every `reuse` steps the first runs the whole UNet, and so does one whose branches the last whole
    step did not have.
    """
    fractions = (config.injection.features, config.injection.attention, config.guidance_start, config.guidance_end)
    features, attention, start, end = (injected_steps(fraction, config.steps) for fraction in fractions)
    steps: list[Step] = []
    there: tuple[Branch, ...] = ()
    for s, t in enumerate(timesteps):
        step = Step(s, t, s < features, s < attention, start <= s < end)
        step = replace(step, whole=s % config.reuse == 0 or not set(step.edited) <= set(there))
        there = step.edited if step.whole else there
        steps.append(step)
    return steps


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
        self._features = backbone.injection_feature_sites(config.injection.sites)
        self._queries = frozenset(site.name for site in backbone.injection_attention_sites())
        self._features_in_finest = any(backbone.in_finest_level(site) for site in self._features)
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
    ) -> Tensor:
        """The joint edit of all keyframes at one step; leaves their attention outputs in `record`.

        Args:
            latents: The edit's latents ``[M, c, h, w]`` of the keyframes.
            source: The inversion's latents of the same frames at this timestep.
            keys: The keyframes' numbers.
            kept: By level, the tokens ``[M, m]`` that each keyframe attends to; levels left out keep all.
            deep: Where a whole step leaves its deep features, and another takes them from.

        Returns:
            The edit branches' predictions ``[2M, c, h, w]``, of a step without guidance ``[M, c, h, w]``.
        """
        branches = step.branches
        key_pass = KeyPass(
            branches,
            len(keys),
            extended=self.config.slimming.budget > 0,
            kept=kept,
            injected=self._queries if step.attention else frozenset(),
            record=record,
        )
        inputs = torch.cat([source if branch == "source" else latents for branch in branches])
        below = None if step.whole else self._deep_keys(step, source, keys, record, deep)
        with ExitStack() as stack:
            stack.enter_context(attention_installed(self.backbone.unet, self._attention, key_pass.processor))
            if step.features:
                stack.enter_context(injected_within(self.backbone.unet, self._features, len(branches)))
            noise = self._predict(step, inputs, keys, branches, deep, below)
        return noise[-len(step.edited) * len(keys) :]

    def _deep_keys(
        self,
        step: Step,
        source: Tensor,
        keys: Sequence[int],
        record: AttentionRecord | None,
        deep: DeepFeatures | None,
    ) -> Tensor:
        """Deep features of the keyframes in a step that is not whole: the edit's of the last one, the source's own."""
        parts = [] if deep is None else [deep.get(keys, step.edited).to(self.backbone.device)]
        if step.branches[0] == "source":
            alone = KeyPass(("source",), len(keys), record=record)
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
    ) -> Tensor:
        """One call of the whole UNet, which leaves its deep features, or of its finest level with those `below`."""
        text = self.conditioning.rows(frames, *branches)
        if below is not None:
            return self.backbone.predict_finest(inputs, step.timestep, below, text)
        if deep is None:
            return self.backbone.predict(inputs, step.timestep, text)
        taken: list[Tensor] = []
        with deep_features(self.backbone.unet, taken.append):
            noise = self.backbone.predict(inputs, step.timestep, text)
        deep.put(frames, step.edited, taken[0][-len(step.edited) * len(frames) :])
        return noise

    def propagate(
        self,
        step: Step,
        latents: Tensor,
        source: Tensor,
        frames: range,
        clip: int,
        matches: Mapping[int, Tensor],
        record: AttentionRecord,
        blends: Sequence[Blend] = (),
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """The predictions ``[2f, c, h, w]`` for a run of one clip's frames, their self-attention propagated (Eq. 9).

        Of a step without guidance they are ``[f, c, h, w]``, the prompt's alone.

        Args:
            latents: The edit's latents ``[f, c, h, w]``.
            source: The inversion's, used only while features are injected.
            matches: By level, φ ``[f, N]`` of these frames to the clip's keyframe.
            blends: Frames of these that follow another clip's keyframe as well.
            deep: Where a whole step leaves its deep features, and another takes them from.
        """
        unet, features = self.backbone.unet, {}
        if step.features and (step.whole or self._features_in_finest):
            cut = PropagationPass(record, step.branches, ("source",), clip, matches, blends)
            with (
                attention_installed(unet, self._attention, cut.processor),
                source_features(unet, self._features) as features,
            ):
                self.backbone.predict(source, step.timestep, self.conditioning.rows(frames, "source"))
        edited = step.edited
        propagation = PropagationPass(record, step.branches, edited, clip, matches, blends)
        below = None if step.whole or deep is None else deep.get(frames, edited)
        with (
            attention_installed(unet, self._attention, propagation.processor),
            injected_from(unet, features, len(edited)),
        ):
            return self._predict(step, torch.cat([latents] * len(edited)), frames, edited, deep, below)

    def denoise(self, step: Step, noise: Tensor, latents: Tensor) -> Tensor:
        """The latents of the next timestep, from the edit branches' predictions ``[2f, …]``: guidance, then DDIM."""
        x = latents.to(noise.device)
        combined = guided(noise, self.config.guidance_scale) if step.guided else noise
        return self.scheduler.step(combined, step.timestep, x, return_dict=False)[0]

    def kept(self, features_at: Callable[[int], Tensor], keys: int, whole: bool = True) -> dict[int, Tensor]:
        """The slimmed tokens of every level, or nothing where none are left out (Section 4.2).

        `whole`: of the whole UNet, or of the finest level alone.
        """
        slimming = self.config.slimming
        if keys <= slimming.budget or not slimming.budget:
            return {}
        levels = sorted({site.level for site in self._attention if whole or self.backbone.in_finest_level(site)})
        return {level: kept_tokens(features_at(level), slimming.budget, slimming) for level in levels}


@dataclass(frozen=True)
class Prepared:
    """What was done once for the video, before the prompt mattered.

    Attributes:
        trajectory: The inversion's latents ``[T, n, c, h, w]``, last timestep first.
        clips: The clips; `drawn`: the keyframe of each at each step, ``[T, M]``.
        matches: φ of every frame to the keyframes drawn for its clip.
        borders: φ of frames near borders to the keyframes drawn for the clip beside theirs.
        features: The stage that holds the diffusion features, for the choice of kept tokens.
    """

    trajectory: DiskArray
    clips: Partition
    drawn: Tensor
    matches: Matches
    borders: BorderMatches
    features: Stage


def edit(
    run: Run, editor: Editor, stage: Stage, video: Prepared, on_step: Callable[[Step], None] | None = None
) -> DiskArray:
    """Denoise the whole video; two arrays on disk take turns as what a step reads and what it writes.

    Returns:
        The edited clean latents ``[n, c, h, w]`` fp32.
    """
    shape = (run.frames, *video.trajectory.shape[2:])
    buffers = [stage.array(name, shape, torch.float32) for name in ("even", "odd")]
    device = run.backbone.device
    deep = deep_array(run, stage) if editor.config.reuse > 1 else None
    for step in editor.steps[stage.done :]:
        before = video.trajectory.sub(0) if step.number == 0 else buffers[(step.number - 1) % 2]
        after = buffers[step.number % 2]
        with attention_record(run.config, device, stage.folder) as record:
            run.fitting(partial(one_step, run, editor, step, video, before, after, record, deep))
        stage.advance(step.number + 1)
        if on_step:
            on_step(step)
    if not stage.complete:
        stage.finish()
    return buffers[(len(editor.steps) - 1) % 2]


def deep_array(run: Run, stage: Stage) -> DiskDeepFeatures:
    """Where an edit's deep features lie while they are reused: ``[2, n, C, h, w]`` in the model's type."""
    backbone = run.backbone
    shape = (2, run.frames, backbone.finest.channels, *run.latent_size)
    return DiskDeepFeatures(stage.array("deep", shape, backbone.dtype))


def one_step(
    run: Run,
    editor: Editor,
    step: Step,
    video: Prepared,
    before: DiskArray,
    after: DiskArray,
    record: AttentionRecord,
    deep: DeepFeatures | None = None,
) -> None:
    """One timestep for the whole video: the keyframes jointly, then every clip's frames in runs (Section 4)."""
    source, device = video.trajectory.sub(step.number), run.backbone.device
    drawn = video.drawn[step.number]
    keys = drawn.tolist()
    kept = editor.kept(lambda level: key_features(run, video.features, drawn, level), len(keys), step.whole)
    editor.edit_keys(step, before.rows(keys).float(), source.rows(keys).float(), keys, kept, record, deep)
    for c, clip in enumerate(video.clips.clips):
        for frames in spans(clip.start, clip.stop, run.plan.frames):
            z = before.read(frames.start, frames.stop).float()
            inverted = source.read(frames.start, frames.stop).float()
            phi = {level: rows.to(device) for level, rows in video.matches.of(c, keys[c], frames).items()}
            blends = video.borders.of(c, frames, keys, device)
            noise = editor.propagate(step, z, inverted, frames, c, phi, record, blends, deep)
            after.write(frames.start, editor.denoise(step, noise, z).cpu())
            run.report("edit", step.number * run.frames + frames.stop, len(editor.steps) * run.frames)


def edit_keyframes(
    editor: Editor, trajectory: Mapping[int, Tensor], keys: Sequence[int], features_at: Callable[[int], Tensor]
) -> Tensor:
    """The joint edit of a few keyframes alone, in memory: the preview.

    Args:
        trajectory: By timestep, the inverted latents ``[M, c, h, w]`` of the keyframes.

    Returns:
        Clean latents ``[M, c, h, w]``.
    """
    kept = editor.kept(features_at, len(keys))
    x = trajectory[editor.steps[0].timestep].float()
    deep = MemoryDeepFeatures() if editor.config.reuse > 1 else None
    for step in editor.steps:
        noise = editor.edit_keys(step, x, trajectory[step.timestep].float(), keys, kept, None, deep)
        x = editor.denoise(step, noise, x)
    return x
