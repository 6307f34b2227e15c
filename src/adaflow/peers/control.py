"""ControlNets (Zhang et al. 2023, https://arxiv.org/abs/2302.05543): structure from pictures of edges or of depth.

A ControlNet is called before the UNet at every call of it, by a forward hook, with the same latents, timestep and text
and the pictures of its frames; what it gives is added where diffusers adds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Backbone
from ..cache import cache_folder
from ..config import PeerConfig
from ..errors import InputError, MissingError
from .flow import Picture

CANNY = (100, 200)
"""Thresholds of the edge detector: those that ControlNets for edges were trained around."""


class ControlNet:
    """One ControlNet, and how strongly it steers.

    Args:
        net: diffusers' `ControlNetModel`, on the UNet's device and of its type.
        scale: What its residuals are multiplied by.
    """

    def __init__(self, net: Any, scale: float) -> None:  # Any: diffusers does not type its models' configurations
        self.net: Any = net.requires_grad_(False).eval()
        self.scale = scale

    @classmethod
    def asked(cls, backbone: Backbone, peers: PeerConfig) -> ControlNet | None:
        """The one that the settings name; None where they name none."""
        return cls.load(peers.controlnet, backbone, peers.control_scale) if peers.controlnet else None

    @classmethod
    def load(cls, place: str, backbone: Backbone, scale: float) -> ControlNet:
        """The ControlNet of a local folder in diffusers layout or a hub id.

        Raises:
            MissingError: it is not here and cannot be fetched, or has no safetensors.
            InputError: it belongs to another model.
        """
        from diffusers import ControlNetModel

        folder = Path(place).expanduser()
        local = folder.exists()
        try:
            net: Any = ControlNetModel.from_pretrained(
                str(folder) if local else place, torch_dtype=backbone.dtype, use_safetensors=True
            )
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            what = "a folder in diffusers layout with safetensors, or a hub id"
            raise MissingError(f"the ControlNet {place} could not be loaded ({reason}); name {what}") from error
        for name in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block"):
            its, wanted = net.config[name], backbone.unet.config[name]
            if its != wanted and list(np.atleast_1d(its)) != list(np.atleast_1d(wanted)):
                raise InputError(
                    f"the ControlNet {place} is of another model than {backbone.card.name}: its {name} is {its}, and "
                    f"the model's {wanted}; name one that was made for it"
                )
        return cls(net.to(backbone.device), scale)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of its weights: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, p in self.net.state_dict().items():
            digest.update(f"{name}{tuple(p.shape)}{p.dtype}".encode())
            digest.update(p.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @contextmanager
    def steering(self, unet: nn.Module, pictures: Tensor) -> Iterator[None]:
        """Within it, every call of the UNet is steered.

        Args:
            pictures: What is shown to the ControlNet of the f frames of each branch, ``[f, 3, H, W]`` in [0, 1].
        """

        def before(
            _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            sample, timestep = args[:2]
            shown = self._shown(pictures, sample).repeat(len(sample) // len(pictures), 1, 1, 1)
            down, mid = self.net(
                sample,
                timestep,
                encoder_hidden_states=kwargs["encoder_hidden_states"],
                controlnet_cond=shown,
                conditioning_scale=self.scale,
                return_dict=False,
            )
            return args, {**kwargs, "down_block_additional_residuals": down, "mid_block_additional_residual": mid}

        def steered(_module: nn.Module, _args: Any) -> None:
            """Does nothing; by it, who counts operations by kind of call sees that this call has more of them."""

        handles = [
            unet.register_forward_pre_hook(before, with_kwargs=True),
            unet.get_submodule("conv_in").register_forward_pre_hook(steered),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _shown(self, pictures: Tensor, sample: Tensor) -> Tensor:
        """The pictures at the size that the ControlNet brings down to the latents'."""
        factor = 2 ** (len(self.net.config.conditioning_embedding_out_channels) - 1)
        size = (sample.shape[2] * factor, sample.shape[3] * factor)
        shown = pictures.to(sample.device, torch.float32)
        if tuple(shown.shape[2:]) != size:
            shown = F.interpolate(shown, size=size, mode="bilinear", antialias=True)
        return shown.to(sample.dtype)


class ControlPictures:
    """What a frame looks like to a ControlNet: its edges, or its depth.

    Raises:
        MissingError: OpenCV, or the network that sees depth, is not here.
    """

    def __init__(self, peers: PeerConfig, backbone: Backbone) -> None:
        self._find = _edges() if peers.control == "canny" else _depth(peers.detector or "", backbone)

    def __call__(self, picture: Picture) -> Tensor:
        """``[3, H, W]`` in [0, 1] of a frame ``[H, W, 3]`` uint8."""
        found = self._find(picture)
        return found.float().expand(3, -1, -1)


def default_controlnet() -> str | None:
    """The folder where a ControlNet is looked for if none is named: ``weights/controlnet`` in the cache."""
    folder = cache_folder() / "weights" / "controlnet"
    return str(folder) if folder.is_dir() else None


def _edges() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingError("edges are found by OpenCV; install it with: pip install 'adaflow[peers]'") from error

    def find(picture: Picture) -> Tensor:
        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        return torch.from_numpy(np.asarray(cv2.Canny(grey, *CANNY))) / 255

    return find


def _depth(place: str, backbone: Backbone) -> Any:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        prepare: Any = AutoImageProcessor.from_pretrained(place)
        network: Any = AutoModelForDepthEstimation.from_pretrained(place, use_safetensors=True)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingError(
            f"the network {place or 'that sees depth'} could not be loaded ({reason}); name a depth estimator of "
            "transformers with --peers.detector, or a ControlNet for edges and --peers.control canny"
        ) from error
    network.to(backbone.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def find(picture: Picture) -> Tensor:
        inputs = prepare(images=np.ascontiguousarray(picture), return_tensors="pt").to(backbone.device)
        found = network(**inputs).predicted_depth.float()  # (1, h, w)
        depth = F.interpolate(found[None], size=picture.shape[:2], mode="bicubic")[0, 0].cpu()
        if _grows_with_distance(network):
            depth = -depth  # ControlNets were trained on near = bright
        low, high = depth.min(), depth.max()
        return (depth - low) / (high - low).clamp(min=1e-12)

    return find


def _grows_with_distance(network: Any) -> bool:
    """Whether a network gives distances (ZoeDepth, GLPN, metric Depth Anything), not their inverse (DPT, others)."""
    config = network.config
    return (
        config.model_type in ("zoedepth", "glpn", "depth_pro")
        or getattr(config, "depth_estimation_type", "") == "metric"
    )
