"""Networks that turn pictures into vectors, and how pictures are prepared for them: one path, on every machine.

How a picture is resized shifts the third decimal of every consistency measure. Pictures are therefore resized here, by
Pillow or by torch as a measure's reference does it, and not by whichever image processor transformers would choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

Picture = NDArray[np.uint8]
Prepare = Callable[[Picture], Tensor]
"""A frame ``[H, W, 3]`` uint8 to what a network takes, ``[3, h, w]`` float32."""

CLIP_MEAN, CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """Resize, crop, normalise.

    Attributes:
        short: The shorter side after resizing, in pixels; the other keeps the shape, rounded down.
        crop: Side of the square cut from the middle; None: everything.
        mean: Of each channel, on [0, 1].
        spread: Likewise.
        by: ``pillow``: bicubic, with antialiasing. ``bicubic``, ``bilinear``: by torch, without.
    """

    short: int
    crop: int | None
    mean: tuple[float, float, float]
    spread: tuple[float, float, float]
    by: Literal["pillow", "bicubic", "bilinear"] = "pillow"

    def __call__(self, frame: Picture) -> Tensor:
        """``[H, W, 3]`` uint8 to ``[3, h, w]`` float32."""
        height, width = frame.shape[:2]
        shorter = min(height, width)
        size = tuple(self.short if side == shorter else side * self.short // shorter for side in (height, width))
        pixels = self._resized(frame, (size[0], size[1]))
        if self.crop is not None:
            top, left = ((side - self.crop) // 2 for side in size)
            pixels = pixels[top : top + self.crop, left : left + self.crop]
        scaled = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
        return ((scaled - torch.tensor(self.mean)) / torch.tensor(self.spread)).permute(2, 0, 1)

    def _resized(self, frame: Picture, size: tuple[int, int]) -> Picture:
        if self.by == "pillow":
            return np.array(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
        made = interpolate(pixels, size, mode=self.by, align_corners=False, antialias=False)
        return made[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


CLIP_PICTURES = Preparation(224, 224, CLIP_MEAN, CLIP_SPREAD)
"""FQ, SC, text alignment: as CLIP's own processor does."""
DINO_PICTURES = Preparation(256, 224, IMAGENET_MEAN, IMAGENET_SPREAD)
"""OC: as DINOv2's own processor does."""
BACKGROUND_PICTURES = Preparation(224, 224, CLIP_MEAN, CLIP_SPREAD, "bicubic")
"""Background consistency: as VBench does."""
SUBJECT_PICTURES = Preparation(224, None, IMAGENET_MEAN, IMAGENET_SPREAD, "bilinear")
"""Subject consistency: as VBench does, the whole picture."""


@dataclass(frozen=True)
class ClipVectors:
    """What CLIP says of pictures: before the projection ``[b, 1024]``, and after it ``[b, 768]`` (ViT-L/14)."""

    pooled: Tensor
    projected: Tensor


class Clip:
    """CLIP's two towers.

    Args:
        model: transformers' `CLIPModel`.
        tokenizer: Of the same model.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self._tokenizer = model, tokenizer

    @torch.inference_mode()
    def pictures(self, frames: Sequence[Picture], prepare: Prepare = CLIP_PICTURES) -> ClipVectors:
        """The vectors of frames, none normalised, on the CPU."""
        pixels = torch.stack([prepare(frame) for frame in frames]).to(self.model.device)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return ClipVectors(pooled.float().cpu(), self.model.visual_projection(pooled).float().cpu())

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Projected vectors of texts ``[t, 768]``, normalised; what the text tower has no room for is cut off."""
        words = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        pooled = self.model.text_model(**words).pooler_output
        return normalize(self.model.text_projection(pooled).float(), dim=-1).cpu()

    @property
    def scale(self) -> float:
        """What cosines are multiplied by: 100 in OpenAI's models."""
        return float(self.model.logit_scale.detach().exp())


class Dino:
    """A vision transformer whose class token describes a picture.

    Args:
        model: transformers' `Dinov2Model`, or `ViTModel` with DINO's weights.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.inference_mode()
    def pictures(self, frames: Sequence[Picture], prepare: Prepare = DINO_PICTURES) -> Tensor:
        """The class tokens after the last layer norm ``[b, 768]``, not normalised, on the CPU."""
        pixels = torch.stack([prepare(frame) for frame in frames]).to(self.model.device)
        other = self.model.config.model_type == "vit" and pixels.shape[-2:] != self._home
        options = {"interpolate_pos_encoding": True} if other else {}  # DINOv2 does so by itself
        states = self.model(pixel_values=pixels, **options).last_hidden_state
        return torch.as_tensor(states[:, 0]).float().cpu()

    @property
    def _home(self) -> tuple[int, int]:
        side = self.model.config.image_size
        return (side, side) if isinstance(side, int) else tuple(side)
