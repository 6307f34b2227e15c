"""Model cards: the models known by name, where they come from, and the settings that suit them (`cards.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from .errors import MissingError


@dataclass(frozen=True)
class ModelCard:
    """What AdaFlow knows of a model beyond its weights.

    `size` is (height, width) in pixels, or None to take the UNet's own; `settings` and `kinds` hold values of
    `EditConfig` fields by dotted name; `embedded` models speak only the words of their tokenizer.
    """

    name: str
    title: str = "a Stable Diffusion model without a card of its own: Stable Diffusion's settings are used"
    hub: str | None = None
    revision: str = "main"
    embedded: bool = False
    size: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@cache
def cards() -> Mapping[str, ModelCard]:
    """All cards by name."""
    data = yaml.safe_load(resources.files("adaflow").joinpath("cards.yaml").read_text(encoding="utf-8"))
    return {name: ModelCard(name=name, **(d | {"size": tuple(d["size"])})) for name, d in data.items()}


def embedded_folder() -> Path:
    """The folder of the miniature's weights inside the package."""
    folder = Path(str(resources.files("adaflow"))) / "miniature" / "weights"
    if not (folder / "model_index.json").is_file():
        raise MissingError("the embedded model is missing from this installation; install AdaFlow again")
    return folder


def find_card(model: str) -> ModelCard:
    """The card of a known name or hub id; a plain one for anything else."""
    for card in cards().values():
        if model in (card.name, card.hub):
            return card
    return ModelCard(name=model)


def default_model() -> str:
    """The model used where none is asked for: a known one already in the hub's local cache, else the miniature."""
    from huggingface_hub import try_to_load_from_cache

    for card in cards().values():
        if card.hub and isinstance(try_to_load_from_cache(card.hub, "model_index.json", revision=card.revision), str):
            return card.name
    return "miniature"
