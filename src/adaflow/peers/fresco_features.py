"""FRESCO-aware feature optimisation: decoder features made consistent along the flow, and alike as the input's are.

Yang et al. 2024 (https://arxiv.org/abs/2403.12962), Section 3.3, Eq. 1-3. It needs gradients, but of the features
alone: no weight is ever trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .fresco_motion import Motion
from .warp import all_warped

TEMPORAL, SPATIAL = 2.0, 100.0
"""Weights of the two losses."""

RATE = 0.2
"""Adam's learning rate."""

PAIRS = 1 << 25
"""Pairs of tokens compared at once: 128 MB, a few times."""


def temporal_loss(x: Tensor, motion: Motion) -> Tensor:
    """How much the features of frames differ from their neighbours' along the flow, where both show the same.

    Args:
        x: Features ``[branches, f, C, h, w]``.
        motion: On the grid (h, w), of f frames.
    """
    loss = x.new_zeros(())
    for each in x:
        later = each.roll(-1, dims=0)
        there = (1 - motion.lost_back)[:, None] * (later - all_warped(each, motion.back)).abs()
        here = (1 - motion.lost_ahead)[:, None] * (each - all_warped(later, motion.ahead)).abs()
        loss = loss + (there + here).mean() / len(x)
    return loss


def likeness(x: Tensor) -> Tensor:
    """The cosine of every two tokens ``[b, N, N]`` of each frame's features ``[b, C, h, w]``."""
    tokens = normalize(x.flatten(2), dim=1)
    return tokens.transpose(1, 2) @ tokens


def optimised(x: Tensor, source: Tensor, motion: Motion, iterations: int, pairs: int = PAIRS) -> Tensor:
    """Features drawn to agree along the flow and to be alike in space as the input's are; each channel of each frame
    keeps its mean and deviation.

    Args:
        x: Features ``[branches f, C, h, w]``.
        source: The input frames' ``[f, C, h, w]``.
        motion: On the grid (h, w), of f frames; not looked at where there is only one.
        iterations: Of Adam.
        pairs: Pairs of tokens compared at once, of one frame at the least: memory grows with it, the result does not
            change.

    Returns:
        Like `x`.
    """
    frames, given, cells = len(source), x, source.shape[2] * source.shape[3]
    with torch.inference_mode(False), torch.enable_grad():  # the model runs in inference mode, which knows no gradients
        start, source = x.detach().clone().float(), source.detach().clone().float()
        x = start.clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=RATE)
        rows = torch.arange(len(x), device=x.device).split(max(1, pairs // cells**2))
        held = likeness(source[rows[0] % frames]) if len(rows) == 1 else None  # else made anew each time, to save room
        for _ in range(iterations):
            adam.zero_grad()
            if frames > 1:
                (TEMPORAL * temporal_loss(x.unflatten(0, (-1, frames)), motion)).backward()
            for some in rows:
                wanted = likeness(source[some % frames]) if held is None else held
                off = (likeness(x[some]) - wanted).abs().mean((1, 2)).sum() / len(x)
                (SPATIAL * off).backward()
            adam.step()
        return like_before(x.detach(), start).to(given.dtype)


def like_before(x: Tensor, before: Tensor) -> Tensor:
    """Features ``[b, C, h, w]`` whose channels have the means and deviations that they had before (AdaIN)."""
    (mean, spread), (new_mean, new_spread) = ((y.mean((2, 3), keepdim=True), _spread(y)) for y in (before, x))
    return (x - new_mean) / new_spread.clamp(min=1e-6) * spread + mean


@contextmanager
def optimised_within(
    blocks: Sequence[nn.Module], sources: Mapping[int, Tensor], motion: Callable[[tuple[int, int]], Motion], times: int
) -> Iterator[None]:
    """Within it, what enters each of these decoder blocks is optimised first.

    Args:
        blocks: The decoder blocks.
        sources: What entered each of them for the input frames (`entering`).
        motion: The frames' motion on a grid (h, w), on the model's device.
        times: Iterations.
    """

    def change(block: int) -> Callable[[Tensor], Tensor]:
        return lambda x: optimised(x, sources[block], motion((x.shape[2], x.shape[3])), times)

    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            stack.enter_context(_before(block, change(number)))
        yield


@contextmanager
def entering(blocks: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Within it, what enters each of these decoder blocks is left in the dict, by the block's number."""
    left: dict[int, Tensor] = {}

    def keep(block: int) -> Callable[[Tensor], Tensor]:
        return lambda x: left.setdefault(block, x)

    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            stack.enter_context(_before(block, keep(number)))
        yield left


@contextmanager
def _before(block: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it, a decoder block's hidden states are what `change` makes of them; its skips are left alone."""

    def hook(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _spread(x: Tensor) -> Tensor:
    return x.std((2, 3), keepdim=True, correction=0)
