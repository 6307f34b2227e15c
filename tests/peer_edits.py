"""Edits by the compared systems with a tiny random model, for their tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image
from torch import Tensor

from adaflow import AdaFlowPipeline, EditConfig, stages
from adaflow.backbone import Backbone
from adaflow.config import RunConfig
from adaflow.peers import PEERS, find
from adaflow.peers.peer import Bench
from adaflow.peers.stepwise import Stepwise
from adaflow.video import open_source

PROMPT, SIZE, STEPS, N = "a red square", (32, 48), 3, 6
STEPWISE = [name for name, kind in PEERS.items() if issubclass(kind, Stepwise)]
KEYED = [name for name in PEERS if name not in STEPWISE]


def asked(method: str | None, **given: Any) -> EditConfig:
    usual: dict[str, Any] = {"steps": STEPS, "negative_prompt": "blurry", "run": RunConfig(rows=12)}
    return EditConfig(method=method, **(usual | given))


def video(n: int = N, seed: int = 0) -> np.ndarray:
    """Coloured blobs that wander."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((SIZE[1] + 2 * n, SIZE[0]), Image.Resampling.BICUBIC))
    return np.stack([image[:, 2 * i : 2 * i + SIZE[1]] for i in range(n)])


def controlnet(backbone: Backbone, folder: Path, *, scale: float = 0.1, seed: int = 0) -> str:
    """A random ControlNet for a model, saved; with `scale` 0 one that gives nothing, as untrained ones do."""
    place = folder / f"controlnet-{scale}-{seed}"
    if not place.exists():
        widths = (8, 16, 16, 16)[: len(backbone.vae.config.block_out_channels)]
        net = ControlNetModel.from_unet(
            backbone.unet, conditioning_embedding_out_channels=widths, load_weights_from_unet=False
        )
        generator = torch.Generator().manual_seed(seed)
        for parameter in net.parameters() if scale else ():
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale
        net.save_pretrained(place)
    return str(place)


def complete(config: EditConfig, backbone: Backbone, folder: Path) -> EditConfig:
    """The settings with what a method cannot do without: RAVE's ControlNet."""
    if config.method != "rave" or config.peers.controlnet:
        return config
    return replace(config, peers=replace(config.peers, controlnet=controlnet(backbone, folder), control="canny"))


class Edits:
    """Edits by the tiny model, each in a workspace of its own."""

    def __init__(self, pipe: AdaFlowPipeline, root: Path) -> None:
        self.pipe, self.root, self.count = pipe, root, 0

    def __call__(self, frames: np.ndarray, method: str | None, **given: Any) -> np.ndarray:
        return np.asarray(self.result(frames, method, **given).frames)

    def result(self, frames: np.ndarray, method: str | None, *, on_progress: Any = None, **given: Any) -> Any:
        self.count += 1
        place = given.pop("workspace", self.root / f"{self.count}")
        config = complete(asked(method, **given), self.pipe.backbone, self.root)
        return self.pipe(frames, PROMPT, config=config, workspace=place, on_progress=on_progress)

    def latents(self, frames: np.ndarray, method: str | None, **given: Any) -> Tensor:
        """The edit's clean latents ``[n, c, h, w]``, before rounding to pixels hides anything."""
        place = self.root / f"latents-{self.count}"
        self.result(frames, method, workspace=place, **given)
        (folder,) = (place / "stages").glob("edit-*")
        data = np.fromfile(folder / f"{('even', 'odd')[(STEPS - 1) % 2]}.bin", np.float32)
        return torch.from_numpy(data).view(len(frames), -1, SIZE[0] // 4, SIZE[1] // 4)


@contextmanager
def bench(pipe: AdaFlowPipeline, folder: Path, config: EditConfig, frames: np.ndarray | None = None) -> Iterator[Any]:
    """A system on a video, of nine frames if nothing else, and latents for it."""
    resolved = pipe.resolve(complete(config, pipe.backbone, folder))
    with pipe.opened(open_source(video(9) if frames is None else frames), resolved, folder / "bench") as run:
        kind = find(resolved.method)
        assert kind
        peer = kind(Bench(run, pipe.backbone.conditioning("", "blurry", PROMPT)))
        latents = stages.encode(run)
        if isinstance(peer, Stepwise):
            peer.prepare(latents)
        with torch.inference_mode():
            yield peer, latents.existing("latents")


def gathered(predictions: Any) -> Tensor:
    """``[2, n, c, h, w]``, in the order of frames."""
    by_frame = {}
    for frames, noise in predictions:
        for i, frame in enumerate(frames):
            by_frame[frame] = torch.stack([noise[i], noise[len(frames) + i]])
    return torch.stack([by_frame[frame] for frame in sorted(by_frame)], dim=1)
