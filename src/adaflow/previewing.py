"""The joint edit of a few keyframes, in memory: what an edit will look like, for little."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import stages
from .editing import edit_keyframes
from .editor import Editor
from .inversion import invert_steps
from .locate import locate_in_memory, search_texts
from .masks import mask_stage, mixed, of_cells, shares_in
from .prompts import branch_prompts
from .result import Preview
from .run import Run
from .video import VideoSource


def preview(run: Run, prompt: str, keyframes: int, mask: VideoSource | None = None) -> Preview:
    """Edit the middle frames of up to `keyframes` clips, spread over the video.

    Args:
        mask: Where they are edited, as in `masks.mask_stage`; None: where `mask.find` says, or everywhere.
    """
    config, backbone = run.config, run.backbone
    drawn = None if mask is None else mask_stage(run, mask).existing("mask")
    latents = stages.encode(run)
    features = stages.extract_features(run, latents)
    clips, _, _ = stages.partition(run, features)
    chosen = np.linspace(0, len(clips.clips) - 1, min(keyframes, len(clips.clips))).round().astype(int)
    keys = [(clips.clips[c].start + clips.clips[c].stop) // 2 for c in chosen]
    clean = latents.existing("latents").rows(keys)
    conditioning = backbone.conditioning(*branch_prompts(prompt, config))
    trajectory: dict[int, Tensor] = {}
    steps, sampling = config.inversion_steps, config.steps
    for t, noised in invert_steps(
        backbone, clean, conditioning, steps, sampling_steps=sampling, reuse=config.inversion_reuse
    ):
        trajectory[t] = noised
        run.report("invert", len(trajectory), max(steps, sampling))
    shares = None if drawn is None else shares_in(drawn, keys).expand(len(keys), -1, -1)
    if config.mask.find:
        texts = search_texts(backbone, config, prompt)
        shares = locate_in_memory(backbone, config, trajectory, texts, run.geometry.padded)
    z = edit_keyframes(
        Editor(backbone, config, conditioning),
        trajectory,
        keys,
        stages.key_features(run, features, torch.tensor(keys)),
        lambda step: run.report("edit", step.number + 1, sampling),
        None if shares is None else (clean, of_cells(shares, backbone.vae_factor)),
    )
    h, w = run.geometry.content
    originals = [next(iter(run.source.frames(run.geometry.content, start=k))) for k in keys]
    frames = []
    for i, original in enumerate(originals):
        picture = backbone.decode(z[i : i + 1])[:, :h, :w].cpu()
        if shares is not None and config.mask.restore:
            picture = mixed(picture, torch.from_numpy(original)[None], shares[i : i + 1, :h, :w])
        frames.append(picture[0].numpy())
        run.report("decode", i + 1, len(keys))
    return Preview(keys, originals, frames, len(clips.clips))
