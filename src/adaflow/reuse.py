"""Deep features reused between neighbouring steps (DeepCache, Ma et al. 2024: https://arxiv.org/abs/2312.00858).

What a UNet computes below its finest level changes slowly from step to step. One step in every few runs the whole UNet
and keeps what enters the last decoder block; the steps between run only the finest level (`finest.FinestLevel`) with
what was kept. Kept are the edit's branches; the source is never approximated, since the edit's structure hangs on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .backbone import Backbone, Branch, StopForward
from .config import ResolvedConfig
from .diskarray import DiskArray
from .errors import ConfigError
from .finest import odd_parts


def check_reuse(backbone: Backbone, config: ResolvedConfig) -> None:
    """Raises `ConfigError` where deep features shall be reused in a UNet that has what SD 1.x and 2.x have not."""
    deep_from = config.propagation.deep_from
    odd = odd_parts(backbone.unet)
    for name, every in (("reuse", config.reuse), ("inversion_reuse", config.inversion_reuse)):
        if odd and every > 1:
            raise ConfigError(f"{name} {every} is not known for this model ({', '.join(odd)}); use {name} 1")
    if not any(map(backbone.in_finest_level, backbone.attention_sites())):
        odd.append("no self-attention in the finest level")
    if odd and deep_from < 1:
        raise ConfigError(
            f"propagation.deep_from {deep_from} is not known for this model ({', '.join(odd)}); "
            "use propagation.deep_from 1"
        )


def reused(backbone: Backbone, every: int) -> Callable[[Tensor, int, Mapping[str, Tensor]], Tensor]:
    """`Backbone.predict` for the same rows step after step, of which one call in `every` runs the whole UNet.

    Those between run its finest level with the deep features of the last whole call.
    """
    if every == 1:
        return backbone.predict
    taken: list[Tensor] = []
    calls = itertools.count()

    def predict(latents: Tensor, timestep: int, conditioning: Mapping[str, Tensor]) -> Tensor:
        if next(calls) % every:
            return backbone.predict_finest(latents, timestep, taken[0], conditioning)
        taken.clear()
        with deep_features(backbone.unet, taken.append):
            return backbone.predict(latents, timestep, conditioning)

    return predict


@contextmanager
def deep_features(unet: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Within it, a pass of the whole UNet gives what enters the last decoder block to `take`."""

    def taking(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        take(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    blocks: Any = unet.up_blocks
    handle = blocks[-1].register_forward_pre_hook(taking, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def deep_features_only(unet: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
    """`deep_features`, and the pass ends there."""

    def ending(_module: nn.Module, _args: Any) -> None:
        raise StopForward

    blocks: Any = unet.up_blocks
    with deep_features(unet, take):
        handle = blocks[-1].register_forward_pre_hook(ending)
        try:
            yield
        except StopForward:
            pass
        finally:
            handle.remove()


class DeepFeatures(Protocol):
    """Deep features of the edit's branches, of the last step that ran the whole UNet."""

    def put(self, frames: Sequence[int], branches: Sequence[Branch], deep: Tensor) -> None:
        """Keep ``[branches x f, C, h, w]``, branch after branch."""

    def get(self, frames: Sequence[int], branches: Sequence[Branch]) -> Tensor:
        """What was put for these frames."""


class MemoryDeepFeatures:
    """`DeepFeatures` of a few frames."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Branch, int], Tensor] = {}

    def put(self, frames: Sequence[int], branches: Sequence[Branch], deep: Tensor) -> None:
        """See `DeepFeatures`."""
        places = ((branch, frame) for branch in branches for frame in frames)
        self._rows |= dict(zip(places, deep, strict=True))

    def get(self, frames: Sequence[int], branches: Sequence[Branch]) -> Tensor:
        """See `DeepFeatures`."""
        return torch.stack([self._rows[branch, frame] for branch in branches for frame in frames])


class DiskDeepFeatures:
    """`DeepFeatures` of all frames, in an array ``[2, n, C, h, w]``: the negative branch, and the prompt's."""

    def __init__(self, array: DiskArray) -> None:
        self._arrays: dict[Branch, DiskArray] = {"negative": array.sub(0), "prompt": array.sub(1)}

    def put(self, frames: Sequence[int], branches: Sequence[Branch], deep: Tensor) -> None:
        """See `DeepFeatures`."""
        for branch, rows in zip(branches, deep.cpu().chunk(len(branches)), strict=True):
            for frame, row in zip(frames, rows, strict=True):
                self._arrays[branch].write(frame, row[None])

    def get(self, frames: Sequence[int], branches: Sequence[Branch]) -> Tensor:
        """See `DeepFeatures`."""
        return torch.cat([self._arrays[branch].rows(frames) for branch in branches])
