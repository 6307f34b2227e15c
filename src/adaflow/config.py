"""Every setting of an edit, defined once: API, command line, record and docs are made from these fields.

`groups` holds the groups, importable from here.

A field left alone is *not set* (``None`` at run time). `resolve` fills what is not set, in this order of precedence:
what the caller set > the kind > the preset > the model's card > the package default written here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from typing_extensions import Self

from .errors import ConfigError
from .groups import (
    FeatureConfig,
    InjectionConfig,
    KeyframeConfig,
    MaskConfig,
    OutputConfig,
    PeerConfig,
    PropagationConfig,
    RunConfig,
    SlimmingConfig,
)
from .presets import PRESETS, Preset
from .settings import Settings, setting

__all__ = [
    "EditConfig",
    "FeatureConfig",
    "InjectionConfig",
    "KeyframeConfig",
    "Kind",
    "MaskConfig",
    "OutputConfig",
    "PeerConfig",
    "PropagationConfig",
    "ResolvedConfig",
    "RunConfig",
    "SlimmingConfig",
    "resolve",
]

Kind = Literal["colour", "object", "background", "style"]


@dataclass(frozen=True, kw_only=True)
class EditConfig(Settings):
    """Everything that can be set about an edit."""

    method: str = setting(
        None,
        "adaflow, or a compared system: pnp, tokenflow, vidtome, rave-pnp, rave, flatten, rerender-lite, fresco-lite "
        "(docs/peers.md)",
        optional=True,
    )
    preset: Preset = setting(
        "default",
        "a set of settings: the repaired method; the same with fewer operations, or with far fewer; the paper's text; "
        "the published script",
    )
    kind: Kind = setting(None, "what the edit changes; chooses the model's settings for it", optional=True)
    seed: int = setting(0, "seed of every random draw of the edit", low=0, high=2**63 - 1)
    height: int = setting(
        0, "height the model works at, in pixels; 0: from the card, keeping the aspect ratio", low=0, high=8192
    )
    width: int = setting(0, "width the model works at, in pixels; 0: as for height", low=0, high=8192)
    steps: int = setting(50, "sampling steps", low=1, high=1000)
    inversion_steps: int = setting(
        0, "inversion steps: fewer than the sampling steps, or a multiple of them; 0: as many", low=0, high=1000
    )
    inversion_reuse: int = setting(
        1,
        "inversion steps from one run of the whole UNet to the next; those between run its finest level alone; 1: none "
        "between",
        low=1,
        high=1000,
    )
    reuse: int = setting(
        1,
        "steps from one run of the whole UNet to the next; those between run its finest level alone; 1: none between",
        low=1,
        high=1000,
    )
    guidance_scale: float = setting(7.5, "classifier-free guidance: how hard the prompt pulls", low=1.0, high=50)
    guidance_start: float = setting(0.0, "fraction of the steps before which there is no guidance", low=0, high=1)
    guidance_end: float = setting(1.0, "fraction of the steps after which there is no guidance", low=0, high=1)
    negative_prompt: str = setting("", "what the result should not show; 'source' stands for the source prompt")
    source_prompt: str = setting("", "what the source shows: conditions the inversion and the source branch")
    prompt_fallback: Literal["empty", "prompt"] = setting("empty", "source prompt where none is given")
    max_memory: str = setting(
        "", "memory that all of it may take, such as 8GiB: the GPU's, or without one the host's; empty: what is free"
    )
    features: FeatureConfig = field(default_factory=FeatureConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    slimming: SlimmingConfig = field(default_factory=SlimmingConfig)
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    injection: InjectionConfig = field(default_factory=InjectionConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    run: RunConfig = field(default_factory=RunConfig)
    peers: PeerConfig = field(default_factory=PeerConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def to_yaml(self) -> str:
        """The set fields as YAML that `load` reads back."""
        tree: dict[str, Any] = {}
        for name, value in self.set_fields().items():
            *groups, last = name.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = value
        text = str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        if yaml.safe_load(text) != tree:  # rare characters that YAML takes for line breaks
            text = str(yaml.safe_dump(tree, sort_keys=False))
        return text

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Settings from a YAML file. Raises `ConfigError` for a file or a name that cannot be used."""
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the settings file {path} cannot be read: {error}") from error
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the settings file {path} is not valid YAML: {reason}") from error
        if tree is None:
            tree = {}
        if not isinstance(tree, dict):
            raise ConfigError(f"the settings file {path} must hold 'name: value' lines")
        groups = {f.name for f in dataclasses.fields(cls) if not f.metadata}
        try:
            return cls.from_fields({k: v for k, v in _flatten(tree) if v is not None or k not in groups})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def over(self, other: EditConfig) -> Self:
        """These settings where they are set, `other`'s elsewhere."""
        return type(self).from_fields(other.set_fields() | self.set_fields())


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(EditConfig):
    """An `EditConfig` in which nothing is left open: the only one that the stages see. Made by `resolve`."""

    def inversion(self) -> dict[str, int]:
        """The settings that an inversion depends on, by name."""
        reuse = {"inversion_reuse": self.inversion_reuse} if self.inversion_reuse > 1 else {}
        return {"steps": self.steps, "inversion_steps": self.inversion_steps, **reuse}


def resolve(
    config: EditConfig, card: Mapping[str, Any] | None = None, kinds: Mapping[str, Mapping[str, Any]] | None = None
) -> ResolvedConfig:
    """`config` with every open setting decided (order of precedence in this module's first lines).

    Args:
        config: What the caller set.
        card: The model card's settings, by dotted name.
        kinds: The card's settings for each kind of edit, by dotted name.
    Raises:
        ConfigError: settings that contradict each other, or a kind that the model's card does not know.
    """
    layers: dict[str, Any] = {
        n: f.metadata["default"] for n, f in EditConfig._known() if f.metadata["default"] is not None
    }
    layers |= card or {}
    layers |= PRESETS[config.preset or layers["preset"]]
    if config.kind:
        if config.kind not in (kinds or {}):
            raise ConfigError(f"this model's card has no settings for kind {config.kind!r}; leave --kind away")
        layers |= (kinds or {})[config.kind]
    resolved = ResolvedConfig.from_fields(layers | config.set_fields())
    inversion = resolved.inversion_steps or resolved.steps
    if inversion > resolved.steps and inversion % resolved.steps:
        raise ConfigError(
            f"inversion_steps {inversion} is not a multiple of steps {resolved.steps}; "
            f"use {round(inversion / resolved.steps) * resolved.steps}, or fewer than {resolved.steps}"
        )
    if resolved.features.dimensions and not resolved.features.of_latents:
        raise ConfigError(
            "features.dimensions goes with features of the stored latents alone; "
            "set features.ensemble 1 and features.input_range signed, or features.dimensions 0"
        )
    if resolved.guidance_start > resolved.guidance_end:
        raise ConfigError(
            f"guidance_start {resolved.guidance_start} exceeds guidance_end {resolved.guidance_end}; exchange them"
        )
    return dataclasses.replace(resolved, inversion_steps=inversion)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
