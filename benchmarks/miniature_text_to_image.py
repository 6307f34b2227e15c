"""How often the miniature draws what a caption says, by the classifier; and a contact sheet.

    python benchmarks/miniature_text_to_image.py [--images 128] [--guidance 3] [--sheet FILE.jpg]

The captions are those of held-out scenes: combinations of object, colour and background that training left out, one
object each, half of them in the photo style. Writes ``benchmarks/results/miniature_text_to_image.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from adaflow.miniature import WEIGHTS
from adaflow.miniature.classifier import AttributeClassifier
from adaflow.miniature.world import STYLES, caption, random_scene

RESULTS = Path(__file__).parent / "results" / "miniature_text_to_image.json"
SHOWN = [
    "a red car on a grass field",
    "a blue balloon in the snow",
    "a yellow bird in the desert",
    "an orange cat in the city",
    "a white boat on the sea",
    "a green fish in the starry night",
    "a purple butterfly on a grass field",
    "a pink truck in the snow",
    "a red car on a grass field, watercolor painting",
    "a red car on a grass field, pencil sketch",
    "a red car on a grass field, comic style",
    "a blue boat on the sea, watercolor painting",
    "a blue boat on the sea, pencil sketch",
    "a blue boat on the sea, comic style",
    "a red car and a blue bird on a grass field",
    "a yellow cat and a pink balloon in the city",
]


def draw(pipe: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int) -> np.ndarray:
    """Images ``(n, 128, 224, 3)`` uint8."""
    generator = torch.Generator().manual_seed(0)
    size: dict[str, Any] = {"height": 128, "width": 224, "output_type": "np", "generator": generator}
    images = []
    for start in range(0, len(prompts), 16):
        batch = prompts[start : start + 16]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = pipe(batch, guidance_scale=guidance, num_inference_steps=steps, **size)
        images.append((out.images * 255).round().astype(np.uint8))
    return np.concatenate(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS, local_files_only=True).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if given.sheet:
        from PIL import Image

        tiles = draw(pipe, SHOWN, given.guidance, given.steps)
        Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in tiles.reshape(4, 4, 128, 224, 3)])).save(
            given.sheet, quality=85
        )
    scenes = [random_scene(20_000 + i, "test", objects=1) for i in range(given.images)]
    found = AttributeClassifier.load().classify(
        draw(pipe, [caption(scene) for scene in scenes], given.guidance, given.steps)
    )
    style = np.array([scene.style for scene in scenes])
    right = {
        "colour": np.array(found["colour"]) == np.array([s.objects[0].colour for s in scenes]),
        "object": np.array(found["object"]) == np.array([s.objects[0].kind for s in scenes]),
        "background": np.array(found["background"]) == np.array([s.background for s in scenes]),
        "style": np.array(found["style"]) == style,
    }
    coloured = style != "pencil"
    report = {
        "command": f"python benchmarks/miniature_text_to_image.py --images {given.images}",
        "date": datetime.date.today().isoformat(),
        "steps": given.steps,
        "guidance_scale": given.guidance,
        "right": {n: round(float((v[coloured] if n == "colour" else v).mean()), 3) for n, v in right.items()},
        "right_by_style": {
            s: {n: round(float(v[style == s].mean()), 3) for n, v in right.items() if (s, n) != ("pencil", "colour")}
            for s in STYLES
        },
    }
    print(json.dumps(report))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
