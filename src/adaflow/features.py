"""Diffusion features (DIFT, Tang et al. 2023): a decoder activation of the UNet for a frame's nearly clean latent."""

from __future__ import annotations

import torch
from torch import Tensor

from .backbone import Backbone, forward_until
from .config import FeatureConfig


class FeatureExtractor:
    """Features of frames, every frame noised with the same fixed noise.

    Args:
        backbone: The model.
        config: Block, timestep, copies; complete.
        latent_shape: ``(c, h, w)`` of a frame's latents.
    """

    def __init__(self, backbone: Backbone, config: FeatureConfig, latent_shape: tuple[int, int, int]) -> None:
        self.backbone, self.config = backbone, config
        generator = torch.Generator().manual_seed(config.noise_seed)
        self._noise = torch.randn(config.ensemble, *latent_shape, generator=generator).to(backbone.device)
        scheduler = backbone.scheduler(1)
        alpha = float(scheduler.alphas_cumprod[config.timestep])
        self._signal, self._sigma = alpha**0.5, (1 - alpha) ** 0.5
        self._empty = backbone.embed("")
        self._block = backbone.feature_block(config.block)

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        """Features ``[b, h, w, d]`` fp32, not normalised, averaged over the copies.

        Args:
            latents: Clean latents ``[b, c, h, w]``, or ``[ensemble, b, c, h, w]`` where each copy has its own.
        """
        total = torch.zeros(())
        for copy, noise in enumerate(self._noise):
            clean = latents[copy] if latents.ndim == 5 else latents
            noisy = self._signal * clean.to(self.backbone.device) + self._sigma * noise
            taken: list[Tensor] = []
            with forward_until(self._block, taken.append):
                rows = {"encoder_hidden_states": self._empty.expand(clean.shape[0], -1, -1)}
                self.backbone.predict(noisy, self.config.timestep, rows)
            total = taken[0].float() if copy == 0 else total + taken[0].float()
        return (total / self.config.ensemble).permute(0, 2, 3, 1).contiguous()
