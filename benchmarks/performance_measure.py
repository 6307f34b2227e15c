"""What the performance benchmark measures while an edit runs: seconds, memory and bytes, by stage and kind of call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from common import PeakMemory, anonymous_bytes
from typing_extensions import Self

from adaflow.attention import KeyAttention
from adaflow.backbone import Backbone
from adaflow.colour import resized
from adaflow.editor import Editor
from adaflow.miniature.world import random_scene, render
from adaflow.progress import Progress
from adaflow.propagation import OwnAttention, PropagatedAttention
from adaflow.steps import Step
from adaflow.video import VideoInfo, VideoSource, raw_info

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "A800": 312e12}
"""Dense fp16 matrix operations a second by the data sheets (SXM cards)."""


class OutOfTime(Exception):  # noqa: N818 (a signal, not an error)
    """The time that a case may take is over; its workspace goes on where it stopped."""


class Watch:
    """A progress callback that books seconds, memory and bytes by stage, and says every few seconds where it is.

    Args:
        name: What is said to be running.
        device: Whose memory is watched.
        deadline: On `time.monotonic`; a report after it raises `OutOfTime`.
        say_every: Seconds between two lines.
        save: Called with the stages so far whenever another stage begins, so that a killed run leaves figures.
        before: Stages of earlier, stopped runs of the same case; added to.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        *,
        deadline: float = float("inf"),
        say_every: float = 10.0,
        save: Callable[[dict[str, Any]], None] | None = None,
        before: dict[str, Any] | None = None,
    ) -> None:
        self.stages: dict[str, dict[str, Any]] = {k: dict(v) for k, v in (before or {}).items()}
        self._name, self._device, self._deadline, self._save = name, device, deadline, save
        self._host = PeakMemory(0.05)
        self._at, self._now = Progress("start", 0, 1), ""
        self._begun = time.perf_counter()
        self._stop, self._say_every = threading.Event(), say_every
        self._voice = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> Self:
        self._host.__enter__()
        self._voice.start()
        self.skip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._voice.join()
        self._host.__exit__(kind, error, trace)
        self.say()

    def __call__(self, progress: Progress) -> None:
        """Book what was spent since the last report under the stage that reports."""
        if self._device.type == "cuda" and progress.done >= progress.total:  # what is under way belongs to this stage
            torch.cuda.synchronize(self._device)
        self.book(progress.stage)
        self._at = progress
        self._sample(progress)
        if progress.stage != self._now:
            self._now = progress.stage
            self.say()
            if self._save:
                self._save(self.stages)
        if time.monotonic() > self._deadline:
            raise OutOfTime(f"{progress.stage} {progress.done} of {progress.total}")

    def book(self, stage: str) -> None:
        """What was spent since the last report, under this stage."""
        now, (read, written) = time.perf_counter(), moved_bytes()
        kept = self.stages.setdefault(stage, {"seconds": 0.0, "read_bytes": 0, "written_bytes": 0})
        kept["seconds"] += now - self._last
        kept["read_bytes"] += read - self._moved[0]
        kept["written_bytes"] += written - self._moved[1]
        kept["host_peak_bytes"] = max(kept.get("host_peak_bytes", 0), self._host.take())
        kept["device_peak_bytes"] = max(kept.get("device_peak_bytes", 0), self._device_peak())
        self.skip()

    def skip(self) -> None:
        """Forget what was spent since the last report."""
        self._host.take()
        self._device_peak()
        self._moved, self._last = moved_bytes(), time.perf_counter()

    @property
    def seconds(self) -> float:
        """All stages together."""
        return float(sum(stage["seconds"] for stage in self.stages.values()))

    def say(self) -> None:
        """One line: where it is, since when, and what it holds."""
        device = ""
        if self._device.type == "cuda":
            device = f", device {torch.cuda.memory_allocated(self._device) / 2**30:.1f} GiB"
        print(
            f"[{time.perf_counter() - self._begun:6.1f} s] {self._name}: {self._at.stage} {self._at.done} of "
            f"{self._at.total}, host {anonymous_bytes() / 2**30:.1f} GiB{device}",
            flush=True,
        )

    def _speak(self) -> None:
        while not self._stop.wait(self._say_every):
            self.say()

    def _device_peak(self) -> int:
        if self._device.type != "cuda":
            return 0
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return int(peak)

    def _sample(self, progress: Progress) -> None:
        """The host's memory at ten points of every stage, which shows whether it grows with what is done."""
        curve = self.stages[progress.stage].setdefault("host_bytes_at", {})
        place = str(10 * progress.done // max(1, progress.total))
        curve[place] = anonymous_bytes()


def moved_bytes() -> tuple[int, int]:
    """Bytes that this process has read and written by system calls, page cache included; zeros where not told."""
    path = Path("/proc/self/io")
    try:
        fields = dict(line.split(": ") for line in path.read_text().splitlines())
    except OSError:
        return 0, 0
    return int(fields["rchar"]), int(fields["wchar"])


class PartClock:
    """Seconds and rows by kind of network call: plain rows, the key pass, source rows, propagated rows, the VAE.

    On a GPU by events on the stream, which do not make anything wait; call `parts` after the work. A key pass that is
    cut into chunks is no call of the UNet and not seen; `TimedEditor` sees it.
    """

    def __init__(self, backbone: Backbone, before: dict[str, Any] | None = None) -> None:
        self._backbone = backbone
        self._before = before or {}
        self._spans: list[tuple[str, int, Any, Any]] = []
        self._open: list[tuple[str, int, Any]] = []
        self._named = 0
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        unet, vae = self._backbone.unet, self._backbone.vae
        for module, name in (
            (unet, ""),
            (self._backbone.finest, ""),
            (vae.encoder, "vae.encode"),
            (vae.decoder, "vae.decode"),
        ):
            before = module.register_forward_pre_hook(self._start(name), with_kwargs=True)
            after = module.register_forward_hook(self._end, always_call=True)
            self._hooks.callback(before.remove)
            self._hooks.callback(after.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def parts(self) -> dict[str, dict[str, Any]]:
        """By kind of call: how many calls and rows there were, and their seconds."""
        found: dict[str, dict[str, Any]] = {k: dict(v) for k, v in self._before.items()}
        if self._backbone.device.type == "cuda":
            torch.cuda.synchronize(self._backbone.device)
        for name, rows, start, end in self._spans:
            kept = found.setdefault(name, {"calls": 0, "rows": 0, "seconds": 0.0})
            kept["calls"] += 1
            kept["rows"] += rows
            kept["seconds"] += end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
        return found

    @contextmanager
    def span(self, name: str, rows: int) -> Iterator[None]:
        """What is done within it is one call of that name, whatever it is made of."""
        start, self._named = self._now(), self._named + 1
        try:
            yield
        finally:
            self._named -= 1
            self._spans.append((name, rows, start, self._now()))

    def _start(self, name: str) -> Callable[..., None]:
        def hook(_module: Any, args: Any, kwargs: Any) -> None:
            given = args[0] if args else kwargs["sample"]
            self._open.append((name or self._kind(), len(given), self._now()))

        return hook

    def _end(self, *_: Any) -> None:
        name, rows, start = self._open.pop()
        if not self._named:
            self._spans.append((name, rows, start, self._now()))

    def _kind(self) -> str:
        processor: Any = next(iter(self._backbone.unet.attn_processors.values()))
        if isinstance(processor, KeyAttention):
            return "edit.key"
        if isinstance(processor, OwnAttention):
            return "edit.source"
        if isinstance(processor, PropagatedAttention):
            return "edit.source" if tuple(processor.propagation.branches) == ("source",) else "edit.propagate"
        return "plain"

    def _now(self) -> Any:
        if self._backbone.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class TimedEditor(Editor):
    """An `Editor` whose key passes and choices of tokens are spans of a clock."""

    def __init__(self, clock: PartClock, *args: Any) -> None:
        super().__init__(*args)
        self._clock = clock

    def edit_keys(self, step: Step, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See `Editor`."""
        with self._clock.span("edit.key", len(step.branches) * len(args[0])):
            return super().edit_keys(step, *args, **kwargs)

    def kept(self, *args: Any, **kwargs: Any) -> Any:
        """See `Editor`."""
        with self._clock.span("edit.choose", 0):
            return super().kept(*args, **kwargs)


class Generated(VideoSource):
    """A video whose frames are drawn when they are asked for, so that it may be of any length.

    Args:
        frames: How many.
        draw: Frame number to picture ``[H, W, 3]`` uint8.
        identity: What stands for the content.
    """

    def __init__(self, frames: int, draw: Callable[[int], np.ndarray], identity: str) -> None:
        self._draw, self._identity = draw, identity
        height, width, _ = draw(0).shape
        self._info = raw_info(height, width, frames, Fraction(25))

    @property
    def info(self) -> VideoInfo:
        """See `VideoSource`."""
        return self._info

    def frames(self, size: Any = None, start: int = 0) -> Iterator[np.ndarray]:
        """See `VideoSource`."""
        for number in range(start, self._info.frames):
            picture = self._draw(number)
            yield picture if size is None or picture.shape[:2] == tuple(size) else resized(picture, size)

    def fingerprint(self) -> str:
        """See `VideoSource`."""
        return f"{self._identity} {self._info.frames} {self._info.height} {self._info.width}"


def noise_film(frames: int, size: tuple[int, int]) -> Generated:
    """Coarse noise that moves by a pixel a frame."""
    rng = np.random.default_rng(0)
    h, w = size
    coarse = rng.integers(0, 256, (-(-h // 16), -(-w // 16), 3), dtype=np.uint8)
    whole = np.ascontiguousarray(coarse.repeat(16, axis=0).repeat(16, axis=1)[:h, :w])
    return Generated(frames, lambda i: np.ascontiguousarray(np.roll(whole, i, axis=1)), "noise")


def still_film(frames: int, shot: int = 5000) -> Generated:
    """Scenes of the miniature's world that stand still but for noise, one after another, `shot` frames of each."""

    @lru_cache(maxsize=2)
    def scene(number: int) -> np.ndarray:
        return np.asarray(render(random_scene(number, "test"), 0), np.int16)

    def draw(number: int) -> np.ndarray:
        picture = scene(number // shot)
        noise = np.random.default_rng(number).integers(-2, 3, picture.shape, dtype=np.int16)
        return (picture + noise).clip(0, 255).astype(np.uint8)

    return Generated(frames, draw, f"still {shot}")


def disk_by_stage(root: Path) -> dict[str, int]:
    """Bytes of the arrays in a workspace, by name of stage; what is allocated beyond them is not counted."""
    found: dict[str, int] = {}
    for path in (root / "stages").glob("*/*.bin"):
        name = path.parent.name.rsplit("-", 1)[0]
        found[name] = found.get(name, 0) + path.stat().st_size
    return found
