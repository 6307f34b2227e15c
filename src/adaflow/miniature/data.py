"""Training samples, rendered by worker processes as they are needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .panorama import HEIGHT, WIDTH, paint, panorama
from .render import Painting, render
from .scene import Scene, training_scene
from .vocabulary import VOCABULARY


def labels(scene: Scene) -> list[int]:
    """Indices into ``VOCABULARY`` of the first object's kind and colour, the background and the style."""
    first = scene.objects[0]
    words = {"object": first.kind, "colour": first.colour, "background": scene.background, "style": scene.style}
    return [VOCABULARY[name].index(words[name]) for name in VOCABULARY]


@dataclass(frozen=True)
class Gallery:
    """Panoramas in a folder, each painted once, by whichever rendering process needs it first."""

    folder: Path

    def __call__(self, background: str, place: int) -> NDArray[np.uint8]:
        """What `adaflow.miniature.panorama.paint` gives."""
        path = self.folder / f"{background}-{place}"
        if path.exists():
            return np.fromfile(path, np.uint8).reshape(HEIGHT, WIDTH, 3)
        image = paint(background, place)
        part = path.with_suffix(f".{os.getpid()}")
        image.tofile(part)
        part.replace(path)
        return image


class Scenes(IterableDataset):
    """Training scenes of consecutive seeds from ``first`` on: ``{image, caption, labels}``, without end."""

    def __init__(self, first: int, objects: int | None = None, painting: Painting = panorama) -> None:
        super().__init__()
        self.first, self.objects, self.painting = first, objects, painting

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        index, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for seed in count(self.first + index, step):
            scene, time, text = training_scene(seed, self.objects)
            image = torch.from_numpy(render(scene, time, self.painting))
            yield {"image": image, "caption": text, "labels": torch.tensor(labels(scene))}


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def _children_with_one_thread() -> Iterator[None]:
    """Processes started meanwhile do their arithmetic in one thread: several in each of many wait for one another."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def batches(first: int, batch: int, workers: int, objects: int | None = None) -> Iterator[dict[str, Any]]:
    """Batches of `Scenes`: ``image`` uint8 ``(batch, 128, 224, 3)``, ``caption``, ``labels`` ``(batch, 4)``.

    Args:
        first: The first seed.
        batch: Samples in each.
        workers: Rendering processes; 0 renders in this one.
        objects: In each scene; None draws one or two.

    """
    gallery = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    loader = DataLoader(
        Scenes(first, objects, Gallery(Path(gallery.name)) if workers else panorama),
        batch_size=batch,
        num_workers=workers,
        # forked, they would keep the arithmetic threads that this process was started with
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=3 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    with _children_with_one_thread():
        source = iter(loader)
    return _with_gallery(gallery, source)


def _with_gallery(
    gallery: tempfile.TemporaryDirectory[str], source: Iterator[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    with gallery:
        try:
            yield from source
        finally:
            del source  # its processes end before their folder does


class LatentPool:
    """The latest encoded samples, to be drawn from more than once: rendering and encoding cost more than a step may."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.added = capacity, 0
        self._latents = self._ids = torch.empty(0)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, latents: Tensor, ids: Tensor) -> None:
        """Latents ``(b, c, h, w)``, kept in fp16, and token ids ``(b, tokens)``; the oldest make room."""
        if not self.added:
            self._latents = latents.new_empty((self.capacity, *latents.shape[1:]), dtype=torch.float16)
            self._ids = ids.new_empty((self.capacity, *ids.shape[1:]))
        places = torch.arange(self.added, self.added + len(latents), device=latents.device) % self.capacity
        self._latents[places] = latents.half()
        self._ids[places] = ids
        self.added += len(latents)

    def newest(self, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` samples that were added last, as `draw` gives them."""
        chosen = torch.arange(self.added - count, self.added, device=self._latents.device) % self.capacity
        return self._latents[chosen].float(), self._ids[chosen]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents ``(count, c, h, w)`` float32 and token ids ``(count, tokens)``, any of those there."""
        chosen = torch.randint(0, len(self), (count,), generator=generator, device=self._latents.device)
        return self._latents[chosen].float(), self._ids[chosen]
