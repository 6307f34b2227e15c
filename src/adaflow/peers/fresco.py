"""FRESCO (Yang et al. 2024, https://arxiv.org/abs/2403.12962) without GMFlow, EGNet and EbSynth.

Keyframes are edited in batches that share two anchors, by DDPM from their noised selves (SDEdit). Within a batch
attention and decoder features are held together in space and along the flow. The frames between are carried along flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from ..attention import KeyPass, attention_installed
from ..backbone import Backbone, Branch, Site
from ..diskarray import DiskArray
from ..inversion import clean_and_noise, guided
from ..run import Run
from ..steps import Step
from ..workspace import Stage
from .control import ControlNet, ControlPictures
from .flow import Flow, Picture
from .fresco_attention import FINER, GuidedPass, WatchedAttention, guided_layer
from .fresco_features import entering, optimised_within
from .fresco_keys import anchors, batches, changes, chosen
from .fresco_motion import Motion, Paths
from .keyed import Keyed, Keys, padded_frames
from .peer import Bench, Job

LATE = 0.35
"""Share of the noise scale (timestep 350 of 1,000) below which attention is not along paths any more."""

SHAPED = 0.75
"""First share of all steps in which features are optimised (15 of 20)."""


class FrescoLite(Keyed):
    """Keyframes in anchored batches from their noised selves, held together in space and along the flow."""

    name = "fresco-lite"
    title = "FRESCO, lite"
    about = "Keyframes where the video changes, in anchored batches of eight, features optimised; flow for the rest."
    published = MappingProxyType(
        {
            "steps": 20,
            "guidance_scale": 7.5,
            "peers.least_gap": 10,
            "peers.most_gap": 30,
            "peers.batch": 8,
            "peers.strength": 0.75,
            "peers.optimise": 20,
            "peers.flow": "dis",
            "peers.control": "canny",
            "peers.control_scale": 0.7,
        }
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.control = ControlNet.asked(bench.backbone, self.config.peers)
        self._shown = ControlPictures(self.config.peers, bench.backbone) if self.control else None
        steps = bench.steps
        self.steps = steps[len(steps) - max(1, round(self.config.peers.strength * len(steps))) :]
        self.guided_layers = [site for site in bench.attention if guided_layer(site)]

    def key(self) -> dict[str, object]:
        """See `Peer`: and the ControlNet's weights, where there is one."""
        return super().key() | ({"control": self.control.fingerprint} if self.control else {})

    def keys(self, run: Run) -> list[int]:
        """See `Keyed`: by how much frames differ from the ones before, or evenly."""
        numbers: list[int] = self._keys_stage(run).read_json("keys")
        return numbers

    def groups(self, keys: int) -> list[range]:
        """See `Keyed`: batches, without their anchors."""
        return batches(keys, self.config.peers.batch)

    def origin(self, job: Job, numbers: list[int]) -> tuple[Sequence[Stage], DiskArray]:
        """See `Keyed`: the clean latents ``[n, c, h, w]`` of all frames; nothing is inverted."""
        return [self._keys_stage(job.run), job.latents], job.latents.existing("latents")

    def edit_group(self, number: int, keys: Keys, memory: Stage, tick: Callable[[float], None]) -> Iterator[Picture]:
        """See `Keyed`: a batch's new keyframes, sampled with its anchors."""
        group = self.groups(len(keys.numbers))[number]
        ties = anchors(group)
        places = [*ties, *group]
        pictures = [keys.source(place) for place in places]
        z = keys.origin.rows([keys.numbers[place] for place in places]).float()
        batch = Batch(self.bench.backbone, [keys.numbers[p] for p in places], z, pictures, self.flow)
        former = memory.existing(_slot(number - 1)) if ties else None
        own = memory.array(_slot(number), (len(self.bench.steps), 2, *z.shape[1:]), torch.float32)
        clean = self._sample(batch, former, own, tick)
        for row in clean[len(ties) :]:
            yield self.bench.backbone.decode(row[None])[0].cpu().numpy()

    def _sample(self, batch: Batch, former: DiskArray | None, own: DiskArray, tick: Callable[[float], None]) -> Tensor:
        """A batch's clean latents ``[f, c, h, w]``.

        Args:
            former: The latents of the anchors at each step ``[T, 2, c, h, w]``, which go over the batch's first two.
            own: Where the batch leaves those of its first and its last frame for the next one.
        """
        bench, kind = self.bench, self.bench.scheduler.config.prediction_type
        levels = [float(bench.scheduler.alphas_cumprod[step.timestep]) for step in self.steps]
        z = batch.latents
        x = noised(z, self._noise(z, self.steps[0], 0), levels[0])
        source = self._source(batch)
        unet = bench.backbone.unet
        for step, level, after in zip(self.steps, levels, [*levels[1:], 1.0], strict=True):
            if former is not None:
                x[:2] = former.sub(step.number).read(0, 2).to(x)
            own.sub(step.number).write(0, x[[0, -1]].cpu())
            guidance = self._pass(step, batch, source)
            with ExitStack() as stack:
                if self.config.peers.optimise and step.number < SHAPED * len(bench.steps):
                    stack.enter_context(
                        optimised_within(unet.up_blocks, source.features, batch.motion_on, self.config.peers.optimise)
                    )
                if self.control and self._shown:
                    shown = torch.stack([self._shown(picture) for picture in batch.pictures])
                    stack.enter_context(self.control.steering(unet, shown))
                found = bench.predict(step, step.edited, x, x, batch.frames, guidance.processor, ())
            found = guided(found, self.config.guidance_scale) if len(found) > len(x) else found
            clean, noise = clean_and_noise(found, x, level, kind)
            x = ancestral(clean, noise, level, after, self._noise(z, step, 1))
            tick((step.number - self.steps[0].number + 1) / len(self.steps))
        return x

    def _pass(self, step: Step, batch: Batch, source: Source) -> GuidedPass:
        """What guides attention at a step: space at the first one, time until it is late, common keys always."""
        levels = sorted({site.level for site in self.guided_layers})
        in_time = step.timestep >= LATE * self.bench.scheduler.config.num_train_timesteps
        return GuidedPass(
            step.edited,
            len(batch.frames),
            {level: batch.new(level) for level in levels},
            {level: batch.paths[level] for level in levels} if in_time else {},
            source.tokens if step is self.steps[0] else {},
        )

    def _source(self, batch: Batch) -> Source:
        """What the decoder is like for the input frames themselves, noised to the last timestep, under the prompt."""
        bench, last = self.bench, self.steps[-1]
        alone, only = KeyPass(("prompt",), len(batch.frames), extended=False), Source({}, {})

        def watched(site: Site) -> object:
            return WatchedAttention(site, alone, only.tokens) if guided_layer(site) else alone.processor(site)

        level = float(bench.scheduler.alphas_cumprod[last.timestep])
        x = noised(batch.latents, self._noise(batch.latents, last, 2), level)
        branch: tuple[Branch, ...] = ("prompt",)
        unet = bench.backbone.unet
        with attention_installed(unet, bench.attention, watched), entering(unet.up_blocks) as features:
            bench.backbone.predict(x, last.timestep, bench.conditioning.rows(batch.frames, *branch))
        only.features.update(features)
        return only

    def _noise(self, z: Tensor, step: Step, use: int) -> Tensor:
        """Gaussian noise ``[1, c, h, w]``, the same for all frames and all batches."""
        return torch.from_numpy(self.random(step, use).standard_normal((1, *z.shape[1:]))).to(z)

    def _keys_stage(self, run: Run) -> Stage:
        """The keyframes' numbers, found in the workspace or chosen: JSON ``keys``."""
        least, most = self.config.peers.least_gap, self.config.peers.most_gap
        stage = run.stage("keys", {"least": least, "most": most, "size": run.geometry.content})
        if not stage.complete:
            differ = [0.0] * run.frames

            def frames() -> Iterator[Picture]:
                for number, frame in enumerate(padded_frames(run, 0), 1):
                    yield frame
                    run.report("partition", number, run.frames)

            if least < most and run.frames > 1:
                differ = changes(frames()).tolist()
            stage.write_json("keys", chosen(differ, least, most))
            stage.finish()
        run.report("partition", run.frames, run.frames)
        return stage


@dataclass(frozen=True)
class Source:
    """What the decoder is like for the input frames.

    Attributes:
        tokens: By layer, the tokens before self-attention ``[f, N, C]``.
        features: By decoder block, what enters it ``[f, C, h, w]``.
    """

    tokens: dict[str, Tensor]
    features: dict[int, Tensor]


class Batch:
    """Keyframes that are edited together, and how they move.

    Args:
        frames: Their numbers; `latents`: their clean latents ``[f, c, h, w]``.
        pictures: The frames of the source ``[H, W, 3]`` uint8.
        flow: The optical flow.
    """

    def __init__(
        self, backbone: Backbone, frames: Sequence[int], latents: Tensor, pictures: Sequence[Picture], flow: Flow
    ) -> None:
        self._backbone, self.frames, self.pictures = backbone, list(frames), list(pictures)
        self.latents = latents.to(backbone.device)
        self.motion = Motion.of(pictures, flow)
        self._on_grids: dict[tuple[int, int], Motion] = {}

    def motion_on(self, grid: tuple[int, int]) -> Motion:
        """The motion on a grid of cells, on the model's device."""
        if grid not in self._on_grids:
            self._on_grids[grid] = self.motion.on_grid(grid).to(self._backbone.device)
        return self._on_grids[grid]

    def new(self, level: int) -> Tensor:
        """The tokens ``[f, N]`` bool of a level that show something for the first time."""
        return self.motion.new_cells(self._grid(level)).to(self._backbone.device)

    @cached_property
    def paths(self) -> dict[int, Paths]:
        """By level, the paths through the frames."""
        device = self._backbone.device
        return {level: Paths.along(self.motion, self.pictures, self._grid(level)).to(device) for level in range(FINER)}

    def _grid(self, level: int) -> tuple[int, int]:
        h, w = self.latents.shape[2:]
        return self._backbone.grid((h, w), level)


def noised(clean: Tensor, noise: Tensor, level: float) -> Tensor:
    """Latents at a signal level: ``sqrt(a) x_0 + sqrt(1 - a) epsilon``."""
    return level**0.5 * clean + (1 - level) ** 0.5 * noise


def ancestral(clean: Tensor, noise: Tensor, level: float, after: float, fresh: Tensor) -> Tensor:
    """A DDPM step (Ho et al. 2020, Eq. 6 and 7): a draw from the posterior of the next latents, given the clean ones.

    Args:
        clean: The estimate of x_0 at signal level `level`; `noise`: that of epsilon.
        after: The signal level of the next timestep; 1 ends at `clean`.
        fresh: Gaussian noise.
    """
    variance = (1 - after) / (1 - level) * (1 - level / after)
    return after**0.5 * clean + max(0.0, 1 - after - variance) ** 0.5 * noise + variance**0.5 * fresh


def _slot(batch: int) -> str:
    """Where a batch leaves its anchors: the next one reads them while it writes its own."""
    return ("even", "odd")[batch % 2]
