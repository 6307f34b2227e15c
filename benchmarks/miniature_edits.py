"""How well the miniature edits: single images of the rendered world, against the ground truth of each edit.

    python benchmarks/miniature_edits.py [--scenes 64] [--kinds colour object background style] [--sweep]

For each kind, held-out photo-style scenes with one object are edited by the package's own pipeline with the settings of
the model's card (``--sweep``: with several injection fractions and guidance scales). Reported are the share of results
in which the classifier finds what was asked for, the share in which it finds everything else unchanged, and the *gain*:
whole-frame PSNR of the edit against the rendered truth, minus that of the unedited source. Writes
``benchmarks/results/miniature_edits.json``.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import logging
import platform
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import adaflow
from adaflow import AdaFlowPipeline, EditConfig
from adaflow.miniature.classifier import AttributeClassifier
from adaflow.miniature.world import (
    BACKGROUNDS,
    COLOURS,
    STYLES,
    Scene,
    caption,
    edit_scene,
    random_scene,
    render,
    similar_objects,
)

KINDS = ("colour", "object", "background", "style")
FIRST_SEED = 10_000
SWEEP = list(itertools.product((0.2, 0.5, 0.8), (0.2, 0.5, 0.8), (2.0, 3.0, 5.0)))  # features, attention, guidance
RESULTS = Path(__file__).parent / "results" / "miniature_edits.json"


def edit_of(kind: str, scene: Scene, rng: random.Random) -> Scene | None:
    """A random edit of that kind; None where there is none (no similar object)."""
    thing = scene.objects[0]
    if kind == "colour":
        return edit_scene(scene, colour=rng.choice([c for c in COLOURS if c != thing.colour]))
    if kind == "background":
        return edit_scene(scene, background=rng.choice([b for b in BACKGROUNDS if b != scene.background]))
    if kind == "style":
        return edit_scene(scene, style=rng.choice(STYLES[1:]))
    similar = similar_objects(thing.kind)
    return edit_scene(scene, object=similar[0]) if similar else None


def cases(kind: str, count: int) -> list[tuple[Scene, Scene]]:
    """Held-out scenes with their edits, always the same."""
    pairs: list[tuple[Scene, Scene]] = []
    for seed in itertools.count():
        scene = random_scene(FIRST_SEED + seed, "test", objects=1, style="photo")
        edited = edit_of(kind, scene, random.Random(f"{kind} {seed}"))
        if edited:
            pairs.append((scene, edited))
        if len(pairs) == count:
            return pairs
    raise AssertionError


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of uint8 images ``(n, h, w, 3)``: ``(n,)`` decibels."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-6))


def autoencoded(pipe: AdaFlowPipeline, frames: np.ndarray) -> np.ndarray:
    """Frames through the autoencoder and back: the best any edit could look."""
    vae = pipe.backbone.pipe.vae
    parameter = next(vae.parameters())
    out = []
    with torch.inference_mode():
        for start in range(0, len(frames), 16):
            x = torch.from_numpy(frames[start : start + 16]).permute(0, 3, 1, 2).float() / 127.5 - 1
            y = vae.decode(vae.encode(x.to(parameter)).latent_dist.mode()).sample.float().cpu()
            out.append(((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


def wanted(scenes: list[Scene]) -> dict[str, np.ndarray]:
    return {
        "colour": np.array([s.objects[0].colour for s in scenes]),
        "object": np.array([s.objects[0].kind for s in scenes]),
        "background": np.array([s.background for s in scenes]),
        "style": np.array([s.style for s in scenes]),
    }


def score(
    kind: str, sources: np.ndarray, truths: np.ndarray, edits: np.ndarray, targets: list[Scene]
) -> dict[str, Any]:
    asked = wanted(targets)
    answers = AttributeClassifier.load().classify(edits)
    right = {name: np.array(answers[name]) == asked[name] for name in KINDS}
    right["colour"] |= asked["style"] == "pencil"  # which has no colours
    others = np.logical_and.reduce([right[name] for name in KINDS if name != kind])
    gain = psnr(edits, truths) - psnr(sources, truths)
    return {
        "found": round(float(right[kind].mean()), 3),
        "others_kept": round(float(others.mean()), 3),
        "psnr": round(float(psnr(edits, truths).mean()), 2),
        "psnr_unedited": round(float(psnr(sources, truths).mean()), 2),
        "gain_db": round(float(gain.mean()), 2),
        "gain_standard_error": round(float(gain.std() / np.sqrt(len(gain))), 2),
    }


def config_of(kind: str, setting: tuple[float, float, float] | None, steps: int | None) -> EditConfig:
    fields: dict[str, Any] = {"kind": kind}
    if steps:
        fields["steps"] = steps
    if setting:
        features, attention, guidance = setting
        fields |= {"injection.features": features, "injection.attention": attention, "guidance_scale": guidance}
    return EditConfig.from_fields(fields)


def run(pipe: AdaFlowPipeline, pairs: list[tuple[Scene, Scene]], config: EditConfig, folders: list[Path]) -> np.ndarray:
    edits = []
    for (source, target), folder in zip(pairs, folders, strict=True):
        result = pipe(
            video=render(source)[None],
            prompt=caption(target),
            source_prompt=caption(source),
            config=config,
            workspace=folder,
        )
        edits.append(np.asarray(result.frames[0]))
    return np.stack(edits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--steps", type=int, help="default: the card's")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    logging.getLogger("adaflow").setLevel(logging.ERROR)
    pipe = AdaFlowPipeline.from_pretrained(given.model)
    report: dict[str, Any] = {
        "command": "python benchmarks/miniature_edits.py" + (" --sweep" if given.sweep else ""),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"adaflow": adaflow.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        "scenes": given.scenes,
        "kinds": {},
    }
    for kind in given.kinds:
        pairs = cases(kind, given.scenes)
        sources, truths = (np.stack([render(scene) for scene in column]) for column in zip(*pairs, strict=True))
        ceiling = psnr(autoencoded(pipe, truths), truths) - psnr(sources, truths)
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            folders = [Path(folder) / str(i) for i in range(len(pairs))]  # kept from setting to setting: one inversion
            for setting in SWEEP if given.sweep else [None]:
                started = time.monotonic()
                config = config_of(kind, setting, given.steps)
                edits = run(pipe, pairs, config, folders)
                used = pipe.resolve(config).set_fields()
                names = ("steps", "guidance_scale", "injection.features", "injection.attention", "injection.sites")
                row = {name: used[name] for name in names} | score(kind, sources, truths, edits, [b for _, b in pairs])
                row["seconds"] = round(time.monotonic() - started, 1)
                rows.append(row)
                print(kind, json.dumps(row), flush=True)
        report["kinds"][kind] = {"gain_db_of_autoencoded_truth": round(float(ceiling.mean()), 2), "rows": rows}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
