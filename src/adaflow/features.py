"""Diffusion features (DIFT, Tang et al. 2023): a decoder activation of the UNet for a frame's nearly clean latent."""

from __future__ import annotations

import torch
from torch import Tensor

from .backbone import Backbone, forward_until
from .config import FeatureConfig
from .correspondence import normalise

SAMPLED = 64
"""Frames of a video from which the directions of its features are found."""


def sampled_frames(frames: int) -> list[int]:
    """Up to `SAMPLED` frames of a video, evenly spread, the first and the last among them."""
    count = min(frames, SAMPLED)
    return sorted({round(k * (frames - 1) / max(1, count - 1)) for k in range(count)})


def energy(features: Tensor) -> Tensor:
    """The sum of the outer products of all tokens, at unit length, of features ``[..., d]``: ``[d, d]`` fp64."""
    tokens = normalise(features).flatten(0, -2).double().cpu()
    return tokens.T @ tokens


def leading_directions(energy: Tensor, dimensions: int) -> Tensor:
    """The directions that hold most of the features, and so keep their cosines best: principal components.

    They are taken about the origin, as cosines are.

    Args:
        energy: ``[d, d]`` fp64, the sum of `energy` over frames.
        dimensions: How many directions, at most d.

    Returns:
        ``[d, dimensions]`` fp32, orthonormal columns, the one that holds most first; of each the number that is
        largest regardless of its sign is positive.
    """
    vectors = torch.linalg.eigh(energy).eigenvectors.flip(1)[:, :dimensions]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return (vectors * largest.sign()).float()


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
