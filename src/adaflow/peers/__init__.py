"""The compared systems: other training-free editors on the same model, inversion, injection, video files and workspace.

A system is a `Peer`; most are no more than what they predict for some frames at one step, and all else is shared
(`stepwise`). What of each is as published, and what is not: docs/peers.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .. import stages
from ..config import EditConfig
from ..errors import ConfigError
from ..prompts import branch_prompts
from ..run import Run
from ..steps import Step
from .flatten import Flatten
from .fresco import FrescoLite
from .peer import Bench, Edited, Job, Peer
from .pnp import PnP
from .rave import Rave, RavePnP
from .rerender import RerenderLite
from .tokenflow import TokenFlow
from .vidtome import VidToMe

__all__ = ["ADAFLOW", "PEERS", "Edited", "Peer", "edit", "find", "published"]

ADAFLOW = "adaflow"
"""The name under which AdaFlow itself is asked for."""

PEERS: Mapping[str, type[Peer]] = MappingProxyType(
    {peer.name: peer for peer in (PnP, TokenFlow, VidToMe, RavePnP, Rave, Flatten, RerenderLite, FrescoLite)}
)
"""The compared systems by name, in the order of tables."""


def find(name: str | None) -> type[Peer] | None:
    """The system of that name; None for AdaFlow, which is what is meant where no name is given.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    if name is None or name == ADAFLOW:
        return None
    if name not in PEERS:
        names = (ADAFLOW, *PEERS)
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no method {name!r}; {hint}The methods are {', '.join(names)}")
    return PEERS[name]


def published(config: EditConfig, card: Mapping[str, Any]) -> dict[str, Any]:
    """What an edit's method was published with, by the dotted name of the setting: goes under the model's card.

    The inversion's steps belong to the sampling steps of the publication: where the card or the caller have other
    sampling steps, the inversion has as many as the sampling.
    """
    peer = find(config.method)
    if peer is None:
        return {}
    settings = dict(peer.published)
    if (config.steps or card.get("steps") or settings["steps"]) != settings["steps"]:
        settings.pop("inversion_steps", None)
    return settings


def edit(run: Run, prompt: str, on_step: Callable[[Step], None] | None = None) -> Edited:
    """Edit a run's video by the system that its settings name; each stage is found in the workspace or computed.

    Raises:
        ConfigError: there is no system of that name.
        MissingError: a package that it needs is not here.
    """
    kind = find(run.config.method)
    if kind is None:
        raise ValueError("AdaFlow itself is no compared system")
    texts = branch_prompts(prompt, run.config)
    peer = kind(Bench(run, run.backbone.conditioning(*texts)))
    return peer.edit(Job(run, texts, stages.encode(run), on_step))
