"""What all stages of one run share: the model, the workspace, the settings, the video and the plan."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import heap
from .backbone import Backbone
from .budget import (
    MOST_ROWS,
    SPARE,
    EditPlan,
    fits_at_once,
    parse_bytes,
    plan_edit,
    recorded,
    room_within,
    rough_needs,
    rows_and_images,
    tightened,
)
from .config import ResolvedConfig
from .errors import InputError, ResourceError
from .keypass import ALL_AT_ONCE, KeyChunks
from .memory import free_bytes, out_of_memory, release, resident_bytes
from .needs import Needs, needs
from .progress import Progress, ProgressCallback
from .video import VideoSource
from .walk import unknown_parts
from .workspace import Stage, Workspace

T = TypeVar("T")

log = logging.getLogger(__name__)


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
    shrunk: int = 0  # how often running out of memory has made it smaller
    room: int = 0  # bytes of the device for all beside what was held when the plan was made; 0: not known
    limit: int = 0  # bytes that the settings allow in all; 0: no limit
    held: int = 0  # bytes of the host that the process held when the plan was made, weights and all
    pictures: int = 0  # frames the VAE works on at once; 0: by `rows`
    keys: KeyChunks = ALL_AT_ONCE  # of the key pass: none larger, since memory has run out

    @property
    def frames(self) -> int:
        """Frames of one propagation run: its source rows and its two edit branches are separate calls."""
        return max(1, self.rows // 2)

    @property
    def images(self) -> int:
        """Frames the VAE works on at once; it needs about six times a UNet row."""
        return self.pictures or max(1, self.rows // 6)

    @classmethod
    def make(
        cls,
        config: ResolvedConfig,
        backbone: Backbone,
        latent_size: tuple[int, int],
        exact: Callable[[], Needs],
    ) -> Plan:
        """A plan for the memory that is free now, or that the settings allow.

        Args:
            exact: Tells what the work needs; asked only where there is a limit.

        Raises:
            ConfigError: `max_memory` is no size.
            ResourceError: not even single frames fit into it.
        """
        threads, device = config.run.threads or torch.get_num_threads(), backbone.device
        most = config.run.rows or MOST_ROWS["cuda" if device.type == "cuda" else "cpu"]
        if limit := parse_bytes(config.max_memory):
            room = room_within(limit, device)
            rows, pictures = rows_and_images(exact(), room, most, limit, device)
            return cls(rows, threads, room=room, limit=limit, held=resident_bytes(), pictures=pictures)
        free = free_bytes(device)
        row = (
            40 * math.prod(latent_size) * backbone.unet.config.block_out_channels[0] * backbone.dtype.itemsize
        )  # about
        rows = config.run.rows or int(min(most, max(2, free // 4 // row)))
        return cls(rows, threads, room=int(free * SPARE), held=resident_bytes())

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Plan:
        """A plan as it was stored; those of earlier versions know less."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: KeyChunks(**v) if k == "keys" else v for k, v in stored.items() if k in known}
        return cls(**values)

    def smaller(self) -> Plan | None:
        """What to go on with after running out of memory; None: it cannot be cut further."""
        if self.rows <= 1 and self.images <= 1:
            return None
        halved = replace(self, rows=max(1, self.rows // 2), shrunk=self.shrunk + 1)
        return replace(halved, pictures=self.pictures // 2 or 1) if self.pictures else halved


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
    _needs: Needs | None = None

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
        heap.give_back()
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
            **{k: v for k, v in {"keys": self.config.run.keys, "memory": self.config.max_memory}.items() if v},
        }

    @property
    def feature_depth(self) -> int:
        """Numbers of a token's feature, as the stages after `extract_features` see it."""
        whole = self.backbone.feature_channels(self.config.features.block)
        return min(self.config.features.dimensions or whole, whole)

    def remembered(self, name: str) -> Any:
        """What `remember` kept beside the plan, or None."""
        return self._plan_stage().read_json(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep plain data beside the plan: measurements of this machine that the same plan will want again."""
        self._plan_stage().write_json(name, value)

    def needs(self) -> Needs:
        """What the work takes of memory, from the model's shapes: found out once for a workspace, then remembered."""
        if self._needs is None and (stored := self.remembered("needs")):
            self._needs = Needs.of(stored)
        if self._needs is None:
            self._needs = needs(self.backbone, self.geometry.padded)
            self.remember("needs", asdict(self._needs))
        return self._needs

    def edit_plan(self, clips: int, plan: Plan | None = None) -> EditPlan:
        """How the edit of M = `clips` keyframes is cut up: from the plan alone, so that it is the same on resume.

        Args:
            plan: Another plan than the run's own.
        """
        config, device, plan = self.config, self.backbone.device, plan or self.plan
        found = rough_needs(self.backbone, self.latent_size)
        if plan.limit or not fits_at_once(recorded(found, config), clips, config.slimming.budget, plan.room, device):
            found = self.needs()
        return plan_edit(
            found,
            config,
            device,
            clips=clips,
            channels=self.feature_depth,
            room=plan.room,
            limit=plan.limit,
            rows=plan.rows,
            images=plan.images,
            frames=self.frames,
            at_most=tightened(KeyChunks(config.run.keys), plan.keys),
        )

    def plan_record(self, clips: int = 0) -> dict[str, Any]:
        """What the result depends on to the bit, of the plan, for the record of an edit of so many clips."""
        plan = self.plan
        record = {"rows": plan.rows, "threads": plan.threads, "shrunk": plan.shrunk}
        chunk = self.edit_plan(clips).chunks.size if clips else 0
        return record | ({"keys": chunk} if 0 < chunk < clips else {})

    def in_runs(self, start: int, stop: int, size: Callable[[Plan], int], work: Callable[[range], None]) -> None:
        """`work` for the units from `start` to `stop`, in runs of at most ``size(plan)``.

        Out of memory, the plan is made smaller and stored, and the run at work is done again in smaller ones; what is
        done stays done.

        Raises:
            ResourceError: Not even a single unit fits.
        """
        while start < stop:
            span = range(start, min(start + size(self.plan), stop))
            if self.fits(partial(work, span), lambda plan: size(plan) < len(span)):  # noqa: B023 (called at once)
                start = span.stop

    def fits(self, work: Callable[[], Any], is_less: Callable[[Plan], bool]) -> bool:
        """Do `work`; whether there was enough memory. If not, the plan is made smaller until `is_less` says so.

        Raises:
            ResourceError: It cannot be made smaller.
        """
        try:
            work()
            return True
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            plan: Plan | None = self.plan
            while plan is not None and not is_less(plan):
                plan = plan.smaller()
            if plan is None:
                raise _too_little() from error
        release(self.backbone.device)
        self.change_plan(replace(plan, shrunk=self.plan.shrunk + 1), f"{plan.rows} UNet rows a call")
        return False

    def change_plan(self, plan: Plan, words: str) -> None:
        """Go on with another plan after running out of memory, and say so; it is stored, for resuming."""
        self.plan = plan
        self._plan_stage().write_json("plan", asdict(plan))
        log.warning("the memory ran out; going on with %s", words)

    def fits_keys(self, key_pass: Callable[[KeyChunks, Callable[[KeyChunks], None]], Any], clips: int) -> bool:
        """Do a key pass of so many keyframes in the plan's chunks; whether there was enough memory, as in `fits`.

        In chunks it needs no second try: what fits becomes clear on the way, and the plan is told.
        """
        chunks = self.edit_plan(clips).chunks
        try:
            key_pass(chunks, self.fewer_keyframes)
            return True
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            smaller = self.edit_plan(clips).chunks.smaller(clips, self.backbone.device)  # it may have shrunk on the way
            if smaller is None or unknown_parts(self.backbone.unet):
                raise _too_little() from error
        release(self.backbone.device)
        self.fewer_keyframes(smaller)
        return False

    def fewer_keyframes(self, chunks: KeyChunks) -> None:
        """Keep what a key pass has become after running out of memory."""
        plan = replace(self.plan, keys=chunks, shrunk=self.plan.shrunk + 1)
        many = f"{chunks.size} keyframes" if chunks.size > 1 else "one keyframe"
        where = "" if chunks.rows == "device" else ", the others waiting on the host"
        self.change_plan(plan, f"{many} at a time{where}")

    def fitting(self, work: Callable[[], T]) -> T:
        """`work`'s result; out of memory makes the plan smaller, stores that, and does all of the work again."""
        while True:
            results: list[T] = []
            if self.fits(lambda: results.append(work()), lambda plan: plan.rows < self.plan.rows):  # noqa: B023
                return results[0]

    def _settle_plan(self) -> None:
        stage = self._plan_stage()
        stored = stage.read_json("plan")
        if stored is None:
            self.plan = Plan.make(self.config, self.backbone, self.latent_size, self.needs)
            stage.write_json("plan", asdict(self.plan))
            stage.finish()
        else:
            self.plan = Plan.of(stored)
        if torch.get_num_threads() != self.plan.threads:
            torch.set_num_threads(self.plan.threads)

    def _plan_stage(self) -> Stage:
        return self.stage("plan", {"size": self.geometry.padded, **self.machine_key()})


def _too_little() -> ResourceError:
    return ResourceError(
        "there is not enough memory for a single frame; close other programs or lower --height, and run the same "
        "command again: it goes on where this one stopped"
    )


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
