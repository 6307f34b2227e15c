"""DDIM inversion and deterministic sampling on one grid of timesteps (Song et al., 2020), by diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .backbone import Backbone, Branch, Conditioning
from .errors import ConfigError


def check_grids(backbone: Backbone, steps: int, inversion_steps: int) -> None:
    """Refuse steps that the model's timesteps have no room for, or that inversion would not come by.

    Raises:
        ConfigError: the grid leaves the model's timesteps, or sampling timesteps are missing from the inversion's.
    """
    scheduler, inverse = backbone.scheduler(steps), backbone.inverse_scheduler(inversion_steps)
    most = scheduler.config.num_train_timesteps
    wanted, there = set(scheduler.timesteps.tolist()), set(inverse.timesteps.tolist())
    if max(wanted | there) >= most:
        raise ConfigError(f"{max(steps, inversion_steps)} steps are too many for this model; use at most {most - 1}")
    if not wanted <= there:
        raise ConfigError(
            f"{inversion_steps} inversion steps do not come by all {steps} sampling timesteps of {most}; "
            f"use as many as sampling steps, or numbers that divide {most}"
        )


def invert_steps(
    backbone: Backbone, latents: Tensor, conditioning: Conditioning, steps: int, *, branch: Branch = "source"
) -> Iterator[tuple[int, Tensor]]:
    """The inversion of `latents`, step by step: yields each timestep, rising, and its noised latents.

    Args:
        latents: ``[b, c, h, w]`` fp32, clean.
        conditioning: Its `branch` row is what the noise is predicted with.
        steps: Steps of the grid; the first timestep is 1, the last about 1000 - 1000 / steps + 1.
    """
    scheduler = backbone.inverse_scheduler(steps)
    rows = conditioning.rows(range(latents.shape[0]), branch)
    x = latents.to(backbone.device, torch.float32)
    for t in scheduler.timesteps.tolist():
        noise = backbone.predict(x, t, rows)
        x = scheduler.step(noise, t, x, return_dict=False)[0]
        yield t, x


def invert(
    backbone: Backbone, latents: Tensor, conditioning: Conditioning, steps: int, *, branch: Branch = "source"
) -> dict[int, Tensor]:
    """The whole trajectory: noised latents ``[b, c, h, w]`` by timestep, rising."""
    return dict(invert_steps(backbone, latents, conditioning, steps, branch=branch))


def sample(
    backbone: Backbone,
    latents: Tensor,
    conditioning: Conditioning,
    steps: int,
    *,
    guidance_scale: float = 1.0,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Plain DDIM sampling from the last timestep's `latents`; with guidance 1 the source branch alone: reconstruction.

    Returns:
        Clean latents ``[b, c, h, w]`` fp32.
    """
    scheduler = backbone.scheduler(steps)
    frames = range(latents.shape[0])
    x = latents.to(backbone.device, torch.float32)
    for t in scheduler.timesteps.tolist():
        if guidance_scale == 1.0:
            noise = backbone.predict(x, t, conditioning.rows(frames, "source"))
        else:
            both = backbone.predict(torch.cat([x, x]), t, conditioning.rows(frames, "negative", "prompt"))
            noise = guided(both, guidance_scale)
        x = scheduler.step(noise, t, x, return_dict=False)[0]
        if on_step:
            on_step(t, x)
    return x


def guided(negative_and_prompt: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of a batch ``[2b, …]`` whose first half is the negative branch."""
    negative, prompt = negative_and_prompt.chunk(2)
    return negative + scale * (prompt - negative)
