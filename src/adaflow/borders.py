"""Frames near a border between two clips that follow both clips' keyframes: an addition to Section 4.3.

A frame's attention comes from its own clip's keyframe, so what is seen may change from one frame to the next where
clips meet. With `PropagationConfig.blend`, a frame near a border takes a convex mix of what it would take from its own
clip's keyframe and from the neighbouring clip's. Never over a cut: `keyframes.is_cut`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import FRAMES_MATCHED
from .diskarray import DiskArray
from .keyframes import Partition, is_cut
from .propagation import Blend
from .run import Run, spans
from .stages import attention_grids, level_features, match_arrays, write_matches
from .workspace import Stage


@dataclass(frozen=True)
class Stretch:
    """Frames at an end of clip `clip` that also follow the keyframe of the clip `other` beside it.

    Attributes:
        weights: Of the other clip's keyframe, for each frame.
    """

    clip: int
    other: int
    frames: range
    weights: tuple[float, ...]


def stretches(clips: Partition, blend: int, cuts: Collection[int] = ()) -> list[Stretch]:
    """The frames that follow two keyframes, clip by clip in order.

    The border lies half-way between the last frame of a clip and the first of the next. There both keyframes weigh the
    same; away from it the other's weight falls linearly from 1/2 to 0, over `blend` frames, but no further than to the
    middle of the clip: so a frame follows at most two keyframes, and the weights change evenly from frame to frame.

    Args:
        cuts: First frames of clips that come after a cut: over these borders nothing is mixed.
    """
    found = []
    for c, clip in enumerate(clips.clips):
        width = min(float(blend), len(clip) / 2)
        for other, border in ((c - 1, clip.start), (c + 1, clip.stop)):
            if not 0 <= other < len(clips) or border in cuts:
                continue
            near = {f: abs(f + 0.5 - border) for f in clip.frames if abs(f + 0.5 - border) < width}
            if near:
                weights = tuple(0.5 * (1 - distance / width) for distance in near.values())
                found.append(Stretch(c, other, range(min(near), max(near) + 1), weights))
    return found


@dataclass(frozen=True)
class BorderMatches:
    """φ of the frames that follow a second keyframe, to every keyframe drawn for the clip beside theirs.

    Rows lie stretch by stretch, within a stretch keyframe by keyframe, within a keyframe frame by frame.
    """

    stretches: tuple[Stretch, ...]
    keys: tuple[tuple[int, ...], ...]  # the distinct keyframes of each clip, rising
    starts: tuple[int, ...]  # the first row of each stretch
    arrays: dict[int, DiskArray]

    @classmethod
    def layout(cls, found: Sequence[Stretch], drawn: Tensor) -> BorderMatches:
        """Where each match will lie, for the keyframes ``[T, M]`` drawn."""
        keys = tuple(tuple(sorted(set(column.tolist()))) for column in drawn.T)
        starts = [0]
        for stretch in found:
            starts.append(starts[-1] + len(stretch.frames) * len(keys[stretch.other]))
        return cls(tuple(found), keys, tuple(starts), {})

    def row(self, place: int, key: int, frame: int) -> int:
        """The row of one frame of stretch number `place`, matched with one keyframe."""
        stretch = self.stretches[place]
        before = self.keys[stretch.other].index(key) * len(stretch.frames)
        return self.starts[place] + before + frame - stretch.frames.start

    def of(self, frames: range, keys: Sequence[int], device: torch.device) -> list[Blend]:
        """What a run of frames is blended with at a step whose keyframes, one of each clip, are `keys`."""
        found = []
        for place, stretch in enumerate(self.stretches):
            start, stop = max(frames.start, stretch.frames.start), min(frames.stop, stretch.frames.stop)
            if start >= stop:
                continue
            first = self.row(place, keys[stretch.other], start)
            phi = {level: a.read(first, first + stop - start).to(device) for level, a in self.arrays.items()}
            weights = stretch.weights[start - stretch.frames.start : stop - stretch.frames.start]
            rows = slice(start - frames.start, stop - frames.start)
            found.append(Blend(stretch.other, rows, torch.tensor(weights), phi))
        return found


def match_borders(run: Run, clips: Partition, drawn: Tensor, features: Stage, scheduled: Stage) -> BorderMatches:
    """The correspondences over the borders between clips that are not cuts; none where `propagation.blend` is 0."""
    blend, array = run.config.propagation.blend, features.existing("features")
    if not blend:
        return BorderMatches.layout([], drawn)
    stage = run.stage("borders", {"blend": blend}, features, scheduled)
    device = run.backbone.device
    cuts = stage.read_json("cuts")
    if cuts is None:
        pairs = ((b, array.read(b - 1, b + 1).to(device)) for b in clips.starts[1:])
        cuts = [b for b, (before, after) in pairs if is_cut(before, after, run.config.keyframes)]
        stage.write_json("cuts", cuts)
    layout = BorderMatches.layout(stretches(clips, blend, cuts), drawn)
    grids = attention_grids(run)
    arrays = match_arrays(stage, layout.starts[-1], grids) if layout.stretches else {}
    if not stage.complete:
        for place, stretch in enumerate(layout.stretches):
            if place < stage.done:
                continue
            targets = {k: level_features(array, k, grids, device) for k in layout.keys[stretch.other]}
            for frames in spans(stretch.frames.start, stretch.frames.stop, FRAMES_MATCHED):
                own = [level_features(array, frame, grids, device) for frame in frames]
                for key, target in targets.items():
                    write_matches(arrays, layout.row(place, key, frames.start), own, target)
            stage.advance(place + 1)
            run.report("edit", 0, run.frames * run.config.steps)  # a part of it: the row's own, and done in no time
        stage.finish()
    return BorderMatches(layout.stretches, layout.keys, layout.starts, arrays)
