"""What the figures show beyond an edit's results: heatmaps between frames, and the tokens that keyframes keep.

An edit stores neither. Both are computed again from the workspace's features by the very functions that the edit uses,
so an edit is not slowed down, and what is shown is what was decided.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import stages
from .config import EditConfig, KeyframeConfig
from .keyframes import Partition, heatmap, heatmaps, normalise, window_means, window_size
from .progress import ProgressCallback
from .run import Run
from .slimming import kept_tokens
from .video import open_source
from .workspace import Stage

if TYPE_CHECKING:
    from .pipeline import AdaFlowPipeline, Video

LARGEST_GRID = 1100
"""Tokens of a frame at the level whose kept tokens are shown, at most: 24x42 of SD 2.1, where the finest is 48x84."""


@dataclass(frozen=True)
class Compared:
    """A frame and the first one of a clip, by features.

    Attributes:
        first, frame: Their numbers.
        heatmap: `[h, w]`, H of the first frame's places in the other one; with `KeyframeConfig.both_directions`, of the
            two directions the one with the lower window.
        mean, lowest: The mean and the lowest window of it.
        window: That window: top, left, height, width in tokens.
        back: Whether the heatmap belongs to the places of `frame`, as found in the first one.
    """

    first: int
    frame: int
    heatmap: Tensor
    mean: float
    lowest: float
    window: tuple[int, int, int, int]
    back: bool = False


@dataclass(frozen=True)
class KeptTokens:
    """What the keyframes of one step keep at one level.

    Attributes:
        step: Which step; `keys`: its keyframes, one of each clip.
        grid: Height and width of the level, in tokens.
        kept: `[M, m]` indices into the M * N tokens, from `slimming.kept_tokens`.
        budget: Keyframes' worth of tokens that each may keep.
    """

    step: int
    keys: tuple[int, ...]
    grid: tuple[int, int]
    kept: Tensor
    budget: int


@dataclass(frozen=True)
class Evidence:
    """Comparisons, clip by clip, and kept tokens; None where every keyframe keeps all."""

    compared: tuple[tuple[Compared, ...], ...] = ()
    kept: KeptTokens | None = field(default=None)


def evidence(
    pipe: AdaFlowPipeline,
    video: Video,
    *,
    config: EditConfig | None = None,
    workspace: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    clips: int = 2,
    step: int = 0,
) -> Evidence:
    """Heatmaps and kept tokens of a video; what `AdaFlowPipeline.inspect` stores is found again or computed.

    Args:
        pipe: The model.
        video: What is, or was, edited.
        config: The settings of that edit; `workspace`: its folder.
        on_progress: As in the pipeline.
        clips: For how many clips frames are compared.
        step: Whose keyframes are shown.

    Raises:
        AdaFlowError: as the pipeline.
    """
    settings = pipe.resolve(config or EditConfig())
    with pipe.opened(open_source(video), settings, workspace, on_progress) as run:
        features = stages.extract_features(run, stages.encode(run))
        partition, scores, partitioned = stages.partition(run, features)
        drawn, _ = stages.draw_keyframes(run, partition, features, partitioned)
        return Evidence(
            tuple(
                tuple(compare(run, features, first, frame) for frame in frames)
                for first, frames in chosen_frames(partition, scores, clips)
            ),
            kept_at(run, features, drawn, step),
        )


def chosen_frames(partition: Partition, scores: Tensor, clips: int, each: int = 4) -> list[tuple[int, list[int]]]:
    """For some clips: the first frame, and those to compare it with.

    The clips are chosen by rule: the longest one, then those that the most different frames ended. The frames are
    spread over a clip, and the last one is the frame that ended it, where there is one.

    Args:
        partition: All clips.
        scores: `[n, 2]`, from `keyframes.partition_with_scores`.
        clips: How many of them; `each`: how many frames of one.
    """
    longest = max(range(len(partition)), key=lambda c: len(partition.clips[c]))
    ended = [c for c in range(len(partition) - 1) if c != longest and len(partition.clips[c]) > 1]
    ended.sort(key=lambda c: float(scores[partition.clips[c].stop, 1]))
    found = []
    for c in sorted([longest, *ended][:clips]):
        clip = partition.clips[c]
        last = min(clip.stop, partition.frames - 1)
        spread = torch.linspace(clip.start, last, each + 1).round().long().tolist()[1:]
        frames = sorted({frame for frame in spread if frame > clip.start})
        if frames:
            found.append((clip.start, frames))
    return found


def compare(run: Run, features: Stage, first: int, frame: int) -> Compared:
    """Two frames by their stored features."""
    array, config = features.existing("features"), run.config.keyframes
    one, other = (array.read(i, i + 1)[0].to(run.backbone.device) for i in (first, frame))
    return compare_features(one, other, first, frame, config)


@torch.no_grad()
def compare_features(
    one: Tensor, other: Tensor, first: int, frame: int, config: KeyframeConfig | None = None
) -> Compared:
    """`Compared` of features `[h, w, d]` of the frames `first` and `frame`."""
    config = (config or KeyframeConfig()).completed()
    pair = normalise(one), normalise(other)
    maps = heatmaps(*pair) if config.both_directions else (heatmap(*pair),)
    exact = [m.cpu().double() for m in maps]
    found = [lowest_window(m, *_windows(m, config)) for m in exact]
    chosen = min(range(len(found)), key=lambda n: found[n][0])
    lowest, window = found[chosen]
    return Compared(first, frame, maps[chosen].cpu(), float(exact[chosen].mean()), lowest, window, chosen == 1)


def _windows(heat: Tensor, config: KeyframeConfig) -> tuple[int, int, bool]:
    """Side and step of the windows, and whether they reach the borders, as `keyframes` has them under either rule."""
    window, stride, released = config.window or 0, config.stride or 0, config.rule == "released"
    if released:
        longer = max(heat.shape)
        window = window or max(1, longer // 16)
        stride = stride or min(window, max(1, longer // 32))
    return window, stride, not released


def lowest_window(
    heat: Tensor, window: int = 0, stride: int = 0, flush: bool = True
) -> tuple[float, tuple[int, int, int, int]]:
    """The lowest mean of a map `[h, w]` in a window, and the first such window: top, left, height, width.

    Args:
        heat: The map.
        window, stride, flush: As in `keyframes.window_means`.
    """
    height, width = heat.shape
    side, _ = window_size(height, width, window, stride)
    high, wide = min(side, height), min(side, width)
    means = window_means(heat, window, stride, flush)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    place = int(means.flatten().argmin())
    # the mean row and column of a window are its middle
    middle = [window_means(axis, window, stride, flush).flatten()[place].item() for axis in (rows, columns)]
    top, left = round(middle[0] - (high - 1) / 2), round(middle[1] - (wide - 1) / 2)
    return float(means.flatten()[place]), (top, left, high, wide)


def kept_at(run: Run, features: Stage, drawn: Tensor, step: int = 0) -> KeptTokens | None:
    """What the keyframes `[T, M]` keep at one step; None where they keep everything, or only themselves."""
    slimming, keys = run.config.slimming, drawn[step]
    if not 0 < slimming.budget < len(keys):
        return None
    grids = stages.attention_grids(run)
    fitting = [level for level, (h, w) in grids.items() if h * w <= LARGEST_GRID]
    level = min(fitting) if fitting else max(grids)
    kept = kept_tokens(stages.key_features(run, features, keys)(level), slimming.budget, slimming)
    return KeptTokens(step, tuple(keys.tolist()), grids[level], kept.cpu(), slimming.budget)
