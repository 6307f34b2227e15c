"""Where in a video is what words name? The model that edits it knows, and no other is needed.

Given words, a diffusion model predicts other noise where the words' things are than without them (DiffEdit, Couairon et
al. 2022, https://arxiv.org/abs/2210.11427, which adds fresh noise to one image, ten times over). Here the inverted
latents are asked, which the edit needs anyway and whose noise follows the video. What a place responds is compared with
all of the video, so that a thing that leaves the picture leaves the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import Backbone, Conditioning
from .config import ResolvedConfig
from .directions import sampled_frames
from .masks import READ_AT_ONCE, MaskArrays, softened
from .prompts import sought
from .run import Run, spans
from .workspace import Stage

NOISE = (0.2, 0.35, 0.5, 0.65)
"""At which noise the model is asked, as fractions of its timesteps."""
STRONGEST = 0.999
"""The quantile of a video's responses that counts as strongest: robust, and for things of any size."""
COMPARED = 500
"""Frames, evenly spread, that a video's mean and strongest response are found from."""


def asked_timesteps(timesteps: Sequence[int], train_timesteps: int) -> list[int]:
    """Those of the sampling timesteps that lie nearest to `NOISE`, each once, in falling order."""
    nearest = {min(timesteps, key=lambda t: abs(t - share * train_timesteps)) for share in NOISE}
    return sorted(nearest, reverse=True)


def respond(backbone: Backbone, latents: Tensor, timestep: int, texts: Conditioning) -> Tensor:
    """How differently the noise of latents ``[f, c, h, w]`` is predicted with words and without: ``[f, h, w]`` fp32.

    Args:
        texts: Its prompt branch has the words; what they are told apart from is the negative one.
    """
    rows = texts.rows(range(len(latents)), "negative", "prompt")
    without, given = backbone.predict(torch.cat([latents, latents]), timestep, rows).chunk(2)
    return (given - without).norm(dim=1)


def scales(responses: Tensor) -> tuple[Tensor, float]:
    """What responses ``[K, f, h, w]`` of a video are measured by: each timestep's mean ``[K]``, and the strongest."""
    means = responses.mean(dim=(1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
    joined = _joined(responses, means).flatten()
    return means, float(joined.kthvalue(max(1, round(STRONGEST * joined.numel()))).values)


def found(responses: Tensor, means: Tensor, strongest: float, threshold: float, size: Sequence[int]) -> Tensor:
    """Where the words' things are, of frames with responses ``[K, f, h, w]``: ``[f, *size]``, 0 or 1."""
    joined = _joined(responses, means)[:, None] / max(strongest, torch.finfo(torch.float32).tiny)
    fine = F.interpolate(joined, size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    return (fine > threshold).float()


def _joined(responses: Tensor, means: Tensor) -> Tensor:
    """All timesteps' responses ``[K, f, h, w]`` as one ``[f, h, w]``, each cell with its neighbours."""
    together = (responses / means[:, None, None, None]).mean(dim=0)
    return F.avg_pool2d(F.pad(together[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]


def locate(run: Run, trajectory: Stage, prompt: str) -> Stage:
    """What `mask.find` names, as a mask like `masks.mask_stage`'s, with a frame for every frame.

    Args:
        trajectory: The inversion's.
        prompt: The edit's, which ``change`` looks for.
    """
    config, n = run.config.mask, run.frames
    responses = _responses(run, trajectory, prompt)
    shape = {"threshold": config.threshold, "invert": config.invert, "grow": config.grow, "feather": config.feather}
    stage = run.stage("mask", {"find": config.find, "size": run.geometry.padded, **shape}, responses)
    if not stage.complete:
        parts = [responses.existing(f"at{k}") for k in range(len(timesteps_of(run.backbone, run.config)))]
        means, strongest = scales(torch.stack([part.rows(sampled_frames(n, COMPARED)) for part in parts]))
        arrays = MaskArrays.new(stage, run, n)
        for some in spans(0, n, READ_AT_ONCE):
            here = torch.stack([part.read(some.start, some.stop) for part in parts])
            arrays.write(
                some.start, softened(found(here, means, strongest, config.threshold, run.geometry.padded), config)
            )
        stage.finish()
    return stage


def search_texts(backbone: Backbone, config: ResolvedConfig, prompt: str) -> Conditioning:
    """What `respond` tells apart: in the prompt branch the words looked for, in the negative one the others."""
    words, against = sought(config, prompt)
    return backbone.conditioning("", against, words)


def locate_in_memory(
    backbone: Backbone,
    config: ResolvedConfig,
    trajectory: Mapping[int, Tensor],
    texts: Conditioning,
    size: Sequence[int],
) -> Tensor:
    """`locate` for a few frames, seen beside each other alone: how much of each pixel is edited, ``[f, *size]``.

    Args:
        trajectory: By timestep, their inverted latents ``[f, c, h, w]``.
        texts: See `search_texts`.
    """
    asked = timesteps_of(backbone, config)
    responses = torch.stack([respond(backbone, trajectory[t].float(), t, texts).cpu() for t in asked])
    mask = found(responses, *scales(responses), config.mask.threshold, size)
    return softened(mask, config.mask).float() / 255


def _responses(run: Run, trajectory: Stage, prompt: str) -> Stage:
    """What every frame responds to the words: arrays ``at0`` … ``[n, h, w]`` fp32, one for each timestep asked."""
    words, against = sought(run.config, prompt)
    stage = run.stage("located", {"words": words, "against": against, "noise": NOISE, **run.machine_key()}, trajectory)
    noised, sampled = trajectory.existing("trajectory"), run.backbone.scheduler(run.config.steps).timesteps.tolist()
    asked = timesteps_of(run.backbone, run.config)
    arrays = [stage.array(f"at{k}", (run.frames, *run.latent_size), torch.float32) for k in range(len(asked))]
    if not stage.complete:
        texts = search_texts(run.backbone, run.config, prompt)

        def ask(frames: range) -> None:
            for t, array in zip(asked, arrays, strict=True):
                latents = noised.sub(sampled.index(t)).read(frames.start, frames.stop).float()
                array.write(frames.start, respond(run.backbone, latents, t, texts).cpu())
            stage.advance(frames.stop)
            run.report("locate", frames.stop, run.frames)

        run.in_runs(stage.done, run.frames, lambda plan: plan.frames, ask)
        stage.finish()
    run.report("locate", run.frames, run.frames)
    return stage


def timesteps_of(backbone: Backbone, config: ResolvedConfig) -> list[int]:
    """At which timesteps an edit is searched; every one costs two rows a frame."""
    scheduler = backbone.scheduler(config.steps)
    return asked_timesteps(scheduler.timesteps.tolist(), scheduler.config.num_train_timesteps)
