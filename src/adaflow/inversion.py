"""DDIM inversion and deterministic sampling on one grid of timesteps (Song et al., 2020), by diffusers' schedulers.

With fewer inversion steps than sampling steps, inversion goes from one sampling timestep to another several further on,
and those between come from the same prediction (`coarse_steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .backbone import Backbone, Branch, Conditioning
from .errors import ConfigError
from .reuse import reused


def check_grids(backbone: Backbone, steps: int, inversion_steps: int) -> None:
    """Refuse steps that the model's timesteps have no room for, or that inversion would not come by.

    Raises:
        ConfigError: the grid leaves the model's timesteps, or sampling timesteps are missing from the inversion's.
    """
    scheduler, inverse = backbone.scheduler(steps), backbone.inverse_scheduler(max(steps, inversion_steps))
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
    backbone: Backbone,
    latents: Tensor,
    conditioning: Conditioning,
    steps: int,
    *,
    sampling_steps: int = 0,
    reuse: int = 1,
    branch: Branch = "source",
) -> Iterator[tuple[int, Tensor]]:
    """The inversion of `latents`, step by step: yields each timestep, rising, and its noised latents.

    Args:
        latents: ``[b, c, h, w]`` fp32, clean.
        conditioning: Its `branch` row is what the noise is predicted with.
        steps: Steps of the grid; the first timestep is 1, the last about 1000 - 1000 / steps + 1.
        sampling_steps: Where these are more, their timesteps are what is yielded, by `coarse_steps`.
        reuse: Predictions from one of the whole UNet to the next (`reuse.reused`).
    """
    if steps < sampling_steps:
        yield from coarse_steps(backbone, latents, conditioning, steps, sampling_steps, reuse=reuse, branch=branch)
        return
    predict = reused(backbone, reuse)
    scheduler = backbone.inverse_scheduler(steps)
    rows = conditioning.rows(range(latents.shape[0]), branch)
    x = latents.to(backbone.device, torch.float32)
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(predict(x, t, rows), t, x, return_dict=False)[0]
        yield t, x


def coarse_steps(
    backbone: Backbone,
    latents: Tensor,
    conditioning: Conditioning,
    steps: int,
    sampling_steps: int,
    *,
    reuse: int = 1,
    branch: Branch = "source",
) -> Iterator[tuple[int, Tensor]]:
    """The inversion in fewer steps than sampling has: yields every sampling timestep, rising, and its noised latents.

    The noise is predicted `steps` times, for `coarse_grid`'s timesteps. Each prediction takes the latents, by the
    deterministic DDIM path x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) epsilon with its estimates of x_0 and epsilon (Song et
    al., Eq. 12 with sigma 0), to its own timestep and to those passed on the way.
    """
    predict, scheduler = reused(backbone, reuse), backbone.scheduler(sampling_steps)
    timesteps = scheduler.timesteps.tolist()[::-1]
    rows = conditioning.rows(range(latents.shape[0]), branch)
    x, level = latents.to(backbone.device, torch.float32), float(scheduler.final_alpha_cumprod)
    passed = 0
    for last in coarse_grid(sampling_steps, steps):
        prediction = predict(x, timesteps[last], rows)
        clean, noise = clean_and_noise(prediction, x, level, scheduler.config.prediction_type)
        for t in timesteps[passed : last + 1]:
            level = float(scheduler.alphas_cumprod[t])
            x = level**0.5 * clean + (1 - level) ** 0.5 * noise
            yield t, x
        passed = last + 1


def coarse_grid(sampling_steps: int, steps: int) -> list[int]:
    """Which of the sampling timesteps, rising from 0, are gone to by fewer inversion steps: evenly, to the last one."""
    return [(i + 1) * sampling_steps // steps - 1 for i in range(steps)]


def clean_and_noise(prediction: Tensor, x: Tensor, level: float, kind: str) -> tuple[Tensor, Tensor]:
    """The estimates of x_0 and epsilon that a UNet's output is, for latents `x` of signal level ``a_t = level``.

    Args:
        kind: What the model predicts: ``epsilon``, ``v_prediction`` or ``sample``, as diffusers has it.
    """
    signal, sigma = level**0.5, (1 - level) ** 0.5
    if kind == "v_prediction":
        return signal * x - sigma * prediction, signal * prediction + sigma * x
    if kind == "sample":
        return prediction, (x - signal * prediction) / sigma
    return (x - sigma * prediction) / signal, prediction


def invert(
    backbone: Backbone,
    latents: Tensor,
    conditioning: Conditioning,
    steps: int,
    *,
    sampling_steps: int = 0,
    reuse: int = 1,
    branch: Branch = "source",
) -> dict[int, Tensor]:
    """The whole trajectory of `invert_steps`: noised latents ``[b, c, h, w]`` by timestep, rising."""
    found = invert_steps(
        backbone, latents, conditioning, steps, sampling_steps=sampling_steps, reuse=reuse, branch=branch
    )
    return dict(found)


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
