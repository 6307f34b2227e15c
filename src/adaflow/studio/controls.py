"""Which settings the page has controls for, in plain words; ranges and defaults come from `config.py` and the card."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cards import ModelCard, cards, default_model, find_card
from ..config import EditConfig, resolve
from ..errors import ConfigError

MEAN, WINDOW = "keyframes.mean_threshold", "keyframes.window_threshold"
"""The two thresholds, which have their place at the timeline."""


@dataclass(frozen=True)
class Control:
    """One setting on the page: `low` and `high` are what is useful, within what is allowed."""

    name: str
    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[tuple[str, str], ...] = ()
    lines: int = 1

    @property
    def info(self) -> str:
        """The help with the range."""
        return self.help if self.low is None or self.high is None else f"{self.help} {self.low:g} to {self.high:,.10g}."


MAIN = (
    Control("steps", "Steps", "How finely the edit is worked out. More takes longer; 20 to 50 is usual.", 2, 100, 1),
    Control(
        "guidance_scale",
        "Guidance",
        "How hard the prompt pulls. Too low: little changes. Too high: harsh colours.",
        1,
        20,
        0.5,
    ),
    Control("seed", "Seed", "Another number gives another variation of the same edit.", 0, 1_000_000, 1),
    Control(
        "height", "Height", "Pixels that the model works at; 0: what suits the model. Lower is faster.", 0, 1024, 8
    ),
)
MORE = (
    Control(
        "injection.features",
        "Keep the layout for",
        "Share of the steps in which the source's shapes are held on to. Lower it to change shapes.",
        0,
        1,
        0.05,
    ),
    Control(
        "injection.attention",
        "Keep the structure for",
        "Share of the steps in which the source's attention is taken over. Lower it to change more.",
        0,
        1,
        0.05,
    ),
    Control(
        "slimming.budget",
        "Memory for other keyframes",
        "How many keyframes' worth of detail each keyframe sees of the others. More is steadier and slower.",
        0,
        40,
        1,
    ),
    Control("keyframes.longest_clip", "Longest clip", "Frames after which a new clip starts in any case.", 1, 1000, 1),
    Control(
        "keyframes.choice",
        "Keyframe of a clip",
        "Which frame stands for its clip at a step.",
        choices=(
            ("another one at every step (the paper)", "uniform"),
            ("the middle one", "middle"),
            ("the most typical one", "medoid"),
        ),
    ),
    Control(
        "output.size",
        "Size of the result",
        "The model's size, or scaled back to the source's.",
        choices=(("as the model works", "model"), ("as the source", "source")),
    ),
    Control(
        "output.quality", "Compression", "Lower looks better and makes a larger file; 18 is nearly lossless.", 0, 51, 1
    ),
    Control(
        "output.audio",
        "Sound",
        "What becomes of the source's sound.",
        choices=(("as it is", "copy"), ("converted to AAC", "aac"), ("none", "none")),
    ),
)
WORDS = (
    Control("negative_prompt", "What it should not show", "Optional. The word “source” stands for the source prompt."),
    Control("source_prompt", "What the source shows", "Optional. A plain description of the video helps to keep it."),
)
THRESHOLDS = (
    Control(
        MEAN,
        "Similarity of the whole frame",
        "A new clip starts when a frame is less like the clip's first one than this. Higher: more clips.",
        0.3,
        1,
        0.005,
    ),
    Control(
        WINDOW,
        "Similarity of the least similar part",
        "The same for the part of the frame that changed most: catches small new things. Higher: more clips.",
        0.0,
        1,
        0.005,
    ),
)
CONTROLS = (*WORDS, *MAIN, *MORE, *THRESHOLDS)
KINDS = (
    ("anything", ""),
    ("colour of a thing", "colour"),
    ("the thing itself", "object"),
    ("the background", "background"),
    ("the style", "style"),
)
PRESETS = (
    ("recommended", "default"),
    ("fast: about half the work", "fast"),
    ("draft: to try things out", "draft"),
    ("the paper's text", "paper"),
    ("the paper's published script", "released"),
)


def models_here() -> list[str]:
    """The names of known models whose weights are on this machine, the default one first."""
    from huggingface_hub import try_to_load_from_cache

    first = default_model()

    def here(card: ModelCard) -> bool:
        found = card.hub and try_to_load_from_cache(card.hub, "model_index.json", revision=card.revision)
        return card.embedded or isinstance(found, str)

    return [first, *(name for name, card in cards().items() if here(card) and name != first)]


def defaults(model: str, preset: str, kind: str) -> dict[str, Any]:
    """The value of every control where nobody moves it.

    Raises:
        ConfigError: there is no such preset, or no such kind for this model.
    """
    card = find_card(model)
    asked = EditConfig.from_fields({"preset": preset, **({"kind": kind} if kind else {})})
    found = resolve(asked, card.settings, card.kinds).set_fields()
    return {control.name: found[control.name] for control in CONTROLS}


def chosen(values: Sequence[Any], model: str, preset: str, kind: str) -> dict[str, Any]:
    """The settings that differ from the defaults, checked: what a job is given.

    Args:
        values: Of `CONTROLS`, in their order, as the page sent them.
        model: One of `models_here`; `preset`, `kind`: names.

    Raises:
        ConfigError: a value that is not allowed.
    """
    usual = defaults(model, preset, kind)
    given = {c.name: typed(c.name, value) for c, value in zip(CONTROLS, values, strict=True)}
    asked = {name: value for name, value in given.items() if value is not None and value != usual[name]}
    asked |= ({"preset": preset} if preset != "default" else {}) | ({"kind": kind} if kind else {})
    checked = EditConfig.from_fields(asked)
    card = find_card(model)
    resolve(checked, card.settings, card.kinds)
    return checked.set_fields()


def typed(name: str, value: Any) -> Any:
    """A control's value as its setting's type: sliders send whole numbers and fractions alike."""
    kind = _kind(name)
    if isinstance(value, bool) or value is None or value == "":
        return "" if kind is str else None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int | float):
        return round(float(value), 6)
    return value


def values_of(settings: Mapping[str, Any], model: str) -> tuple[str, str, list[Any]]:
    """Preset, kind and the values of all controls for the settings of a job: `chosen` backwards."""
    preset, kind = str(settings.get("preset", "default")), str(settings.get("kind", ""))
    usual = defaults(model, preset, kind)
    return preset, kind, [settings.get(control.name, usual[control.name]) for control in CONTROLS]


def kinds_of(model: str) -> list[tuple[str, str]]:
    """The kinds that a model's card knows, with their words."""
    known = find_card(model).kinds
    return [(words, name) for words, name in KINDS if not name or name in known]


def thresholds(mean: float, window: float, settings: Mapping[str, Any], model: str) -> Any:
    """The keyframe settings of an edit, with these two thresholds.

    Raises:
        ConfigError: a threshold that is not allowed.
    """
    card = find_card(model)
    asked = EditConfig.from_fields({**settings, MEAN: typed(MEAN, mean), WINDOW: typed(WINDOW, window)})
    return resolve(asked, card.settings, card.kinds).keyframes


def _kind(name: str) -> type:
    group, _, last = name.rpartition(".")
    cls: Any = EditConfig
    if group:
        cls = typing.get_type_hints(EditConfig)[group]
    if last not in {f.name for f in dataclasses.fields(cls)}:
        raise ConfigError(f"there is no setting {name!r}")
    hint = typing.get_type_hints(cls)[last]
    return hint if isinstance(hint, type) else str
