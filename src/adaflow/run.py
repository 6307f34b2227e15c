"""What all stages of one run share: the model, the workspace, the settings, the video and the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor

from .backbone import Backbone
from .config import ResolvedConfig
from .errors import InputError, ResourceError
from .progress import Progress, ProgressCallback
from .video import VideoSource
from .workspace import Stage, Workspace

T = TypeVar("T")


@dataclass(frozen=True)
class Geometry:
    """How a frame lies in what the model sees, (height, width) in pixels.

    The frame is scaled to `content`, keeping its aspect ratio, and continued at the right and bottom to `padded`, the
    nearest size the model allows; the output is cut back to `content`, so that nothing is stretched and nothing lost.
    """

    content: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, source: tuple[int, int], config: ResolvedConfig, backbone: Backbone) -> Geometry:
        """The geometry for frames of (height, width) `source`."""
        height, width = source
        home_h, home_w = backbone.home_size
        if config.height and config.width:
            content = config.height, config.width
        elif config.height or config.width:
            scale = config.height / height if config.height else config.width / width
            content = round(height * scale), round(width * scale)
        else:
            scale = (home_h * home_w / (height * width)) ** 0.5
            content = round(height * scale), round(width * scale)
        content = (max(2, content[0] // 2 * 2), max(2, content[1] // 2 * 2))
        m = 2 * backbone.vae_factor
        padded = (max(m, -(-content[0] // m) * m), max(m, -(-content[1] // m) * m))
        if max(padded) > 4096:
            raise InputError(f"{padded[1]}x{padded[0]} is too large to edit; set --height and --width to at most 4096")
        return cls(content, padded)

    def pad(self, frames: Tensor) -> Tensor:
        """``[b, h, w, 3]`` of `content` size to `padded` size, by repeating the last row and column."""
        h, w = self.padded
        rows = torch.arange(h).clamp(max=self.content[0] - 1)
        columns = torch.arange(w).clamp(max=self.content[1] - 1)
        return frames[:, rows][:, :, columns]


@dataclass(frozen=True)
class Plan:
    """How the work is cut up on this machine: made once, kept in the workspace, reused on resume.

    What a run computes depends on it to the last bit, so it is part of what the output is promised for.
    """

    rows: int  # UNet rows a call
    threads: int  # CPU threads
    shrunk: int = 0  # how often running out of memory has halved `rows`

    @property
    def frames(self) -> int:
        """Frames of one propagation run: its source rows and its two edit branches are separate calls."""
        return max(1, self.rows // 2)

    @property
    def images(self) -> int:
        """Frames the VAE works on at once; it needs about six times a UNet row."""
        return max(1, self.rows // 6)

    @classmethod
    def make(cls, config: ResolvedConfig, backbone: Backbone, latent_size: tuple[int, int]) -> Plan:
        """A plan for the memory that is free now."""
        channels = backbone.unet.config.block_out_channels[0]
        width = torch.finfo(backbone.dtype).bits // 8
        row = 40 * latent_size[0] * latent_size[1] * channels * width  # bytes, about: measured on SD 2.1
        if backbone.device.type == "cuda":
            free, most = torch.cuda.mem_get_info(backbone.device)[0], 96
        else:
            free, most = psutil.virtual_memory().available, 48
        rows = config.run.rows or int(min(most, max(2, free // 4 // row)))
        return cls(rows=rows, threads=config.run.threads or torch.get_num_threads())


@dataclass
class Run:
    """One video, one model, one set of settings: what the stages take, and their way to report and to store."""

    backbone: Backbone
    workspace: Workspace
    config: ResolvedConfig
    source: VideoSource
    geometry: Geometry
    model: str
    on_progress: ProgressCallback | None = None
    plan: Plan = Plan(rows=1, threads=1)

    def __post_init__(self) -> None:
        self._settle_plan()

    @property
    def frames(self) -> int:
        """n, the number of frames."""
        return self.source.info.frames

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latent grid."""
        h, w = self.geometry.padded
        return h // self.backbone.vae_factor, w // self.backbone.vae_factor

    def stage(self, name: str, key: Mapping[str, Any], *parents: Stage) -> Stage:
        """The stage of that name for exactly these inputs, begun or found."""
        return self.workspace.stage(name, {**key, "from": [p.folder.name for p in parents]})

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is."""
        if self.on_progress:
            self.on_progress(Progress(stage, done, total))

    def machine_key(self) -> dict[str, Any]:
        """What results depend on to the bit besides their inputs."""
        return {
            "model": self.model,
            "device": self.backbone.device.type,
            "dtype": str(self.backbone.dtype),
            "rows": self.config.run.rows,
            "threads": self.config.run.threads,
            "torch": torch.__version__,
        }

    def remembered(self, name: str) -> Any:
        """What `remember` kept beside the plan, or None."""
        return self._plan_stage().read_json(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep plain data beside the plan: measurements of this machine that the same plan will want again."""
        self._plan_stage().write_json(name, value)

    def fitting(self, work: Callable[[], T]) -> T:
        """`work`'s result; out of device memory halves the plan's rows, stores that, and does the work again."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                if self.plan.rows <= 2:
                    raise ResourceError(
                        "the device has not enough memory for a single frame; close other programs or lower --height"
                    ) from error
                torch.cuda.empty_cache()
                self.plan = replace(self.plan, rows=self.plan.rows // 2, shrunk=self.plan.shrunk + 1)
                self._plan_stage().write_json("plan", asdict(self.plan))

    def _settle_plan(self) -> None:
        stage = self._plan_stage()
        stored = stage.read_json("plan")
        if stored is None:
            self.plan = Plan.make(self.config, self.backbone, self.latent_size)
            stage.write_json("plan", asdict(self.plan))
            stage.finish()
        else:
            self.plan = Plan(**stored)
        if torch.get_num_threads() != self.plan.threads:
            torch.set_num_threads(self.plan.threads)

    def _plan_stage(self) -> Stage:
        return self.stage("plan", {"size": self.geometry.padded, **self.machine_key()})


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def spans(start: int, stop: int, size: int) -> Iterator[range]:
    """The frames from `start` to `stop` in runs of at most `size`."""
    return (range(i, min(i + size, stop)) for i in range(start, stop, size))
