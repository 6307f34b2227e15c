"""What a run gives back: the edited frames, what was decided on the way, and the record that goes with them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .config import ResolvedConfig
from .diskarray import DiskArray
from .estimate import Estimate
from .keyframes import Partition
from .masks import Kept
from .progress import Progress, ProgressCallback
from .run import Geometry
from .video import VideoInfo, check_output, write_video


class Frames:
    """The edited video, read from disk as it is asked for: uint8 RGB ``[n, H, W, 3]``.

    ``frames[i]`` is one frame, ``frames[a:b]`` an array of some, iteration goes through all; `numpy.asarray` reads
    everything into memory.
    """

    def __init__(self, array: DiskArray, size: tuple[int, int]) -> None:
        # A handle of its own, which outlives the workspace's lock and even the file's removal.
        self._array = array.reopened()
        self._size = size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, H, W, 3)."""
        return (self._array.shape[0], *self._size, 3)

    def __len__(self) -> int:
        return self._array.shape[0]

    def __getitem__(self, index: int | slice) -> np.ndarray:
        h, w = self._size
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            return self._array.rows(list(chosen)).numpy()[:, :h, :w]
        place = range(len(self))[index]
        return self._array.read(place, place + 1).numpy()[0, :h, :w]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the frames are on disk; an array of them is always a copy")
        return self[:] if dtype is None else self[:].astype(dtype)


@dataclass(frozen=True)
class EditResult:
    """An edited video.

    `record` holds settings, seed, model, versions and plan: what the output depends on. `schedule` is ``[T, M]``,
    `scores` each frame's mean and least window similarity to its clip's first frame ``[n, 2]``. `kept` is what a video
    of the source's size takes from the source where a mask leaves it alone.
    """

    frames: Frames
    partition: Partition
    scores: Tensor
    schedule: Tensor
    record: dict[str, Any]
    source: VideoInfo
    config: ResolvedConfig
    workspace: Path
    kept: Kept | None = None

    def save(self, out: str | Path, *, on_progress: ProgressCallback | None = None) -> Path:
        """Write the video, with the source's timestamps and sound; it appears whole or not at all.

        Raises:
            InputError: the place or the file type of `out` cannot be used.
            ResourceError: the disk is full.
        """
        out, output = Path(out), self.config.output
        check_output(out, self.source.path, audio=output.audio)
        size = (self.source.height, self.source.width) if output.size == "source" else None
        metadata = {k: v for k, v in self.record.items() if k != "plan"}
        total = len(self.frames)

        def on_frame(done: int) -> None:
            if on_progress:
                on_progress(Progress("write", done, total))

        write_video(
            out,
            self.kept.full_size(iter(self.frames)) if self.kept and size else self.frames,
            self.source,
            size=size,
            crf=output.quality,
            audio=output.audio,
            metadata={"adaflow": metadata} if output.metadata else None,
            on_frame=on_frame,
        )
        return out


@dataclass(frozen=True)
class Inspection:
    """What `AdaFlowPipeline.inspect` found."""

    source: VideoInfo
    geometry: Geometry
    partition: Partition
    scores: Tensor
    schedule: Tensor
    estimate: Estimate

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "video": {
                "path": str(self.source.path) if self.source.path else None,
                "frames": self.source.frames,
                "width": self.source.width,
                "height": self.source.height,
                "seconds": float(self.source.duration),
            },
            "edited_at": {"height": self.geometry.content[0], "width": self.geometry.content[1]},
            "clips": [[clip.start, clip.stop] for clip in self.partition.clips],
            "estimate": self.estimate.to_json(),
        }


@dataclass(frozen=True)
class Preview:
    """A few keyframes before and after; `clips` is the M that the whole edit would have."""

    keys: list[int]
    source: list[np.ndarray]
    edited: list[np.ndarray]
    clips: int


def versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("adaflow", "torch", "diffusers", "transformers", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
