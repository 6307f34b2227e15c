"""The real thing's shape: Stable Diffusion 2.1's UNet and VAE with random weights at 384x672, on the device at hand.

    python benchmarks/sd_shape.py                                   # 8 frames, 4 clips, budget 2, 4+4 steps
    python benchmarks/sd_shape.py --presets default fast            # one after the other
    python benchmarks/sd_shape.py --frames 1000 --clips 60 --steps 50 --budget 14     # for a GPU

Random weights edit nothing sensible; seconds, bytes and shapes are the real ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import PeakMemory, StageClock, write
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.backbone import best_device, best_dtype
from adaflow.cards import ModelCard, embedded_folder
from adaflow.presets import PRESETS


def stable_diffusion_21(device: torch.device, dtype: torch.dtype) -> StableDiffusionPipeline:
    """SD 2.1 base by configuration; the text encoder's vocabulary is the miniature's, its width SD's."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)  # a minute sooner than to draw the weights on the CPU
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder() / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=1,
            num_attention_heads=16,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe.to(dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--budget", type=int, default=2)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["default"])
    arguments = parser.parse_args()
    device = best_device()
    pipe = AdaFlowPipeline.from_pipe(
        stable_diffusion_21(device, best_dtype(device)), ModelCard(name="sd21-shape", size=(384, 672))
    )
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (arguments.frames, 384, 672, 3), dtype=np.uint8)
    for preset in arguments.presets:
        measure(pipe, pixels, preset, arguments)


def measure(pipe: AdaFlowPipeline, pixels: np.ndarray, preset: str, arguments: argparse.Namespace) -> None:
    """One edit."""
    device = pipe.backbone.device
    config = EditConfig.from_fields(
        {
            "preset": preset,
            "steps": arguments.steps,
            "slimming.budget": arguments.budget,
            "keyframes.mean_threshold": -1.0,
            "keyframes.window_threshold": -1.0,
            "keyframes.longest_clip": -(-arguments.frames // arguments.clips),
            "injection.features": 0.5,  # the first half of the steps with injection, the second without
            "injection.attention": 0.5,
        }
    )
    clock, start = StageClock(say_every=10), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak:
        result = pipe(pixels, "a red car in the snow", config=config, workspace=Path(folder), on_progress=clock)
    figures = {
        "preset": preset,
        "dtype": str(pipe.backbone.dtype),
        "frames": arguments.frames,
        "clips": len(result.partition.clips),
        "budget": arguments.budget,
        "steps": arguments.steps,
        "injected_steps": arguments.steps // 2,
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_by_stage": {k: round(v, 1) for k, v in clock.seconds.items()},
        "host_peak_bytes": peak.bytes,
        "device_peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
    }
    named = "" if preset == "default" else f"_{preset}"
    write(f"sd_shape_{device.type}_{arguments.frames}{named}", figures)


if __name__ == "__main__":
    main()
