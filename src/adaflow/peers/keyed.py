"""Systems that edit keyframes, a few at a time, and carry them to the frames between along optical flow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..config import PeerConfig
from ..diskarray import DiskArray
from ..inversion import invert_steps
from ..keyframes import Partition
from ..run import Run, spans
from ..workspace import Stage
from .flow import Picture, flow_by, missing
from .peer import Bench, Edited, Job, Peer
from .propagate import between


@dataclass(frozen=True)
class Keys:
    """The keyframes of a video, and what there is of them.

    Attributes:
        run: The video.
        numbers: Which frames they are, rising.
        origin: What their edit begins with (`Keyed.origin`).
        pictures: The edited ones ``[K, H, W, 3]`` uint8, as far as they are done.
    """

    run: Run
    numbers: list[int]
    origin: DiskArray
    pictures: DiskArray

    def source(self, place: int) -> Picture:
        """A keyframe of the source ``[H, W, 3]`` uint8."""
        return next(padded_frames(self.run, self.numbers[place]))

    def edited(self, place: int) -> Picture:
        """An edited keyframe ``[H, W, 3]`` uint8."""
        return self.pictures.read(place, place + 1)[0].numpy()


class Keyed(Peer):
    """A system that edits keyframes in groups, one after the other, each from what is left of those before it."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.flow = flow_by(self.config.peers.flow, bench.backbone.device)

    @classmethod
    def missing(cls, peers: PeerConfig) -> str | None:
        """See `Peer`; OpenCV also merges the frames between keyframes."""
        return missing("dis") or missing(peers.flow)

    @abstractmethod
    def keys(self, run: Run) -> list[int]:
        """The numbers of a video's keyframes, rising, the first and the last frame among them."""

    def groups(self, keys: int) -> list[range]:
        """The places of so many keyframes in the groups that are edited together: each by itself, if nothing else."""
        return [range(place, place + 1) for place in range(keys)]

    @abstractmethod
    def edit_group(self, number: int, keys: Keys, memory: Stage, tick: Callable[[float], None]) -> Iterable[Picture]:
        """A group's keyframes ``[H, W, 3]`` uint8, the groups before it being done.

        Args:
            number: Which one of `groups`.
            keys: All keyframes.
            memory: Where the system keeps for later groups what it needs; gone when the edit is done.
            tick: To be told the share of this group that is done.
        """

    def origin(self, job: Job, numbers: list[int]) -> tuple[Sequence[Stage], DiskArray]:
        """What the edit of the keyframes begins with: their inversion's trajectory ``[T, K, c, h, w]`` fp16.

        Returns:
            The stages that it was made by, and the array.
        """
        stage = self._invert(job, numbers)
        return [stage], stage.existing("trajectory")

    def edit(self, job: Job) -> Edited:
        """See `Peer`: the keyframes, their edit, and the frames between."""
        run, steps = job.run, self.config.steps
        numbers = self.keys(run)
        groups = self.groups(len(numbers))
        begun, origin = self.origin(job, numbers)
        edited = run.stage("edit", self.key() | job.edit_key(), *begun)
        decoded = run.stage("decoded", {}, edited)
        pictures = edited.array("pictures", (len(numbers), *run.geometry.padded, 3), torch.uint8)
        keys = Keys(run, numbers, origin, pictures)
        total = run.frames * steps
        if not edited.complete:
            memory = run.stage("memory", {}, edited)
            for number, group in enumerate(groups):
                if group.start < edited.done:
                    continue
                done, more = group.start / len(numbers), len(group) / len(numbers)

                def tick(share: float, done: float = done, more: float = more) -> None:
                    run.report("edit", int(total * (done + more * share)), total)

                for place, picture in zip(group, self.edit_group(number, keys, memory, tick), strict=True):
                    pictures.write(place, torch.from_numpy(picture)[None])
                edited.advance(group.stop)
            memory.discard()  # first: what a kill leaves in between is begun anew, and discarded again
            edited.finish()
        run.report("edit", total, total)
        if not decoded.complete:
            self._fill(keys, decoded)
        run.report("decode", run.frames, run.frames)
        return Edited(edited, decoded, Partition.from_starts([0], run.frames))

    def _invert(self, job: Job, numbers: list[int]) -> Stage:
        """The keyframes' trajectory ``[T, K, c, h, w]`` fp16."""
        run, config = job.run, self.config
        stage = run.stage("trajectory", {"keys": numbers} | job.inversion_key() | run.machine_key(), job.latents)
        clean, text = job.latents.existing("latents"), self.bench.conditioning
        trajectory = stage.array("trajectory", (config.steps, len(numbers), *clean.shape[1:]), torch.float16)
        if not stage.complete:
            place = {step.timestep: step.number for step in self.bench.steps}
            for span in spans(stage.done, len(numbers), self.bench.rows):
                z = clean.rows(numbers[span.start : span.stop])
                for t, noised in invert_steps(
                    run.backbone,
                    z,
                    text,
                    config.inversion_steps,
                    sampling_steps=config.steps,
                    reuse=config.inversion_reuse,
                ):
                    if t in place:
                        trajectory.sub(place[t]).write(span.start, noised.to(torch.float16).cpu())
                stage.advance(span.stop)
                run.report("invert", span.stop, len(numbers))
            stage.finish()
        run.report("invert", len(numbers), len(numbers))
        return stage

    def _fill(self, keys: Keys, stage: Stage) -> None:
        """The edited frames, gap by gap: array ``frames`` ``[n, H, W, 3]`` uint8 of padded size."""
        run = keys.run
        frames = stage.array("frames", (run.frames, *run.geometry.padded, 3), torch.uint8)
        frames.write(0, keys.pictures.read(0, 1))
        for place, (first, last) in enumerate(pairwise(keys.numbers)):
            if last < stage.done:
                continue
            reader = padded_frames(run, first)
            source = [next(reader) for _ in range(first, last + 1)]
            found = between(source, keys.edited(place), keys.edited(place + 1), self.flow)
            for number, picture in enumerate(found, first + 1):
                frames.write(number, torch.from_numpy(picture)[None])
                run.report("decode", number, run.frames)
            frames.write(last, keys.pictures.read(place + 1, place + 2))
            stage.advance(last + 1)
            run.report("decode", last + 1, run.frames)
        stage.finish()


def padded_frames(run: Run, start: int) -> Iterator[Picture]:
    """The source's frames from one on, at the model's size."""
    for frame in run.source.frames(run.geometry.content, start=start):
        yield run.geometry.pad(torch.from_numpy(np.array(frame))[None])[0].numpy()
