"""What a restart costs: the UNet's held-out loss after one slice of training, and after two of half its length.

    python benchmarks/miniature_restart.py --init DIR [--samples 9600]

Both see equally many samples at a constant learning rate; the second slice starts from the averaged fp16 weights of the
first, with a fresh optimizer and warm-up. Writes ``benchmarks/results/miniature_restart.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from adaflow.miniature import WEIGHTS
from adaflow.miniature.classifier import to_model_range
from adaflow.miniature.text import TextEncoder, WordTokenizer
from adaflow.miniature.train import main as train
from adaflow.miniature.world import caption, random_scene, render

RESULTS = Path(__file__).parent / "results" / "miniature_restart.json"


@torch.inference_mode()
def held_out_loss(folder: Path, count: int = 256, batch: int = 32) -> tuple[float, float]:
    """Mean squared error of the predicted noise, and its standard error; scenes, noise and timesteps never change."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text, tokens = TextEncoder.from_folder(folder / "text_encoder"), WordTokenizer(folder / "tokenizer")
    alphas = DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
    generator = torch.Generator().manual_seed(0)
    errors = []
    for start in range(0, count, batch):
        scenes = [random_scene(seed, "test") for seed in range(start, start + batch)]
        images = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
        t = torch.randint(0, len(alphas), (batch,), generator=generator)
        alpha = alphas[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = vae.encode(to_model_range(images)).latent_dist.mode().float()
            noise = torch.randn(z.shape, generator=generator)
            states = text(tokens([caption(scene) for scene in scenes]))
            predicted = unet(alpha.sqrt() * z + (1 - alpha).sqrt() * noise, t, states, return_dict=False)[0]
        errors += (predicted.float() - noise).square().mean((1, 2, 3)).tolist()
    return float(np.mean(errors)), float(np.std(errors) / np.sqrt(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, default=WEIGHTS)
    parser.add_argument("--samples", type=int, default=9600)
    given = parser.parse_args()
    options = ["--schedule", "constant", "--rate", "4e-4", "--warmup", "50", "--batch", "16", "--minutes", "60"]
    options += ["--workers", "0", "--device", "cpu", "--save-every", "3600"]
    half = given.samples // 2
    with tempfile.TemporaryDirectory() as folder:
        once, first, second = (Path(folder) / name for name in ("once", "first", "second"))
        train(["unet", "--init", str(given.init), "--out", str(once), "--samples", str(given.samples), *options])
        train(["unet", "--init", str(given.init), "--out", str(first), "--samples", str(half), *options])
        train(["unet", "--init", str(first), "--out", str(second), "--samples", str(half), *options])
        losses = {"start": given.init, "half": first, "one slice": once, "two slices": second}
        report = {
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__,
            "samples": given.samples,
            "held_out_loss": {name: [round(x, 5) for x in held_out_loss(path)] for name, path in losses.items()},
        }
    print(json.dumps(report))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
