"""What a compared system is, and what all of them stand on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..attention import attention_installed
from ..backbone import Branch, Conditioning, Site
from ..config import PeerConfig
from ..diskarray import DiskArray
from ..editor import Editor
from ..injection import injected_within
from ..inversion import guided
from ..keyframes import Partition
from ..run import Run
from ..steps import Step
from ..workspace import Stage


class Bench:
    """One run's model, text, steps and sites, as AdaFlow's own edit has them, and a call of the model at one step.

    Args:
        run: The video, the model and the settings.
        conditioning: The three branches' text.
    """

    def __init__(self, run: Run, conditioning: Conditioning) -> None:
        editor = Editor(run.backbone, run.config, conditioning)
        self.run, self.backbone, self.config, self.conditioning = run, run.backbone, run.config, conditioning
        self.steps = [replace(step, changes=False) for step in editor.steps]  # nothing follows keyframes of AdaFlow's
        self.scheduler = editor.scheduler
        self.attention = self.backbone.attention_sites()

    @property
    def rows(self) -> int:
        """UNet rows a call: of the plan, which may shrink on the way."""
        return self.run.plan.rows

    def predict(
        self,
        step: Step,
        branches: Sequence[Branch],
        latents: Tensor,
        source: Tensor,
        frames: Sequence[int],
        processor: Callable[[Site], Any],
        features: Sequence[Site],
    ) -> Tensor:
        """The edit branches' predictions at one step: all branches in one call, features injected while they are.

        Args:
            branches: The branches of the call; the source is first, if it is there.
            latents: The edit's latents ``[f, c, h, w]``, or pictures laid out of several.
            source: The inversion's likewise.
            frames: The numbers of the rows, for the text.
            processor: The self-attention of every layer.
            features: Where features are injected.

        Returns:
            ``[2f, c, h, w]``, the negative branch first, or ``[f, c, h, w]`` where it is not run.
        """
        unet = self.backbone.unet
        inputs = torch.cat([source if branch == "source" else latents for branch in branches])
        with ExitStack() as stack:
            stack.enter_context(attention_installed(unet, self.attention, processor))
            if step.features:
                stack.enter_context(injected_within(unet, features, len(branches)))
            noise = self.backbone.predict(inputs, step.timestep, self.conditioning.rows(frames, *branches))
        return noise[len(latents) * (branches[0] == "source") :]

    def denoise(self, step: Step, noise: Tensor, latents: Tensor, guidance: float) -> Tensor:
        """The next timestep's latents from the edit branches' predictions: guidance, then DDIM."""
        x = latents.to(noise.device)
        combined = guided(noise, guidance) if len(noise) > len(x) else noise
        return self.scheduler.step(combined, step.timestep, x, return_dict=False)[0]


@dataclass(frozen=True)
class Job:
    """One edit that is asked of a compared system.

    Attributes:
        run: The video, the model, the settings and the workspace.
        texts: Source, negative and edit prompt.
        latents: The stage of the clean latents of all frames.
        on_step: Called after each step of the whole video, by systems that go step by step.
    """

    run: Run
    texts: tuple[str, str, str]
    latents: Stage
    on_step: Callable[[Step], None] | None = None

    def inversion_key(self) -> dict[str, Any]:
        """What an inversion depends on, besides the latents and the machine."""
        return {"prompt": self.texts[0], **self.run.config.inversion()}

    def edit_key(self) -> dict[str, Any]:
        """What an edit depends on, besides the trajectory."""
        config = self.run.config
        key = {"prompt": self.texts[2], "negative": self.texts[1], "seed": config.seed}
        key |= {"guidance": config.guidance_scale, "interval": [config.guidance_start, config.guidance_end]}
        return key | config.injection.set_fields() | self.run.machine_key()


@dataclass(frozen=True)
class Edited:
    """The stages that an edit leaves, and the chunks it was made in."""

    edit: Stage
    decoded: Stage
    chunks: Partition


class Peer(ABC):
    """A compared system. It comes in two kinds: `stepwise.Stepwise` and `keyed.Keyed`.

    It keeps nothing in memory from one unit of work to the next: what it draws at random follows from seed and step, so
    that a run that was stopped goes on to the same bytes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    published: ClassVar[Mapping[str, Any]]
    """Settings of the publication, by dotted name; ``peers.chunk`` is as AdaFlow's paper ran it."""

    def __init__(self, bench: Bench) -> None:
        """Raises `MissingError` where an optional package is needed and is not here."""
        self.bench = bench
        self.config = bench.config
        self.features = bench.backbone.injection_feature_sites(bench.config.injection.sites)
        self.queries = frozenset(site.name for site in bench.backbone.injection_attention_sites())

    @classmethod
    def missing(cls, peers: PeerConfig) -> str | None:
        """Why an edit with these settings cannot be begun: what is not on this machine, if anything is not."""
        return None

    @abstractmethod
    def edit(self, job: Job) -> Edited:
        """The edited video, from its clean latents; each stage is found in the workspace or computed."""

    def key(self) -> dict[str, Any]:
        """The system's own settings, which everything that it makes depends on."""
        return {"method": self.name, **self.config.peers.set_fields()}

    def injected(self, step: Step) -> frozenset[str]:
        """The layers that take the source's queries and keys at a step."""
        return self.queries if step.attention else frozenset()

    def random(self, step: Step, *more: int) -> np.random.Generator:
        """A generator for this seed and step alone."""
        return np.random.default_rng((self.config.seed, step.number, *more))


def with_source(step: Step) -> tuple[Branch, ...]:
    """A step's branches for a system that looks at the source at every step, not only while it is injected."""
    return ("source", *step.edited)


def read(array: DiskArray, frames: Sequence[int]) -> Tensor:
    """The latents of some frames, float32."""
    return array.rows(frames).float()
