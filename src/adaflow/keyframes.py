"""Adaptive Keyframe Selection (Section 4.1): a video is divided into clips, and each clip gives one keyframe a step.

Pure functions on features. The partition is made in one pass that holds two frames' features: the clip's first, and the
one it is compared with. How the printed Algorithm 1 and the published script differ from this: docs/method.md.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import KeyframeConfig
from .correspondence import CHUNK, best_similarities, best_similarity, normalise
from .errors import ConfigError, InputError

__all__ = [
    "Clip",
    "Partition",
    "heatmap",
    "heatmaps",
    "is_cut",
    "normalise",
    "partition",
    "partition_with_scores",
    "pool",
    "printed_algorithm_1",
    "schedule",
    "window_means",
    "window_size",
]

Strategy = Literal["uniform", "middle", "medoid"]


@dataclass(frozen=True)
class Clip:
    """The frames from `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a clip cannot go from frame {self.start} to {self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def frames(self) -> range:
        """The indices of its frames."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class Partition:
    """Clips that cover the frames 0..n exactly, in order."""

    clips: tuple[Clip, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clips", tuple(self.clips))
        if not self.clips or self.clips[0].start != 0:
            raise ValueError("the first clip must start at frame 0")
        for before, after in zip(self.clips, self.clips[1:], strict=False):
            if before.stop != after.start:
                raise ValueError(f"a clip ends at frame {before.stop} and the next one starts at {after.start}")

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def starts(self) -> list[int]:
        """The first frame of each clip."""
        return [clip.start for clip in self.clips]

    @property
    def frames(self) -> int:
        """n, the number of frames."""
        return self.clips[-1].stop

    def clip_of(self, frame: int) -> int:
        """The index of the clip that holds `frame`."""
        if not 0 <= frame < self.frames:
            raise IndexError(f"frame {frame} of {self.frames}")
        return bisect.bisect_right(self.starts, frame) - 1

    def clips_of(self, frames: range) -> list[tuple[int, range]]:
        """The clips that some frames lie in, by index, and which of the frames are theirs."""
        found, start = [], frames.start
        while start < frames.stop:
            clip = self.clip_of(start)
            stop = min(frames.stop, self.clips[clip].stop)
            found.append((clip, range(start, stop)))
            start = stop
        return found

    @classmethod
    def from_starts(cls, starts: Sequence[int], frames: int) -> Partition:
        """The clips that begin at `starts` (ascending from 0), the last one ending with the video."""
        return cls(tuple(Clip(int(a), int(b)) for a, b in zip(starts, [*starts[1:], frames], strict=True)))

    def to_json(self) -> dict[str, Any]:
        """What `json` can write and `from_json` reads: the starts and the number of frames."""
        return {"starts": self.starts, "frames": self.frames}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Partition:
        """The inverse of `to_json`. Raises `ValueError` for anything else."""
        try:
            return cls.from_starts(tree["starts"], int(tree["frames"]))
        except (KeyError, TypeError) as error:
            raise ValueError("not a partition: 'starts' and 'frames' are wanted") from error


def heatmap(f_i: Tensor, f_j: Tensor, chunk: int = CHUNK) -> Tensor:
    """H_ij (Eq. 4-6): for each token of frame i, its cosine with the most similar token of frame j.

    Args:
        f_i: Features `[h, w, d]` of frame i, of any floating type.
        f_j: Features of frame j.
        chunk: Tokens of i compared at once. Memory grows with `chunk * h * w`.

    Returns:
        `[h, w]` float32 in [-1, 1].
    """
    _check_pair(f_i, f_j)
    return best_similarity(f_i.flatten(0, 1), f_j.flatten(0, 1), chunk).view(f_i.shape[:2])


def heatmaps(f_i: Tensor, f_j: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """H_ij and H_ji, from one matrix of similarities. What is new in frame j lowers the second, not the first."""
    _check_pair(f_i, f_j)
    there, back = best_similarities(f_i.flatten(0, 1), f_j.flatten(0, 1), chunk)
    return there.view(f_i.shape[:2]), back.view(f_j.shape[:2])


def window_size(height: int, width: int, window: int = 0, stride: int = 0) -> tuple[int, int]:
    """Side and step of the windows for a map of this size, in tokens; 0 means the rule.

    The rule is a sixteenth of the longer side but at least 3, and a thirty-second but at least 1: 5 and 2 at 48x84,
    where the paper's 42 and 21 pixels are 5.25 and 2.6 tokens. `window_means` caps the side by the map.

    Raises:
        ConfigError: a step larger than the side, which would leave tokens in no window.
    """
    longer = max(height, width)
    side = window or max(3, longer // 16)
    if stride > side:
        raise ConfigError(
            f"stride {stride} exceeds window {side}: some tokens would lie in no window; use at most {side}"
        )
    return side, stride or min(side, max(1, longer // 32))


def window_means(heatmap: Tensor, window: int = 0, stride: int = 0, flush: bool = True) -> Tensor:
    """The mean of a `[h, w]` map in every window: `[rows, columns]`, of the map's type.

    Args:
        heatmap: The map.
        window: Side of a window in tokens, capped by the map; 0: `window_size`'s rule.
        stride: Step from one window to the next; 0: the rule.
        flush: Also the windows that touch the lower and the right border where the steps do not reach it, so that every
            token lies in a window. The published script leaves them out.
    """
    if heatmap.ndim != 2 or not heatmap.numel():
        raise ValueError(f"the map has shape {tuple(heatmap.shape)}; wanted [h, w]")
    height, width = heatmap.shape
    side, step = window_size(height, width, window, stride)
    sides = (min(side, height), min(side, width))
    means = F.avg_pool2d(heatmap[None, None], sides, stride=1)[0, 0]
    rows, columns = (_positions(length, step, flush) for length in means.shape)
    return means[rows][:, columns]


def partition(
    features: Iterable[Tensor], config: KeyframeConfig | None = None, on_frame: Callable[[int], None] | None = None
) -> Partition:
    """Divides a video into clips of similar frames (Algorithm 1), in one pass.

    Frame 0 starts a clip. A new clip starts at frame j when its similarity to the first frame i of the current clip is
    too low, on average or in any window, or when j - i reaches the longest allowed clip; then i = j.

    Args:
        features: The features `[h, w, d]` of each frame in order, of any floating type and length. Read once, and
            copied: the same buffer may be filled anew for each frame.
        config: Thresholds, windows, longest clip, rule. What is not set has Stable Diffusion's value.
        on_frame: Called with the number of frames examined so far.

    Raises:
        InputError: there is no frame.
        ValueError: features of wrong rank, of changing shape, or not finite.
    """
    return partition_with_scores(features, config, on_frame)[0]


@torch.no_grad()
def partition_with_scores(
    features: Iterable[Tensor], config: KeyframeConfig | None = None, on_frame: Callable[[int], None] | None = None
) -> tuple[Partition, Tensor]:
    """`partition`, and `[n, 2]` float64: the mean and the lowest window that decided about each frame.

    A frame that was compared with nothing has (1, 1): frame 0, and under the released rule each frame after a cut.
    """
    config = (config or KeyframeConfig()).completed()
    released = config.rule == "released"
    longest = config.longest_clip - 1 if released else config.longest_clip
    reference: Tensor | None = None
    shape: torch.Size | None = None
    first = 0
    starts: list[int] = []
    scores: list[tuple[float, float]] = []
    for j, frame in enumerate(features):
        if frame.ndim != 3 or not frame.numel():
            raise ValueError(f"the features of frame {j} have shape {tuple(frame.shape)}; wanted [h, w, d]")
        if shape is not None and frame.shape != shape:
            raise ValueError(f"the features of frame {j} have shape {tuple(frame.shape)}, those before {tuple(shape)}")
        shape = frame.shape
        try:
            current = normalise(frame)
        except ValueError as error:
            raise ValueError(f"frame {j}: {error}") from error
        if reference is None:
            scores.append((1.0, 1.0))
            starts = starts or [0]
            reference, first = current, j
        else:
            score = _similarity(reference, current, config)
            scores.append(score)
            if _differ(score, config) or j - first >= longest:
                starts.append(j)
                # the published script goes on with the frame after the one that failed, compared with nothing
                reference, first = (None, j + 1) if released else (current, j)
        if on_frame is not None:
            on_frame(j + 1)
    if not scores:
        raise InputError("the video has no frames")
    return Partition.from_starts(starts, len(scores)), torch.tensor(scores, dtype=torch.float64)


@torch.no_grad()
def is_cut(before: Tensor, after: Tensor, config: KeyframeConfig | None = None) -> bool:
    """Whether two frames that follow each other, features `[h, w, d]`, are too different for one clip.

    A clip ends where a frame has become too different from the clip's *first* one, or with its length. At a cut the
    frames on either side of the border are too different from each other, by the same thresholds.
    """
    config = (config or KeyframeConfig()).completed()
    return _differ(_similarity(normalise(before), normalise(after), config), config)


def printed_algorithm_1(features: Sequence[Tensor], config: KeyframeConfig | None = None) -> list[int]:
    """Algorithm 1 to the letter, for the documentation alone; its list counts frames from 1, as the paper does.

    It notes the start of the clip that *ended*, leaves the frame that failed in that clip, never notes the last clip,
    and never looks at frame n. `partition` is what the paper's text describes.
    """
    config = (config or KeyframeConfig()).completed()
    units = [normalise(f) for f in features]
    starts = []
    i, j = 1, 2
    while j < len(units):
        mean, lowest = _similarity(units[i - 1], units[j - 1], config)
        if _differ((mean, lowest), config):
            starts.append(i)
            i = j + 1
            j = i
        j += 1
    return starts


def pool(features: Tensor) -> Tensor:
    """A frame's features `[..., d]` as one descriptor `[d]`: the mean of its unit tokens. What `schedule` wants."""
    return normalise(features).flatten(0, -2).mean(dim=0)


def schedule(
    partition: Partition,
    timesteps: int | Sequence[Any],
    seed: int,
    strategy: Strategy = "uniform",
    features: Tensor | Callable[[int], Tensor] | None = None,
) -> Tensor:
    """The keyframe of every clip at every timestep.

    Args:
        partition: The clips.
        timesteps: How many there are, or the timesteps themselves.
        seed: Of the draws; only "uniform" draws.
        strategy: "uniform" draws a frame of each clip anew at each timestep (the paper); "middle" takes the middle one,
            of two the earlier; "medoid" takes the frame nearest to the clip's mean.
        features: For "medoid": a descriptor of each frame, `[n, d]` or a function from frame to `[d]`: `pool`.

    Returns:
        `[T, M]` int64, on the CPU.
    """
    steps = timesteps if isinstance(timesteps, int) else len(timesteps)
    if steps < 1:
        raise ValueError("there must be at least one timestep")
    starts = torch.tensor(partition.starts)
    lengths = torch.tensor([len(clip) for clip in partition.clips])
    if strategy == "uniform":
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(steps, len(partition), generator=generator, dtype=torch.float64)
        return starts + (draws * lengths).long().minimum(lengths - 1)
    if strategy == "middle":
        return (starts + (lengths - 1) // 2).repeat(steps, 1)
    if strategy == "medoid":
        if features is None:
            raise ValueError("the medoid needs the frames' features")
        if isinstance(features, Tensor) and (features.ndim != 2 or len(features) != partition.frames):
            raise ValueError(f"features have shape {tuple(features.shape)}; wanted [{partition.frames}, d]")
        descriptor = features.__getitem__ if isinstance(features, Tensor) else features
        chosen = [clip.start + _medoid([descriptor(frame) for frame in clip.frames]) for clip in partition.clips]
        return torch.tensor(chosen).repeat(steps, 1)
    raise ConfigError(f"there is no way {strategy!r} to choose keyframes; there are uniform, middle and medoid")


def _medoid(descriptors: Sequence[Tensor]) -> int:
    points = torch.stack([d.detach().cpu().double() for d in descriptors])
    if points.ndim != 2 or not bool(points.isfinite().all()):
        raise ValueError("a frame's descriptor must be one finite vector")
    distance = (points - points.mean(dim=0)).square().sum(dim=1)
    return int((distance == distance.amin()).nonzero()[0])


def _similarity(reference: Tensor, current: Tensor, config: KeyframeConfig) -> tuple[float, float]:
    """The mean and the lowest window's mean of the heatmap; with both directions, the lower of either."""
    maps = heatmaps(reference, current) if config.both_directions else (heatmap(reference, current),)
    height, width = maps[0].shape
    window, stride = config.window, config.stride
    flush = config.rule != "released"
    if not flush:  # the published script's rule, which has no lower bound and so ends in an error on small maps
        window = window or max(1, max(height, width) // 16)
        stride = stride or min(window, max(1, max(height, width) // 32))
    means, lowest = [], []
    for exact in (m.cpu().double() for m in maps):  # sums in float64: their order does not decide about a frame
        means.append(float(exact.mean()))
        lowest.append(float(window_means(exact, window, stride, flush).amin()))
    return min(means), min(lowest)


def _differ(score: tuple[float, float], config: KeyframeConfig) -> bool:
    """Whether the mean similarity, or that of the lowest window, is too low for one clip."""
    return score[0] < _given(config.mean_threshold) or score[1] < _given(config.window_threshold)


def _given(value: float | None) -> float:
    assert value is not None  # `completed` leaves nothing open
    return value


def _positions(length: int, step: int, flush: bool) -> list[int]:
    """The windows' places along an axis with `length` of them, every `step`, and the last one."""
    places = list(range(0, length, step))
    return [*places, length - 1] if flush and places[-1] != length - 1 else places


def _check_pair(f_i: Tensor, f_j: Tensor) -> None:
    if f_i.ndim != 3 or f_j.ndim != 3 or f_i.shape[2] != f_j.shape[2] or not f_i.numel() or not f_j.numel():
        raise ValueError(f"features have shapes {tuple(f_i.shape)} and {tuple(f_j.shape)}; wanted [h, w, d] both")
