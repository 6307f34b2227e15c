"""Systems that denoise all frames step by step, in chunks: the loop over steps, and its checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from .. import stages
from ..diskarray import DiskArray
from ..inversion import invert_steps
from ..keyframes import Partition
from ..steps import Step
from ..workspace import Stage
from .peer import Edited, Job, Peer, read

Prediction = tuple[Sequence[int], Tensor]
"""Numbers of f frames, and the edit branches' predictions: ``[2f, c, h, w]``, or ``[f, …]`` without guidance."""


class Stepwise(Peer):
    """A system that is what it predicts at one step for a chunk of frames; nothing is kept from step to step."""

    own_inversion: ClassVar[bool] = False
    """Whether chunks are inverted together, in a way of its own; else frames are, one by one, as AdaFlow's are."""

    @abstractmethod
    def predict(self, step: Step, chunk: range, latents: DiskArray, source: DiskArray) -> Iterator[Prediction]:
        """The predictions for every frame of a chunk, each frame once, in any order and any portions.

        Args:
            step: The timestep, and what is injected in it.
            chunk: Frames that are edited together, and without any others.
            latents: The edit's latents ``[n, c, h, w]`` of the whole video.
            source: The inversion's at this timestep.
        """

    def guidance(self, step: Step) -> float:
        """The strength of classifier-free guidance at a step."""
        return self.config.guidance_scale

    def prepare(self, latents: Stage) -> list[Stage]:
        """Whatever is made once for the video, found in the workspace or made."""
        return []

    def inverted_at_once(self, chunk: range) -> Iterable[range]:
        """A chunk's frames in the portions that are inverted together, by a system with `own_inversion`."""
        return [chunk]

    def inverting(self, chunk: range) -> AbstractContextManager[None]:
        """What is in place while such a portion is inverted."""
        return nullcontext()

    def edit(self, job: Job) -> Edited:
        """See `Peer`: inversion, all steps, decoding."""
        run, steps = job.run, self.config.steps
        prepared = self.prepare(job.latents)
        chunk = self.config.peers.chunk or run.frames
        chunks = Partition.from_starts(range(0, run.frames, chunk), run.frames)
        trajectory = self._invert(job, chunks, prepared)
        edited = run.stage("edit", self.key() | job.edit_key(), trajectory, *prepared)
        decoded = run.stage("decoded", {}, edited)
        if not decoded.complete:
            z = self._denoise(job, edited, trajectory.existing("trajectory"), chunks)
            stages.decode(run, z, decoded)
        run.report("edit", run.frames * steps, run.frames * steps)
        run.report("decode", run.frames, run.frames)
        return Edited(edited, decoded, chunks)

    def _invert(self, job: Job, chunks: Partition, prepared: list[Stage]) -> Stage:
        """The inversion's trajectory: AdaFlow's (`stages.invert`), or likewise, but chunk by chunk."""
        run, config = job.run, self.config
        if not self.own_inversion:
            return stages.invert(run, job.latents, job.texts[0])
        stage = run.stage("trajectory", self.key() | job.inversion_key() | run.machine_key(), job.latents, *prepared)
        clean = job.latents.existing("latents")
        trajectory = stage.array("trajectory", (config.steps, *clean.shape), torch.float16)
        count = max(config.inversion_steps, config.steps)  # of timesteps that the inversion comes by
        total = run.frames * count
        if not stage.complete:
            place = {step.timestep: step.number for step in self.bench.steps}
            for clip in chunks.clips:
                for part in self.inverted_at_once(clip.frames):
                    if part.start < stage.done:
                        continue
                    with self.inverting(part):
                        z, text = clean.read(part.start, part.stop), self.bench.conditioning
                        steps = invert_steps(
                            run.backbone,
                            z,
                            text,
                            config.inversion_steps,
                            sampling_steps=config.steps,
                            reuse=config.inversion_reuse,
                        )
                        for i, (t, noised) in enumerate(steps):
                            if t in place:
                                trajectory.sub(place[t]).write(part.start, noised.to(torch.float16).cpu())
                            run.report("invert", part.start * count + (i + 1) * len(part), total)
                    stage.advance(part.stop)
            stage.finish()
        run.report("invert", total, total)
        return stage

    def _denoise(self, job: Job, stage: Stage, trajectory: DiskArray, chunks: Partition) -> DiskArray:
        """All steps for all chunks; two arrays on disk take turns as what a step reads and what it writes.

        Returns:
            The edited clean latents ``[n, c, h, w]`` fp32.
        """
        buffers = [stage.array(name, trajectory.shape[1:], torch.float32) for name in ("even", "odd")]
        steps = self.bench.steps
        for step in steps[stage.done :]:
            before = trajectory.sub(0) if step.number == 0 else buffers[(step.number - 1) % 2]
            after, source = buffers[step.number % 2], trajectory.sub(step.number)
            job.run.fitting(partial(self._step, step, chunks, before, source, after))
            stage.advance(step.number + 1)
            if job.on_step:
                job.on_step(step)
        if not stage.complete:
            stage.finish()
        return buffers[(len(steps) - 1) % 2]

    def _step(self, step: Step, chunks: Partition, before: DiskArray, source: DiskArray, after: DiskArray) -> None:
        """One timestep for the whole video, chunk by chunk."""
        frames, bench = before.shape[0], self.bench
        done = step.number * frames
        for chunk in (clip.frames for clip in chunks.clips):
            for numbers, noise in self.predict(step, chunk, before, source):
                z = bench.denoise(step, noise, read(before, numbers), self.guidance(step)).cpu()
                for number, row in zip(numbers, z, strict=True):
                    after.write(number, row[None])
                done += len(numbers)
                bench.run.report("edit", done, len(bench.steps) * frames)
