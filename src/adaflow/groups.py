"""The groups of an edit's settings, each for one part of it; `config.EditConfig` holds one of every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .settings import Settings, setting


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
