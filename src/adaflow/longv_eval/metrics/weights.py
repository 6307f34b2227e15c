"""Where the networks of the paper's metrics come from: one folder of the user's, or the hub's local cache.

Nothing is fetched unless asked for, and nothing is unpickled: safetensors only. A network that is not here makes a
`MissingError` whose sentence says how to get it; `scoring` turns it into a metric that is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...backbone import best_device
from ...cache import cache_folder
from ...errors import InputError, MissingError
from .aesthetic import AestheticHead
from .dover import Dover
from .encoders import Clip, Dino


@dataclass(frozen=True)
class Network:
    """A network that transformers holds.

    Attributes:
        folder: Its name in the weights folder.
        hub: Its repository.
        licence: Of the weights.
        serves: What it is for.
    """

    folder: str
    hub: str
    licence: str
    serves: str

    def how(self, folder: Path) -> str:
        """The command that brings it into a weights folder."""
        return (
            f'hf download {self.hub} --include "*.json" "*.txt" "model.safetensors" --local-dir {folder / self.folder}'
        )


@dataclass(frozen=True)
class Converted:
    """A published file of pickled weights, of which `convert` makes safetensors.

    Attributes:
        file: Its name in the weights folder, once converted.
        published: Its name as published.
        place: Where it is published.
        licence: Of the weights.
        serves: What it is for.
    """

    file: str
    published: str
    place: str
    licence: str
    serves: str

    def how(self, folder: Path) -> str:
        """The command that brings it into a weights folder."""
        return f"adaflow eval convert {self.published} --weights {folder} (the file is at {self.place})"


CLIP_L14 = Network("clip-vit-large-patch14", "openai/clip-vit-large-patch14", "MIT", "FQ, SC, text alignment")
CLIP_B32 = Network("clip-vit-base-patch32", "openai/clip-vit-base-patch32", "MIT", "background consistency")
DINOV2 = Network("dinov2-base", "facebook/dinov2-base", "Apache-2.0", "OC and its long-range measures")
DINO = Network("dino-vitb16", "facebook/dino-vitb16", "Apache-2.0", "OC as the paper cites it, subject consistency")
AESTHETIC = Converted(
    "laion-aesthetic-v2.safetensors",
    "sac+logos+ava1-l14-linearMSE.pth",
    "https://github.com/christophschuhmann/improved-aesthetic-predictor",
    "Apache-2.0",
    "FQ",
)
DOVER = Converted(
    "dover.safetensors",
    "DOVER.pth",
    "https://github.com/VQAssessment/DOVER/releases/tag/v0.1.0",
    "S-Lab 1.0: non-commercial use only",
    "VQ",
)
NETWORKS: tuple[Network, ...] = (CLIP_L14, CLIP_B32, DINOV2, DINO)
CONVERTED: tuple[Converted, ...] = (AESTHETIC, DOVER)


def default_folder() -> Path:
    """The weights folder where none is named: ``weights`` in adaflow's cache."""
    return cache_folder() / "weights"


class Weights:
    """The networks, loaded when they are first asked for, each once.

    Args:
        folder: Of the weights; None: the default one, which may be missing.
        fetch: Whether what transformers holds may be fetched from the hub. ``HF_HUB_OFFLINE`` forbids it all the same.
        device: Where they compute, in float32.

    Raises:
        InputError: the folder that was named is none.
    """

    def __init__(self, folder: Path | None = None, *, fetch: bool = False, device: torch.device | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise InputError(f"there is no folder {folder}; name one that holds weights with --weights")
        self.folder = folder or default_folder()
        self.fetch = fetch
        self.device = device or best_device()

    @cached_property
    def clip_l14(self) -> Clip:
        """CLIP ViT-L/14."""
        return self._clip(CLIP_L14)

    @cached_property
    def clip_b32(self) -> Clip:
        """CLIP ViT-B/32."""
        return self._clip(CLIP_B32)

    @cached_property
    def dinov2(self) -> Dino:
        """DINOv2-base."""
        from transformers import Dinov2Model

        return Dino(self._pretrained(Dinov2Model, DINOV2))

    @cached_property
    def dino(self) -> Dino:
        """DINO ViT-B/16."""
        from transformers import ViTModel

        return Dino(self._pretrained(ViTModel, DINO, add_pooling_layer=False))

    @cached_property
    def aesthetic(self) -> AestheticHead:
        """LAION's head, second version."""
        with self._named(AESTHETIC):
            return AestheticHead.from_state(self._state(AESTHETIC)).to(self.device)

    @cached_property
    def dover(self) -> Dover:
        """DOVER."""
        with self._named(DOVER):
            return Dover.from_state(self._state(DOVER)).to(self.device)

    def place(self, of: Network | Converted) -> Path | None:
        """The file of the weights, where they are here; None where they are not."""
        if isinstance(of, Converted):
            file = self.folder / of.file
            return file if file.is_file() else None
        file = self.folder / of.folder / "model.safetensors"
        if (self.folder / of.folder).is_dir():
            return file if file.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(of.hub, "model.safetensors")
        return Path(found) if isinstance(found, str) else None

    def _clip(self, network: Network) -> Clip:
        from transformers import CLIPModel, CLIPTokenizer

        model = self._pretrained(CLIPModel, network)
        source, options = self._source(network)
        if not options and not any((Path(source) / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            # without files transformers would make up an empty tokenizer
            raise MissingError(f"{source} has no tokenizer; get it with: {network.how(self.folder)}")
        try:
            tokenizer = CLIPTokenizer.from_pretrained(source, **options)
        except (OSError, ValueError, TypeError) as error:
            raise MissingError(f"the tokenizer of {source} cannot be read ({_line(error)})") from error
        return Clip(model, tokenizer)

    def _source(self, network: Network) -> tuple[str, dict[str, Any]]:
        """What to load from, and how: a folder of the weights folder, else the hub or its cache."""
        own = self.folder / network.folder
        if own.is_dir():
            return str(own), {}
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        return network.hub, {"local_files_only": offline or not self.fetch}

    def _pretrained(self, kind: Any, network: Network, **options: Any) -> Any:
        """A model of transformers with all of its weights.

        Raises:
            MissingError: it is not here, or not whole: transformers would fill what is missing with random numbers.
        """
        source, where = self._source(network)
        try:
            model, loaded = kind.from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **where, **options
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            if where:
                reason = f"{network.hub} is not here" if where["local_files_only"] else _line(error)
            else:
                reason = f"{source} cannot be loaded ({_line(error)})"
            raise MissingError(f"{reason}; get it with: {network.how(self.folder)}") from error
        incomplete = sorted(str(key) for name in ("missing_keys", "mismatched_keys") for key in loaded[name])
        if incomplete:
            raise MissingError(
                f"{source} is not whole: it lacks {incomplete[0]} and {len(incomplete) - 1} others; "
                f"get it again with: {network.how(self.folder)}"
            )
        return model.to(self.device).requires_grad_(False).eval()

    @contextmanager
    def _named(self, converted: Converted) -> Iterator[None]:
        """Say of which file it is that its weights are others."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.folder / converted.file}: {error}") from error

    def _state(self, converted: Converted) -> Mapping[str, Tensor]:
        file = self.folder / converted.file
        if not file.is_file():
            raise MissingError(f"{file} is not here; get it with: {converted.how(self.folder)}")
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise MissingError(
                f"{file} cannot be read ({_line(error)}); make it again with: {converted.how(self.folder)}"
            ) from error


def _line(error: Exception) -> str:
    """The first sentence of what a library says."""
    return " ".join(str(error).split()).split(". ")[0][:200]
