"""The edit itself: at every timestep the keyframes are edited jointly, then all frames are denoised by propagation.

`Editor` computes the noise of one step for keyframes and for runs of frames; `edit` walks over the steps, with what is
between them on disk, so that a killed run loses at most the step in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .attention import AttentionRecord, KeyPass, PropagationPass, attention_installed
from .backbone import Backbone, Branch, Conditioning
from .config import ResolvedConfig
from .diskarray import DiskArray
from .injection import injected_from, injected_steps, injected_within, source_features
from .inversion import guided
from .keyframes import Partition
from .record import attention_record
from .run import Run, spans
from .slimming import kept_tokens
from .stages import Matches, key_features
from .workspace import Stage

EDITED: tuple[Branch, Branch] = ("negative", "prompt")


@dataclass(frozen=True)
class Step:
    """One timestep: its number, its place on the noise scale, and what is injected in it."""

    number: int
    timestep: int
    features: bool
    attention: bool

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches of the key pass: the source is run only while something is taken from it."""
        return ("source", *EDITED) if self.features or self.attention else EDITED


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
        with_features = injected_steps(config.injection.features, config.steps)
        with_attention = injected_steps(config.injection.attention, config.steps)
        self.steps = [
            Step(s, t, s < with_features, s < with_attention) for s, t in enumerate(self.scheduler.timesteps.tolist())
        ]

    def edit_keys(
        self,
        step: Step,
        latents: Tensor,
        source: Tensor,
        keys: Sequence[int],
        kept: Mapping[int, Tensor],
        record: AttentionRecord | None,
    ) -> Tensor:
        """The joint edit of all keyframes at one step; leaves their attention outputs in `record`.

        Args:
            latents: The edit's latents ``[M, c, h, w]`` of the keyframes.
            source: The inversion's latents of the same frames at this timestep.
            keys: The keyframes' numbers.
            kept: By level, the tokens ``[M, m]`` that each keyframe attends to; levels left out keep all.

        Returns:
            The edit branches' predictions ``[2M, c, h, w]``.
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
        with ExitStack() as stack:
            stack.enter_context(attention_installed(self.backbone.unet, self._attention, key_pass.processor))
            if step.features:
                stack.enter_context(injected_within(self.backbone.unet, self._features, len(branches)))
            noise = self.backbone.predict(inputs, step.timestep, self.conditioning.rows(keys, *branches))
        return noise[-2 * len(keys) :]

    def propagate(
        self,
        step: Step,
        latents: Tensor,
        source: Tensor,
        frames: range,
        clip: int,
        matches: Mapping[int, Tensor],
        record: AttentionRecord,
    ) -> Tensor:
        """The predictions ``[2f, c, h, w]`` for a run of one clip's frames, their self-attention propagated (Eq. 9).

        Args:
            latents: The edit's latents ``[f, c, h, w]``.
            source: The inversion's, used only while features are injected.
            matches: By level, φ ``[f, N]`` of these frames to the clip's keyframe.
        """
        unet, features = self.backbone.unet, {}
        if step.features:
            cut = PropagationPass(record, step.branches, ("source",), clip, matches)
            with (
                attention_installed(unet, self._attention, cut.processor),
                source_features(unet, self._features) as features,
            ):
                self.backbone.predict(source, step.timestep, self.conditioning.rows(frames, "source"))
        propagation = PropagationPass(record, step.branches, EDITED, clip, matches)
        with (
            attention_installed(unet, self._attention, propagation.processor),
            injected_from(unet, features, len(EDITED)),
        ):
            rows = self.conditioning.rows(frames, *EDITED)
            return self.backbone.predict(torch.cat([latents, latents]), step.timestep, rows)

    def denoise(self, step: Step, noise: Tensor, latents: Tensor) -> Tensor:
        """The latents of the next timestep, from both edit branches' predictions ``[2f, …]``: guidance, then DDIM."""
        x = latents.to(noise.device)
        combined = guided(noise, self.config.guidance_scale)
        return self.scheduler.step(combined, step.timestep, x, return_dict=False)[0]

    def kept(self, features_at: Callable[[int], Tensor], keys: int) -> dict[int, Tensor]:
        """The slimmed tokens of every level, or nothing where none are left out (Section 4.2)."""
        slimming = self.config.slimming
        if keys <= slimming.budget or not slimming.budget:
            return {}
        levels = sorted({site.level for site in self._attention})
        return {level: kept_tokens(features_at(level), slimming.budget, slimming) for level in levels}


@dataclass(frozen=True)
class Prepared:
    """What was done once for the video, before the prompt mattered.

    Attributes:
        trajectory: The inversion's latents ``[T, n, c, h, w]``, last timestep first.
        clips: The clips; `drawn`: the keyframe of each at each step, ``[T, M]``.
        matches: φ of every frame to the keyframes drawn for its clip.
        features: The stage that holds the diffusion features, for the choice of kept tokens.
    """

    trajectory: DiskArray
    clips: Partition
    drawn: Tensor
    matches: Matches
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
    for step in editor.steps[stage.done :]:
        before = video.trajectory.sub(0) if step.number == 0 else buffers[(step.number - 1) % 2]
        after = buffers[step.number % 2]
        with attention_record(run.config, device, stage.folder) as record:
            run.fitting(partial(one_step, run, editor, step, video, before, after, record))
        stage.advance(step.number + 1)
        if on_step:
            on_step(step)
    if not stage.complete:
        stage.finish()
    return buffers[(len(editor.steps) - 1) % 2]


def one_step(
    run: Run, editor: Editor, step: Step, video: Prepared, before: DiskArray, after: DiskArray, record: AttentionRecord
) -> None:
    """One timestep for the whole video: the keyframes jointly, then every clip's frames in runs (Section 4)."""
    source, device = video.trajectory.sub(step.number), run.backbone.device
    drawn = video.drawn[step.number]
    keys = drawn.tolist()
    kept = editor.kept(lambda level: key_features(run, video.features, drawn, level), len(keys))
    editor.edit_keys(step, before.rows(keys).float(), source.rows(keys).float(), keys, kept, record)
    for c, clip in enumerate(video.clips.clips):
        for frames in spans(clip.start, clip.stop, run.plan.frames):
            z = before.read(frames.start, frames.stop).float()
            inverted = source.read(frames.start, frames.stop).float()
            phi = {level: rows.to(device) for level, rows in video.matches.of(c, keys[c], frames).items()}
            noise = editor.propagate(step, z, inverted, frames, c, phi, record)
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
    for step in editor.steps:
        noise = editor.edit_keys(step, x, trajectory[step.timestep].float(), keys, kept, None)
        x = editor.denoise(step, noise, x)
    return x
