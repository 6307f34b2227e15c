"""The clips of a video while thresholds are being moved: at once from a small copy of its features, then exactly.

The small copy, made once, has at most `TOKENS` tokens of `DEPTH` numbers a frame. Tokens are averaged in squares;
depth is cut by projecting on the directions that hold most of the features' energy, which keeps cosines best. What that
changes on average is measured on the clips that are known exactly, and the thresholds are moved by as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import KeyframeConfig
from ..directions import energy, leading_directions, sampled_frames
from ..diskarray import DiskArray
from ..keyframes import Partition, partition_with_scores, window_size
from ..store import STAGES, read_json, read_stage, stage_infos, write_json

TOKENS, DEPTH = 512, 64
"""Of a frame in the small copy: what 1,000 frames are divided with in about half a second on one core."""


@dataclass(frozen=True)
class Analysis:
    """What a look at a video left in its workspace: its features and the clips they were divided into."""

    features: Path
    shape: tuple[int, ...]
    partition: Partition
    scores: Tensor
    config: KeyframeConfig

    def frames(self) -> Iterator[Tensor]:
        """The features `[h, w, d]` of each frame, read from the disk."""
        array = DiskArray.open(self.features, self.shape, torch.float16, writable=False)
        return (array.read(i, i + 1)[0] for i in range(self.shape[0]))


def find_analysis(workspace: Path) -> Analysis | None:
    """The analysis last used in a workspace, read without its lock: complete stages do not change any more."""
    infos = [i for i in stage_infos(workspace) if i.state == "complete" and i.name == "partition"]
    for info in sorted(infos, key=lambda i: i.last_used, reverse=True):
        folder = workspace / STAGES / info.folder
        features = workspace / STAGES / str(info.key["from"][0])
        if not features.is_dir():
            continue
        shape, dtype = read_stage(features).arrays["features"]
        data = read_json(folder / "partition.json", folder)
        if dtype != "float16":
            continue
        config = KeyframeConfig.from_fields({k: v for k, v in info.key.items() if k != "from"})
        scores = torch.tensor(data["scores"], dtype=torch.float64)
        return Analysis(features / "features.bin", tuple(shape), Partition.from_json(data), scores, config)
    return None


@dataclass(frozen=True)
class Sketch:
    """The small copy: `[n, h, w, d]` fp16, the side of the squares averaged, and how much thresholds are moved."""

    features: Tensor
    square: int
    full: tuple[int, int]  # the grid it was made from
    shift: tuple[float, float]  # exact similarity less the sketch's: of the mean, and of the lowest window

    def config(self, config: KeyframeConfig) -> KeyframeConfig:
        """The settings that mean the same here: thresholds moved, windows in larger tokens."""
        exact = config.completed()
        assert exact.mean_threshold is not None and exact.window_threshold is not None
        moved = replace(
            exact,
            mean_threshold=_within(exact.mean_threshold - self.shift[0]),
            window_threshold=_within(exact.window_threshold - self.shift[1]),
        )
        if self.square == 1:
            return moved
        side, stride = window_size(*self.full, exact.window or 0, exact.stride or 0)
        side = max(1, round(side / self.square))
        return replace(moved, window=side, stride=min(side, max(1, round(stride / self.square))))

    def divide(self, config: KeyframeConfig) -> tuple[Partition, Tensor]:
        """The clips, about, and each frame's similarity `[n, 2]`, on the exact scale."""
        found, scores = partition_with_scores(iter(self.features), self.config(config))
        return found, scores + torch.tensor(self.shift, dtype=torch.float64)

    def save(self, file: Path) -> None:
        """Write it, whole or not at all."""
        about = f"{self.square} {self.full[0]} {self.full[1]} {self.shift[0]!r} {self.shift[1]!r}"
        part = file.with_name(f".{file.name}")
        save_file({"features": self.features}, part, metadata={"sketch": about})
        part.replace(file)

    @classmethod
    def load(cls, file: Path) -> Sketch | None:
        """One that was saved; None where there is none."""
        if not file.is_file():
            return None
        with safe_open(file, framework="pt") as stored:
            square, height, width, mean, window = stored.metadata()["sketch"].split()
            features = stored.get_tensor("features")
        return cls(features, int(square), (int(height), int(width)), (float(mean), float(window)))


def make_sketch(analysis: Analysis) -> Sketch:
    """The small copy of an analysis; reads all features once."""
    _, height, width, depth = analysis.shape
    square = max(1, math.ceil(math.sqrt(height * width / TOKENS)))
    basis = _directions(analysis) if depth > DEPTH else None
    small = []
    for frame in analysis.frames():
        values = frame.float()
        if square > 1:
            values = F.avg_pool2d(values.permute(2, 0, 1)[None], square, ceil_mode=True)[0].permute(1, 2, 0)
        small.append((values @ basis if basis is not None else values).half())
    sketch = Sketch(torch.stack(small).contiguous(), square, (height, width), (0.0, 0.0))
    return sketch if square == 1 and basis is None else replace(sketch, shift=_shift(sketch, analysis))


DRAWN = ("mean_threshold", "window_threshold", "longest_clip")
"""Settings of a look that the page shows with its clips."""


def keep(analysis: Analysis, folder: Path) -> dict[str, Any]:
    """Write into a video's folder what the page needs while thresholds move; what was `looked` at, for the queue."""
    make_sketch(analysis).save(folder / "sketch.safetensors")
    write_json(folder / "clips.json", as_json(analysis.partition, analysis.scores))
    return {name: getattr(analysis.config, name) for name in DRAWN}


def _directions(analysis: Analysis) -> Tensor:
    """`[d, DEPTH]`: the leading directions of the tokens of some frames."""
    n, *_, depth = analysis.shape
    array = DiskArray.open(analysis.features, analysis.shape, torch.float16, writable=False)
    total = torch.zeros(depth, depth, dtype=torch.float64)
    for i in sampled_frames(n):
        total += energy(array.read(i, i + 1)[0])
    return leading_directions(total, DEPTH)


def _shift(sketch: Sketch, analysis: Analysis) -> tuple[float, float]:
    """By how much the sketch's similarities are too low, in the median over frames whose exact ones are known."""
    never = replace(sketch.config(analysis.config), mean_threshold=-1.0, window_threshold=-1.0, longest_clip=10**9)
    differences = []
    for clip in analysis.partition.clips:
        _, scores = partition_with_scores(iter(sketch.features[clip.start : clip.stop]), never)
        differences.append((analysis.scores[clip.start : clip.stop] - scores)[1:])
    known = torch.cat(differences)
    return (0.0, 0.0) if not len(known) else (float(known[:, 0].median()), float(known[:, 1].median()))


def divide_exactly(
    analysis: Analysis, config: KeyframeConfig, on_frame: Callable[[int], None] | None = None
) -> tuple[Partition, Tensor]:
    """The clips as an edit will have them, from the features themselves."""
    return partition_with_scores(analysis.frames(), config, on_frame)


def difference(about: Partition, exact: Partition) -> str:
    """What the exact clips have that those shown while moving had not, in words."""
    new, gone = sorted(set(exact.starts) - set(about.starts)), sorted(set(about.starts) - set(exact.starts))
    if not new and not gone:
        return "the same clips as shown while moving"
    parts = []
    if new:
        parts.append(f"{_starts(new)} more than shown while moving")
    if gone:
        parts.append(f"{_starts(gone)} fewer")
    return ", ".join(parts)


def _starts(frames: list[int]) -> str:
    shown = ", ".join(map(str, frames[:6])) + (", …" if len(frames) > 6 else "")
    return f"{len(frames)} {'clip start' if len(frames) == 1 else 'clip starts'} (frame {shown})"


def _within(threshold: float) -> float:
    return min(1.0, max(-1.0, threshold))


def as_json(found: Partition, scores: Tensor) -> dict[str, Any]:
    """What the page needs of a partition."""
    return {
        "starts": found.starts,
        "frames": found.frames,
        "scores": [[round(a, 6) for a in s] for s in scores.tolist()],
    }
