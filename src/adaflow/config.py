"""Every setting of an edit, defined once: API, command line, record and docs are made from these fields.

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
from .presets import PRESETS, Preset
from .settings import Settings, setting

Kind = Literal["colour", "object", "background", "style"]


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(Settings):
    """Diffusion features (DIFT): which activation of the UNet describes a frame."""

    block: int = setting(
        -2, "decoder block whose output is the feature; negative counts from the finest", low=-8, high=7
    )
    timestep: int = setting(0, "timestep at which the frame is noised for its features", low=0, high=999)
    ensemble: int = setting(1, "noised copies averaged per frame", low=1, high=64)
    input_range: Literal["signed", "unit"] = setting(
        "signed", "pixel range given to the VAE for features: [-1,1], or [0,1] as the published script does"
    )
    dimensions: int = setting(
        0, "numbers kept of a token's feature, along the directions that hold most of it; 0: all", low=0, high=4096
    )
    noise_seed: int = setting(0, "seed of the fixed noise, the same for every frame; never the edit's seed", low=0)

    @property
    def of_latents(self) -> bool:
        """Whether features are those of the latents that are edited, rather than of draws from the pixels."""
        return self.input_range == "signed" and self.ensemble == 1


@dataclass(frozen=True, kw_only=True)
class KeyframeConfig(Settings):
    """Adaptive Keyframe Selection (Section 4.1): how a video is divided into clips, each giving one keyframe a step."""

    mean_threshold: float = setting(0.75, "a new clip starts when the mean similarity falls below this", low=-1, high=1)
    window_threshold: float = setting(0.6, "… or when any window's mean similarity does", low=-1, high=1)
    window: int = setting(0, "side of a window in tokens; 0: a sixteenth of the map's longer side, at least 3", low=0)
    stride: int = setting(0, "step between windows in tokens; 0: half that, at least 1", low=0)
    longest_clip: int = setting(400, "frames after which a clip ends in any case", low=1)
    both_directions: bool = setting(False, "also compare the new frame with the clip's first: catches new objects")
    rule: Literal["repaired", "released"] = setting(
        "repaired", "which frame a clip is compared with after a cut; 'released' is one late (docs/method.md)"
    )
    choice: Literal["uniform", "middle", "medoid"] = setting(
        "uniform", "which frame of a clip is the keyframe of a step"
    )


@dataclass(frozen=True, kw_only=True)
class SlimmingConfig(Settings):
    """Adaptive Attention Slimming (Section 4.2): how much a keyframe sees of the others."""

    budget: int = setting(
        14, "keyframes' worth of tokens that each keyframe attends to; 0: only its own frame, edited alone", low=0
    )
    own_tokens: bool = setting(True, "a keyframe always keeps its own tokens")
    count: Literal["exact", "released"] = setting("exact", "tokens kept: budget x N, or the released script's rounding")
    selection: Literal["score", "quota", "distinct"] = setting(
        "score",
        "which tokens: the most similar; equally many of every keyframe; or each thing once before its copies",
    )


@dataclass(frozen=True, kw_only=True)
class PropagationConfig(Settings):
    """Feature-Matched Latent Propagation (Section 4.3): how frames take over the attention of keyframes."""

    blend: int = setting(
        0,
        "frames on each side of a border between clips that also follow the other clip's keyframe; never over a cut",
        low=0,
        high=10000,
    )
    changes: float = setting(
        0.0,
        "first fraction of the steps in which frames take over what the edit has changed in their keyframe, added to "
        "their own source's attention, instead of the keyframe's attention itself",
        low=0,
        high=1,
    )
    deep_from: float = setting(
        1.0,
        "fraction of the steps from which frames also take over all that the keyframe computes below the UNet's finest "
        "level, and run that level alone; 1: never",
        low=0,
        high=1,
    )


@dataclass(frozen=True, kw_only=True)
class InjectionConfig(Settings):
    """Plug-and-Play injection: what keeps the source's structure."""

    sites: Literal["pnp", "wide"] = setting(
        "pnp", "where features are injected: PnP's one resnet, or every resnet of the attention-bearing decoder blocks"
    )
    features: float = setting(0.8, "first fraction of the steps in which features are injected", low=0, high=1)
    attention: float = setting(0.8, "first fraction of the steps in which queries and keys are injected", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Settings):
    """Local edits: how a mask is read, where one is given (docs/method.md)."""

    find: str = setting(
        "",
        "without a mask: words for what is edited, which the model then finds; 'change': where the prompt differs from "
        "the source prompt; empty: everything is edited",
    )
    threshold: float = setting(
        0.3, "share of a video's strongest response to the words from which a place is found", low=0.01, high=0.99
    )
    invert: bool = setting(False, "edit what is black in the mask, or is not found, and keep the rest")
    grow: int = setting(
        0, "pixels of the edited frame by which the mask is grown: room for what is larger", low=0, high=512
    )
    feather: int = setting(
        4,
        "width of the soft edge around it, in pixels of the edited frame; all that was white stays so",
        low=0,
        high=512,
    )
    restore: bool = setting(
        True, "outside the mask put back the source's own pixels; false: leave them as the model's autoencoder has them"
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """How the work is cut up for this machine; none of it is about what the edit means."""

    rows: int = setting(0, "UNet rows a call, about; 0: planned from the free memory", low=0, high=4096)
    keys: int = setting(
        0,
        "keyframes that go through the UNet together in the key pass; 0: planned from the free memory",
        low=0,
        high=4096,
    )
    record: Literal["auto", "memory", "streamed", "device", "disk"] = setting(
        "auto",
        "where the keyframes' attention outputs are held; streamed: page-locked, and copied ahead to a GPU; auto: on a "
        "GPU that has room for them, else streamed to it",
    )
    threads: int = setting(
        0, "CPU threads; 0: torch's choice. Kept in the workspace: part of what a result depends on", low=0
    )


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Settings):
    """What the written file is like."""

    size: Literal["model", "source"] = setting(
        "model", "frame size of the output: the model's, or scaled back to the source's"
    )
    quality: int = setting(18, "H.264 constant rate factor: lower is better and larger", low=0, high=51)
    audio: Literal["copy", "aac", "none"] = setting("copy", "what happens to the sound")
    metadata: bool = setting(True, "write settings, seed, model and versions into the file")
    keep: Literal["all", "edit", "none"] = setting(
        "all", "what stays in the workspace: everything, only this edit's latents and frames, or nothing"
    )


@dataclass(frozen=True, kw_only=True)
class PeerConfig(Settings):
    """The compared systems (docs/peers.md); what is not set is as the method's publication has it."""

    chunk: int = setting(
        None,
        "frames edited together, each chunk by itself; 0: the whole video (128, 16 and 32 as published)",
        low=0,
        optional=True,
    )
    clip: int = setting(
        None, "TokenFlow: frames that share a keyframe (8 as published)", low=1, high=1000, optional=True
    )
    keys: Literal["clips", "adjacent"] = setting(
        None,
        "TokenFlow: a frame's two keyframes are its own and the previous clip's, or those on either side of it",
        optional=True,
    )
    window: int = setting(
        None, "VidToMe: frames whose tokens are merged (4 as published)", low=1, high=1000, optional=True
    )
    local_merge: float = setting(
        None, "VidToMe: tokens merged among a window's frames (0.9 as published)", low=0, high=1, optional=True
    )
    global_merge: float = setting(
        None, "VidToMe: tokens merged with former windows (0.8 as published)", low=0, high=1, optional=True
    )
    grid: int = setting(
        None, "RAVE: frames along a side of the picture they are laid out in (2)", low=1, high=8, optional=True
    )
    interval: int = setting(
        None, "Rerender: frames from keyframe to keyframe (10 as published)", low=1, high=1000, optional=True
    )
    least_gap: int = setting(
        None, "FRESCO: least frames from keyframe to keyframe (10 as published)", low=1, high=1000, optional=True
    )
    most_gap: int = setting(
        None,
        "FRESCO: most frames, where the video has changes to choose from (30 as published)",
        low=1,
        high=10000,
        optional=True,
    )
    batch: int = setting(
        None,
        "FRESCO: keyframes edited together, two anchors among them (8 as published)",
        low=5,
        high=100,
        optional=True,
    )
    strength: float = setting(
        None,
        "FRESCO: last share of the steps that is run, from the noised frames (0.75 as published)",
        low=0.01,
        high=1,
        optional=True,
    )
    optimise: int = setting(
        None,
        "FRESCO: iterations of the optimisation of features (20 as published); 0: none",
        low=0,
        high=1000,
        optional=True,
    )
    controlnet: str = setting(
        None, "RAVE and FRESCO: a ControlNet for the model, as a folder in diffusers layout or a hub id", optional=True
    )
    control: Literal["canny", "depth"] = setting(
        None, "RAVE and FRESCO: what the ControlNet is shown: edges, or depth as the detector sees it", optional=True
    )
    control_scale: float = setting(
        None,
        "RAVE and FRESCO: how strongly the ControlNet steers (1 and 0.7 as published)",
        low=0,
        high=2,
        optional=True,
    )
    detector: str = setting(
        None, "RAVE and FRESCO: a depth estimator of transformers, as a folder or a hub id", optional=True
    )
    flow: Literal["dis", "farneback", "raft"] = setting(
        None,
        "FLATTEN, Rerender and FRESCO: optical flow by OpenCV's DIS or Farneback, or by torchvision's RAFT",
        optional=True,
    )


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
