"""Plug-and-Play feature injection by forward hooks: the edit's convolution features are replaced by the source's.

A site is the second convolution of a resnet, before the shortcut is added. Queries and keys are injected by
`attention.KeyAttention`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .backbone import Site, forward_until


@contextmanager
def injected_within(unet: nn.Module, sites: Sequence[Site], branches: int) -> Iterator[None]:
    """Within it, all `branches` of a batch get the features of the first branch, the source, at `sites`."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output[: output.shape[0] // branches].repeat(branches, 1, 1, 1)

    with ExitStack() as stack:
        for site in sites:
            stack.callback(unet.get_submodule(site.name).register_forward_hook(hook).remove)
        yield


@contextmanager
def source_features(unet: nn.Module, sites: Sequence[Site], until: str = "") -> Iterator[dict[str, Tensor]]:
    """Within it, a forward pass of the source leaves its features at `sites` in the given dict, and ends at the last.

    The cut source branch: what comes after the last injected resnet is never run (at SD's site: 56 % of a forward).

    Args:
        until: The name of a later module, at which it ends instead.
    """
    taken: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for site in sites:
            stack.callback(_keep(unet, site, taken).remove)
        last = unet.get_submodule(until or sites[-1].name)
        stack.enter_context(forward_until(last, lambda _: None))  # its hook comes after the one that keeps
        yield taken


@contextmanager
def injected_from(unet: nn.Module, features: Mapping[str, Tensor], branches: int) -> Iterator[None]:
    """Within it, every branch of a batch gets these source `features` (by site name)."""

    def hook(feature: Tensor) -> Any:
        return lambda _module, _args, _output: feature.repeat(branches, 1, 1, 1)

    with ExitStack() as stack:
        for name, feature in features.items():
            stack.callback(unet.get_submodule(name).register_forward_hook(hook(feature)).remove)
        yield


def injected_steps(fraction: float, steps: int) -> int:
    """How many of the first steps are injected: PnP's count, rounded down."""
    return int(steps * fraction + 1e-9)


def _keep(unet: nn.Module, site: Site, taken: dict[str, Tensor]) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        taken[site.name] = output

    return unet.get_submodule(site.name).register_forward_hook(hook)
