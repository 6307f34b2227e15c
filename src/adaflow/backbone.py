"""The text-to-image model behind an edit: loading, latents, conditioning, noise prediction and the list of its sites.

Diffusers' names are met here, in the rooms of attention and in `injection.py`, and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from .cards import ModelCard, cards, embedded_folder, find_card
from .errors import InputError, MissingError
from .finest import FinestLevel

Branch = Literal["source", "negative", "prompt"]


@dataclass(frozen=True)
class Site:
    """A self-attention layer, or a resnet, by its place in the UNet."""

    name: str  # its path of attribute names in the UNet
    part: Literal["down", "mid", "up"]
    block: int  # which block of its part
    layer: int  # which attention or resnet of its block
    level: int  # how often the latent grid has been halved there


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told besides latents and timestep: one text embedding ``[1, L, D]`` for each branch."""

    embeddings: Mapping[Branch, Tensor]

    def rows(self, frames: Sequence[int], *branches: Branch) -> dict[str, Tensor]:
        """The UNet's keyword arguments for these frames (source order), branch after branch."""
        rows = [self.embeddings[branch].expand(len(frames), -1, -1) for branch in branches]
        return {"encoder_hidden_states": torch.cat(rows)}


class StopForward(Exception):  # noqa: N818 (a signal, not an error)
    """Raised by a hook to end a forward pass once its last wanted activation is there."""


@contextmanager
def forward_until(module: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Within it, a forward pass through `module` gives its output to `take` and ends there."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        take(output)
        raise StopForward

    handle = module.register_forward_hook(hook)
    try:
        yield
    except StopForward:
        pass
    finally:
        handle.remove()


class Backbone:
    """A Stable Diffusion pipeline, seen as what an edit needs of it.

    Args:
        pipe: The pipeline; its UNet and VAE are used as they are (LoRA layers included) and never modified.
        card: What is known about the model.
    """

    def __init__(self, pipe: Any, card: ModelCard) -> None:  # Any: diffusers does not type its pipelines' parts
        self.pipe: Any = pipe
        self.card = card
        self.unet, self.vae = self.pipe.unet, self.pipe.vae
        self.finest = FinestLevel(self.unet)
        for module in (self.unet, self.vae, self.pipe.text_encoder):
            module.requires_grad_(False).eval()
        channels = self.unet.config.in_channels
        if channels != self.vae.config.latent_channels or self.unet.config.get("addition_embed_type"):
            raise InputError(
                f"{card.name} is no plain Stable Diffusion 1.x or 2.x model; those for inpainting or XL differ"
            )
        scheduler = self.pipe.scheduler.config
        if scheduler.get("rescale_betas_zero_snr"):
            raise InputError(f"{card.name} was trained with zero terminal SNR, which DDIM inversion cannot start from")
        self._scheduler = {
            "num_train_timesteps": scheduler.num_train_timesteps,
            "beta_start": scheduler.beta_start,
            "beta_end": scheduler.beta_end,
            "beta_schedule": scheduler.beta_schedule,
            "trained_betas": scheduler.get("trained_betas"),
            "prediction_type": scheduler.get("prediction_type", "epsilon"),
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        }

    # -- loading ----------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, model: str, *, device: str | None = None, dtype: torch.dtype | None = None) -> Backbone:
        """The model of a card's name, a hub id, or a local folder in diffusers layout.

        Raises:
            MissingError: the model is not here and cannot be fetched, or a part of it is missing.
            InputError: the folder is no Stable Diffusion model in diffusers layout, or holds pickled weights only.
        """
        card = find_card(model)
        place = torch.device(device) if device else best_device()
        kind = dtype or best_dtype(place)
        folder = embedded_folder() if card.embedded else Path(model).expanduser()
        local = card.embedded or folder.exists()
        if local:
            _check_folder(folder)
        source = str(folder) if local else card.hub or model
        if not local and not card.hub and (model.startswith((".", "/", "~")) or model.count("/") > 1):
            raise MissingError(f"there is no folder {model}; check the path, or see: adaflow models list")
        if not local and not card.hub and "/" not in model:
            names = ", ".join(cards())
            raise MissingError(
                f"there is no model {model!r}: give a folder, a hub id like owner/name, or one of {names}"
            )
        options = {} if local else {"revision": card.revision}
        try:
            made = StableDiffusionPipeline.from_pretrained(
                source, dtype=kind, use_safetensors=True, safety_checker=None, requires_safety_checker=False, **options
            )
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            hint = "check the folder" if local else f"fetch it with: adaflow models get {card.name}"
            raise MissingError(f"the model {model} could not be loaded ({reason}); {hint}") from error
        if not isinstance(made, StableDiffusionPipeline):
            raise InputError(f"{model} is a {type(made).__name__}; AdaFlow needs a Stable Diffusion 1.x or 2.x model")
        pipe: Any = made
        pipe.set_progress_bar_config(disable=True)
        pipe = pipe.to(place)
        if place.type == "cuda":  # the order in which its convolutions work
            for module in (pipe.unet, pipe.vae):
                module.to(memory_format=torch.channels_last)
        return cls(pipe, card)

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's floating-point type."""
        return next(self.unet.parameters()).dtype

    def fingerprint(self) -> str:
        """A hash of all weights as they are in memory and of the configurations: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for module in (self.unet, self.vae, self.pipe.text_encoder):
            for name, p in module.state_dict().items():
                digest.update(f"{name}{tuple(p.shape)}{p.dtype}".encode())
                digest.update(p.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            for name, layer in module.named_modules():
                if hasattr(layer, "scaling"):  # of a LoRA: what is in use, and how strongly, is in no weight
                    digest.update(f"{name}{layer.scaling}{layer.active_adapters}{layer.disable_adapters}".encode())
        settings = [{k: v for k, v in m.config.items() if not k.startswith("_")} for m in (self.unet, self.vae)]
        digest.update(json.dumps([*settings, self._scheduler], sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]

    # -- geometry ---------------------------------------------------------------------------------------------------

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell, each way."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def home_size(self) -> tuple[int, int]:
        """(height, width) in pixels at which the model is at home."""
        if self.card.size:
            return self.card.size
        side = self.unet.config.sample_size
        h, w = (side, side) if isinstance(side, int) else side
        return h * self.vae_factor, w * self.vae_factor

    def grid(self, latent_size: tuple[int, int], level: int) -> tuple[int, int]:
        """The token grid of a level for latents of (h, w): each halving rounds up."""
        h, w = latent_size
        for _ in range(level):
            h, w = -(-h // 2), -(-w // 2)
        return h, w

    # -- sites ------------------------------------------------------------------------------------------------------

    def attention_sites(self) -> list[Site]:
        """All self-attention layers, in the order in which a forward pass meets them."""
        return [
            Site(f"{path}.attentions.{j}.transformer_blocks.{k}.attn1", part, b, j, level)
            for part, b, level, path, block in self._blocks()
            for j, attention in enumerate(getattr(block, "attentions", None) or ())
            for k, _ in enumerate(attention.transformer_blocks)
        ]

    def injection_attention_sites(self) -> list[Site]:
        """Where PnP injects queries and keys: decoder self-attention, without the first of its first block."""
        up = [s for s in self.attention_sites() if s.part == "up"]
        return [s for s in up if (s.block, s.layer) != (up[0].block, 0)]

    def injection_feature_sites(self, sites: Literal["pnp", "wide"]) -> list[Site]:
        """Resnets whose second convolution is injected: PnP's one, or all of the attention-bearing decoder blocks."""
        found = [
            Site(f"{path}.resnets.{j}.conv2", "up", b, j, level)
            for part, b, level, path, block in self._blocks()
            if part == "up" and getattr(block, "attentions", None)
            for j, _ in enumerate(block.resnets)
        ]
        if sites == "wide":
            return found
        first = [s for s in found if s.block == found[0].block]
        return [first[min(1, len(first) - 1)]]

    def in_finest_level(self, site: Site) -> bool:
        """Whether a site lies in what `predict_finest` runs: the first encoder block and the last decoder block."""
        return (site.part, site.block) in (("down", 0), ("up", len(self.unet.up_blocks) - 1))

    def feature_block(self, index: int) -> nn.Module:
        """The decoder block whose output is the diffusion feature; negative counts from the finest."""
        blocks = self.unet.up_blocks
        if not -len(blocks) <= index < len(blocks):
            raise InputError(f"features.block is {index}, and this model has {len(blocks)} decoder blocks")
        return blocks[index]

    def feature_channels(self, index: int) -> int:
        """Channels of what `feature_block` gives."""
        block: Any = self.feature_block(index)
        return int(block.resnets[-1].conv2.out_channels)

    def _blocks(self) -> Iterator[tuple[Literal["down", "mid", "up"], int, int, str, Any]]:
        down, up = self.unet.down_blocks, self.unet.up_blocks
        for b, block in enumerate(down):
            yield "down", b, b, f"down_blocks.{b}", block
        if self.unet.mid_block is not None:
            yield "mid", 0, len(down) - 1, "mid_block", self.unet.mid_block
        for b, block in enumerate(up):
            yield "up", b, len(up) - 1 - b, f"up_blocks.{b}", block

    # -- calls ------------------------------------------------------------------------------------------------------

    def scheduler(self, steps: int) -> Any:
        """DDIM with leading spacing, offset 1 and no clipping, whatever the model ships: inversion needs its grid."""
        scheduler: Any = DDIMScheduler(**self._scheduler)
        scheduler.set_timesteps(steps)
        return scheduler

    def inverse_scheduler(self, steps: int) -> Any:
        """The inverse of `scheduler` on the same grid."""
        scheduler: Any = DDIMInverseScheduler(**self._scheduler)
        scheduler.set_timesteps(steps)
        return scheduler

    def conditioning(self, source: str, negative: str, prompt: str) -> Conditioning:
        """The three branches' text embeddings."""
        texts: dict[Branch, str] = {"source": source, "negative": negative, "prompt": prompt}
        return Conditioning({branch: self.embed(text) for branch, text in texts.items()})

    @torch.inference_mode()
    def embed(self, text: str) -> Tensor:
        """The text's embedding ``[1, L, D]``, as the pipeline itself makes it."""
        embedding, _ = self.pipe.encode_prompt(text, self.device, 1, False)
        return embedding.to(self.dtype)

    def cut_words(self, text: str) -> str:
        """The end of `text` that the model's tokenizer has no room for; empty if it all fits."""
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(text, truncation=False, verbose=False).input_ids
        return tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1]).strip()

    @torch.inference_mode()
    def encode(self, frames: Tensor, *, signed: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Latents ``[b, c, h, w]`` fp32 of frames ``[b, H, W, 3]`` uint8: the posterior's mode, or a draw from it.

        `signed` scales pixels to [-1, 1] as the VAE expects; False to [0, 1], the published script's feature input.
        """
        pixels = frames.to(self.device).permute(0, 3, 1, 2).float() / 255
        pixels = (pixels * 2 - 1 if signed else pixels).to(self.vae.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean
        if generator is not None:
            noise = torch.randn(latents.shape[1:], generator=generator).to(latents.device, torch.float32)
            latents = latents.float() + posterior.std.float() * noise
        return latents.float() * self.vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames ``[b, H, W, 3]`` uint8, rounded, of latents ``[b, c, h, w]``."""
        z = (latents.to(self.device) / self.vae.config.scaling_factor).to(self.vae.dtype)
        pixels = self.vae.decode(z, return_dict=False)[0].float()
        return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)

    @torch.inference_mode()
    def predict(self, latents: Tensor, timestep: int | Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """The UNet's output ``[B, c, h, w]`` fp32 (epsilon or v, as the model predicts) for fp32 latents."""
        out = self.unet(latents.to(self.device, self.dtype), timestep, return_dict=False, **conditioning)[0]
        return out.float()

    @torch.inference_mode()
    def predict_finest(
        self, latents: Tensor, timestep: int, deep: Tensor, conditioning: Mapping[str, Tensor]
    ) -> Tensor:
        """`predict` by the finest level alone, with what entered the last decoder block at another step."""
        given = latents.to(self.device, self.dtype), timestep
        out: Tensor = self.finest(*given, deep=deep.to(self.device, self.dtype), **conditioning)
        return out.float()


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """fp16 on an accelerator; on a CPU bf16 where the processor computes it in hardware, else fp32."""
    if device.type != "cpu":
        return torch.float16
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if fast else torch.float32


def _check_folder(folder: Path) -> None:
    """Refuse, with the reason, a folder that cannot be a Stable Diffusion model with safe weights."""
    if not folder.is_dir():
        raise InputError(f"the model {folder} is a file; AdaFlow needs a folder in diffusers layout")
    index = folder / "model_index.json"
    if not index.is_file():
        raise InputError(f"{folder} is no diffusers model: it has no model_index.json")
    try:
        kind = str(json.loads(index.read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index} cannot be read: {error}") from error
    if not kind.startswith("StableDiffusion") or kind.startswith(("StableDiffusionXL", "StableDiffusion3")):
        raise InputError(f"{folder} holds a {kind}; AdaFlow needs Stable Diffusion 1.x or 2.x")
    for part in ("tokenizer", "scheduler"):  # without files transformers would make up an empty tokenizer
        if not any((folder / part).glob("*.json")):
            raise MissingError(f"the model {folder} is not whole: its {part} is missing; fetch or copy it again")
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")):
            pickled = any((folder / part).glob("*.bin")) or any((folder / part).glob("*.ckpt"))
            why = "only pickled weights, which can run code and are never loaded" if pickled else "no weights"
            raise MissingError(f"{folder / part} has {why}; AdaFlow needs .safetensors files there")
