"""Training samples, rendered by worker processes as they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .render import render
from .scene import Scene, Split, caption, random_scene
from .vocabulary import VOCABULARY


def labels(scene: Scene) -> list[int]:
    """Indices into ``VOCABULARY`` of the first object's kind and colour, the background and the style."""
    first = scene.objects[0]
    words = {"object": first.kind, "colour": first.colour, "background": scene.background, "style": scene.style}
    return [VOCABULARY[name].index(words[name]) for name in VOCABULARY]


class Scenes(IterableDataset):
    """Random scenes of consecutive seeds from ``first`` on: ``{image, caption, labels}``, without end."""

    def __init__(self, first: int, split: Split = "train", objects: int | None = None) -> None:
        super().__init__()
        self.first, self.split, self.objects = first, split, objects

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        index, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for seed in count(self.first + index, step):
            scene = random_scene(seed, self.split, self.objects)
            image = torch.from_numpy(render(scene))
            yield {"image": image, "caption": caption(scene), "labels": torch.tensor(labels(scene))}


def _one_thread(_: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def batches(dataset: Scenes, batch: int, workers: int) -> Iterator[dict[str, Any]]:
    """Batches of samples: ``image`` uint8 ``(batch, 128, 224, 3)``, ``caption``, ``labels`` ``(batch, 4)``."""
    loader = DataLoader(
        dataset,
        batch_size=batch,
        num_workers=workers,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


class LatentPool:
    """A fixed number of encoded samples in memory, drawn from in shuffled passes: for machines without GPU."""

    def __init__(self, latents: Tensor, ids: Tensor, generator: torch.Generator) -> None:
        self.latents, self.ids, self.generator = latents, ids, generator
        self.order = torch.empty(0, dtype=torch.int64)

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """Latents ``(batch, 4, h, w)`` float32 and token ids ``(batch, tokens)``."""
        if len(self.order) < batch:
            self.order = torch.randperm(len(self.latents), generator=self.generator)
        chosen, self.order = self.order[:batch], self.order[batch:]
        return self.latents[chosen].float(), self.ids[chosen].clone()
