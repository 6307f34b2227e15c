"""How well the miniature edits: single images of the rendered world, against the ground truth of each edit.

    python benchmarks/miniature_edits.py [--scenes 64] [--kinds colour object background style] [--sweep]

For each kind, held-out photo-style scenes with one object are edited by the package's own inversion, injection and
sampling, batched, with the settings of the model's card (``--sweep``: with several injection fractions and scales). An
edit is local where the card or ``--set`` says what is to be found (``mask.find``).
Reported are the share of results in which the classifier finds what was asked for, the share in which it finds
everything else unchanged, and the *gain*: whole-frame PSNR of the edit against the rendered truth, minus that of the
unedited source. Writes
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
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import yaml

import adaflow
from adaflow import AdaFlowPipeline, EditConfig
from adaflow.attention import KeyPass, attention_installed
from adaflow.backbone import Backbone, Branch, Conditioning
from adaflow.config import ResolvedConfig
from adaflow.editor import Editor
from adaflow.injection import injected_within
from adaflow.inversion import invert
from adaflow.locate import locate_in_memory
from adaflow.masks import mixed, of_cells, set_back
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
from adaflow.prompts import CHANGE

KINDS = ("colour", "object", "background", "style")
FIRST_SEED = 60_000
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


def cases(kind: str, count: int, first_seed: int) -> list[tuple[Scene, Scene]]:
    """Held-out scenes with their edits, always the same."""
    pairs: list[tuple[Scene, Scene]] = []
    for seed in itertools.count():
        scene = random_scene(first_seed + seed, "test", objects=1, style="photo")
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


def asked_settings(texts: list[str] | None, kind: str) -> list[tuple[float, ...] | None]:
    """From the command line: ``0.8/0.8/2`` is for every kind, ``colour=0.8/0.8/2`` for one; None is the card's."""
    found: list[tuple[float, ...] | None] = []
    for text in texts or []:
        name, _, numbers = text.rpartition("=")
        if name in ("", kind):
            found.append(tuple(float(number) for number in numbers.split("/")))
    return found or [None]


def config_of(kind: str, setting: tuple[float, ...] | None, steps: int | None, others: Mapping[str, Any]) -> EditConfig:
    fields: dict[str, Any] = {"kind": kind, "source_prompt": "every image's own", **others}
    if steps:
        fields["steps"] = steps
    if setting:
        features, attention, guidance = setting
        fields |= {"injection.features": features, "injection.attention": attention, "guidance_scale": guidance}
    return EditConfig.from_fields(fields)


def settings_of(config: ResolvedConfig) -> dict[str, Any]:
    """Those that a result is reported with."""
    names = ["steps", "guidance_scale", "injection.features", "injection.attention", "injection.sites"]
    used = config.set_fields()
    return {name: used[name] for name in names + [n for n in used if n.startswith("mask.") and config.mask.find]}


class PerImage(Conditioning):
    """Texts of its own for every image of a batch."""

    def rows(self, frames: Sequence[int], *branches: Branch) -> dict[str, torch.Tensor]:
        return {"encoder_hidden_states": torch.cat([self.embeddings[branch][list(frames)] for branch in branches])}


def conditioning(backbone: Backbone, pairs: list[tuple[Scene, Scene]], config: ResolvedConfig) -> PerImage:
    texts: dict[Branch, list[str]] = {
        "source": [caption(a) for a, _ in pairs],
        "prompt": [caption(b) for _, b in pairs],
    }
    negative = config.negative_prompt
    texts["negative"] = texts["source"] if negative == "source" else [negative] * len(pairs)
    return PerImage({branch: torch.cat([backbone.embed(text) for text in column]) for branch, column in texts.items()})


def located(
    backbone: Backbone,
    config: ResolvedConfig,
    texts: PerImage,
    trajectory: dict[int, torch.Tensor],
    size: Sequence[int],
) -> torch.Tensor:
    """Where unrelated images are edited, ``[n, *size]``: as `locate` has it for videos of one frame.

    Raises:
        ValueError: Something else is to be found than what the prompt changes.
    """
    if config.mask.find != CHANGE or config.negative_prompt != "source":
        raise ValueError("these images can be searched for what their prompts change alone")
    masks = []
    for i in range(len(texts.embeddings["prompt"])):
        own = PerImage({branch: rows[i : i + 1] for branch, rows in texts.embeddings.items()})
        noised = {t: latents[i : i + 1] for t, latents in trajectory.items()}
        masks.append(locate_in_memory(backbone, config, noised, own, size))
    return torch.cat(masks)


def edit_images(
    backbone: Backbone,
    config: ResolvedConfig,
    texts: PerImage,
    trajectory: dict[int, torch.Tensor],
    sources: np.ndarray,
    clean: torch.Tensor,
) -> np.ndarray:
    """The package's edit of unrelated images, as one batch: every image is a keyframe that sees only itself."""
    shares = located(backbone, config, texts, trajectory, sources.shape[1:3]) if config.mask.find else None
    editor = Editor(backbone, config, texts)
    features = backbone.injection_feature_sites(config.injection.sites)
    queries = frozenset(site.name for site in backbone.injection_attention_sites())
    z = trajectory[editor.steps[0].timestep]
    numbers = range(len(z))
    for step in editor.steps:
        injected = queries if step.attention else frozenset()
        key_pass = KeyPass(step.branches, len(z), extended=False, injected=injected)
        source = trajectory[step.timestep]
        rows = torch.cat([source if branch == "source" else z for branch in step.branches])
        with ExitStack() as stack:
            stack.enter_context(attention_installed(backbone.unet, backbone.attention_sites(), key_pass.processor))
            if step.features:
                stack.enter_context(injected_within(backbone.unet, features, len(step.branches)))
            noise = backbone.predict(rows, step.timestep, texts.rows(numbers, *step.branches))
        z = editor.denoise(step, noise[-2 * len(z) :], z)
        if shares is not None:
            after = editor.steps[step.number + 1 : step.number + 2]
            z = set_back(z, trajectory[after[0].timestep] if after else clean, of_cells(shares, backbone.vae_factor))
    edits = decode(backbone, z)
    if shares is None or not config.mask.restore:
        return edits
    return mixed(torch.from_numpy(edits), torch.from_numpy(sources), shares).numpy()


def decode(backbone: Backbone, latents: torch.Tensor) -> np.ndarray:
    return np.concatenate([backbone.decode(part).cpu().numpy() for part in latents.split(16)])


def encode(backbone: Backbone, frames: np.ndarray) -> torch.Tensor:
    return torch.cat([backbone.encode(part) for part in torch.from_numpy(frames).split(16)])


def save_sheet(path: Path, sources: np.ndarray, edits: np.ndarray, truths: np.ndarray, count: int = 8) -> None:
    """Two cases a row: source, edit, truth."""
    from PIL import Image

    tiles = [np.concatenate(triple, axis=1) for triple in zip(sources, edits, truths, strict=True)][:count]
    rows = [np.concatenate(tiles[i : i + 2], axis=1) for i in range(0, len(tiles), 2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path, quality=85)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--steps", type=int, help="default: the card's")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument(
        "--settings", nargs="+", help="instead of the card's: features/attention/guidance, as in colour=0.8/0.8/1.5"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], dest="others", metavar="NAME=VALUE", help="other settings, as in mask.grow=3"
    )
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="other scenes, to choose settings on")
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--sheets", type=Path, help="folder for a contact sheet per kind: source, edit, truth")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    logging.getLogger("adaflow").setLevel(logging.ERROR)
    others = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in given.others)}
    pipe = AdaFlowPipeline.from_pretrained(given.model)
    backbone = pipe.backbone
    report: dict[str, Any] = {
        "command": "python benchmarks/miniature_edits.py" + (" --sweep" if given.sweep else ""),
        "settings": given.settings or "of the model's card",
        "others": others,
        "first_seed": given.first_seed,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"adaflow": adaflow.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        "scenes": given.scenes,
        "kinds": {},
    }
    for kind in given.kinds:
        pairs = cases(kind, given.scenes, given.first_seed)
        sources, truths = (np.stack([render(scene) for scene in column]) for column in zip(*pairs, strict=True))
        ceiling = psnr(decode(backbone, encode(backbone, truths)), truths) - psnr(sources, truths)
        latents = encode(backbone, sources)
        trajectory: tuple[int, dict[int, torch.Tensor]] = (0, {})
        rows = []
        for setting in SWEEP if given.sweep else asked_settings(given.settings, kind):
            started = time.monotonic()
            config = pipe.resolve(config_of(kind, setting, given.steps, others))
            texts = conditioning(backbone, pairs, config)
            if trajectory[0] != config.steps:
                trajectory = config.steps, invert(backbone, latents, texts, config.steps)
            edits = edit_images(backbone, config, texts, trajectory[1], sources, latents)
            row = settings_of(config) | score(kind, sources, truths, edits, [b for _, b in pairs])
            row["seconds"] = round(time.monotonic() - started, 1)
            rows.append(row)
            print(kind, json.dumps(row), flush=True)
            if given.sheets:
                save_sheet(given.sheets / f"{kind}.jpg", sources, edits, truths)
        report["kinds"][kind] = {"gain_db_of_autoencoded_truth": round(float(ceiling.mean()), 2), "rows": rows}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
