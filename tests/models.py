"""Small random Stable Diffusion pipelines for the tests: real diffusers modules, weights drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from adaflow.cards import embedded_folder


def tiny_pipeline(
    *,
    levels: int = 3,
    prediction_type: str = "epsilon",
    layers: int = 1,
    seed: int = 0,
    channels: int = 16,
    linear: bool = False,
) -> StableDiffusionPipeline:
    """A pipeline with `levels` UNet levels, attention on all but the coarsest, a VAE of factor 4, in fp32."""
    torch.manual_seed(seed)
    widths = tuple(channels * min(2**i, 2) for i in range(levels))
    unet = UNet2DConditionModel(
        sample_size=(8, 12),
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        cross_attention_dim=32,
        attention_head_dim=4,
        use_linear_projection=linear,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder() / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_tiny(folder: Path, **options: int | str) -> Path:
    """The tiny pipeline as a folder in diffusers layout."""
    tiny_pipeline(**options).save_pretrained(folder)  # type: ignore[arg-type]
    return folder
