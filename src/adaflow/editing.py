"""The edit itself: the walk over the steps, with what is between them on disk.

A killed run loses at most the step in flight. What is computed in a step is `editor.Editor`'s.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .attention import AttentionRecord
from .borders import BorderMatches
from .budget import CLIPS_A_RUN
from .diskarray import DiskArray
from .editor import Editor
from .keyframes import Partition
from .masks import LocalEdit, set_back
from .overlap import read_ahead, write_behind
from .propagation import Blend
from .record import attention_record
from .reuse import DeepFeatures, DiskDeepFeatures, MemoryDeepFeatures
from .run import Run
from .stages import Matches, key_features
from .steps import Step
from .workspace import Stage


@dataclass(frozen=True)
class Prepared:
    """What was done once for the video, before the prompt mattered.

    Attributes:
        trajectory: The inversion's latents ``[T, n, c, h, w]``, last timestep first.
        clips: The clips; `drawn`: the keyframe of each at each step, ``[T, M]``.
        matches: φ of every frame to the keyframes drawn for its clip.
        borders: φ of frames near borders to the keyframes drawn for the clip beside theirs.
        features: The stage that holds the diffusion features, for the choice of kept tokens.
        local: Where the video is edited, if not everywhere.
    """

    trajectory: DiskArray
    clips: Partition
    drawn: Tensor
    matches: Matches
    borders: BorderMatches
    features: Stage
    local: LocalEdit | None = None

    def elsewhere(self, step: Step, frames: range) -> Elsewhere | None:
        """What some frames are set back to after a step, where they are not edited."""
        if self.local is None:
            return None
        following = step.number + 1
        source = self.trajectory.sub(following) if following < len(self.trajectory) else self.local.clean
        return Elsewhere(source.read(frames.start, frames.stop), self.local.of_latents(frames))


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
    place = run.edit_plan(len(video.clips.clips)).record
    lists = KeptLists(run, editor, video)
    with attention_record(place, device, stage.folder) as record:
        for step in editor.steps[stage.done :]:
            before = video.trajectory.sub(0) if step.number == 0 else buffers[(step.number - 1) % 2]
            after = buffers[step.number % 2]
            record.begin()
            one_step(run, editor, step, video, before, after, record, lists, deep)
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
    lists: KeptLists,
    deep: DeepFeatures | None = None,
) -> None:
    """One timestep for the whole video: the keyframes jointly, then all frames in runs (Section 4)."""
    source, device = video.trajectory.sub(step.number), run.backbone.device
    drawn = video.drawn[step.number]
    keys = drawn.tolist()
    kept = lists.of(step, drawn)
    z, inverted = before.rows(keys).float(), source.rows(keys).float()
    while not run.fits_keys(partial(editor.edit_keys, step, z, inverted, keys, kept, record, deep), len(keys)):
        pass
    clips = len(video.clips.clips)

    def load(frames: range) -> Inputs:
        """What one run reads."""
        z, inverted = (array.read(frames.start, frames.stop) for array in (before, source))
        places = video.clips.clips_of(frames)
        found = [video.matches.of(c, keys[c], some) for c, some in places]
        matches = {level: torch.cat([phi[level] for phi in found]) for level in found[0]}
        numbers = [c for c, some in places for _ in some]
        blends = video.borders.of(frames, keys, torch.device("cpu"))
        return Inputs(z, inverted, numbers, matches, blends, video.elsewhere(step, frames))

    def denoise(whole: range, loaded: Inputs, frames: range) -> None:
        given = (loaded if frames == whole else load(frames)).to(device)
        carried = given.clips, given.matches, record, given.blends
        noise = editor.propagate(step, given.z, given.inverted, frames, *carried, deep)
        z = editor.denoise(step, noise, given.z)
        if given.elsewhere:
            z = given.elsewhere.in_place(z)
        write(lambda: after.write(frames.start, z.cpu()))
        run.report("edit", step.number * run.frames + frames.stop, len(editor.steps) * run.frames)

    runs = propagation_runs(video.clips, run.edit_plan(clips).frames)
    with write_behind() as write, read_ahead([partial(load, frames) for frames in runs]) as inputs:
        for frames, loaded in zip(runs, inputs, strict=True):
            work = partial(denoise, frames, loaded)
            run.in_runs(frames.start, frames.stop, lambda plan: run.edit_plan(clips, plan).frames, work)


def propagation_runs(clips: Partition, most: int) -> list[range]:
    """All frames in runs of at most `most`, of at most `CLIPS_A_RUN` clips.

    A run goes on beyond its clip: clips are often short, and a call for few rows takes nearly as long as for many.
    """
    runs, start = [], 0
    ends = [clip.stop for clip in clips.clips]
    while start < clips.frames:
        last = bisect_right(ends, start) + CLIPS_A_RUN - 1  # the last clip that the run may reach into
        stop = min(start + most, ends[min(last, len(ends) - 1)])
        runs.append(range(start, stop))
        start = stop
    return runs


class KeptLists:
    """The tokens that keyframes keep: found anew at every step, unless its keyframes are those of the step before.

    With `keyframes.choice` middle or medoid they always are, and then the lists are found once.
    """

    def __init__(self, run: Run, editor: Editor, video: Prepared) -> None:
        self._run, self._editor, self._video = run, editor, video
        self._drawn = torch.empty(0)
        self._known: dict[int, Tensor] = {}

    def of(self, step: Step, drawn: Tensor) -> Mapping[int, Tensor]:
        """By level, the tokens ``[M, m]`` that each of the keyframes ``drawn`` ``[M]`` attends to at a step."""
        if not torch.equal(drawn, self._drawn):
            self._drawn, self._known = drawn, {}

        features_at = key_features(self._run, self._video.features, drawn)
        self._known = self._editor.kept(features_at, len(drawn), step.whole, self._known)
        return self._known


@dataclass(frozen=True)
class Elsewhere:
    """What the source is at the next timestep ``[f, c, h, w]``, and the share ``[f, 1, h, w]`` that is the edit's."""

    source: Tensor
    shares: Tensor

    def in_place(self, z: Tensor) -> Tensor:
        """The edit's latents where they are edited, the source's elsewhere."""
        return set_back(z, self.source, self.shares)


@dataclass(frozen=True)
class Inputs:
    """What a propagation run reads from disk: see `Editor.propagate`."""

    z: Tensor
    inverted: Tensor
    clips: Sequence[int]
    matches: Mapping[int, Tensor]
    blends: Sequence[Blend]
    elsewhere: Elsewhere | None

    def to(self, device: torch.device) -> Inputs:
        """On the device; latents in fp32, indices as they are used."""
        blends = [replace(b, matches=_indices(b.matches, device)) for b in self.blends]
        matches = _indices(self.matches, device)
        return Inputs(self.z.float(), self.inverted.float(), self.clips, matches, blends, self.elsewhere)


def _indices(matches: Mapping[int, Tensor], device: torch.device) -> dict[int, Tensor]:
    return {level: rows.to(device).long() for level, rows in matches.items()}


def edit_keyframes(
    editor: Editor,
    trajectory: Mapping[int, Tensor],
    keys: Sequence[int],
    features_at: Callable[[int], Tensor],
    on_step: Callable[[Step], None] | None = None,
    local: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The joint edit of a few keyframes alone, in memory: the preview.

    Args:
        trajectory: By timestep, the inverted latents ``[M, c, h, w]`` of the keyframes.
        on_step: Called after each step.
        local: Where not all is edited: the source's clean latents, and the share ``[M, 1, h, w]`` that is.

    Returns:
        Clean latents ``[M, c, h, w]``.
    """
    kept = editor.kept(features_at, len(keys))
    x = trajectory[editor.steps[0].timestep].float()
    deep = MemoryDeepFeatures() if editor.config.reuse > 1 else None
    for step in editor.steps:
        noise = editor.edit_keys(step, x, trajectory[step.timestep].float(), keys, kept, None, deep)
        x = editor.denoise(step, noise, x)
        if local:
            following = editor.steps[step.number + 1 : step.number + 2]
            x = set_back(x, trajectory[following[0].timestep] if following else local[0], local[1])
        if on_step:
            on_step(step)
    return x
