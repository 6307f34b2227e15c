"""The miniature against the bars set for it, on held-out scenes: one table.

    python benchmarks/miniature_bars.py [--quick] [--sweep] [--only NAME ...] [--model DIR] [--out FILE.json]

Every scene has a place, and a combination of object, colour and background, that training never showed. The model runs
as an edit runs it (its own precision on this machine), except that text-to-image goes through diffusers. ``--quick``
takes few scenes and proves only that the command works; ``--sweep`` also matches with other feature blocks and
timesteps; ``--only`` renews some parts of the file's results; ``--model`` measures a folder of other weights with the
miniature's card. Measured are:

- *autoencoder*: PSNR of decoded encodings, averaged over images and then over the four styles;
- *inversion*: the same after 50 steps of DDIM inversion and 50 of sampling (source caption, guidance 1), against the
  frame itself, and against its plain decoded encoding;
- *classifier* on renders; *text to image*: by that classifier (functions of ``miniature_text_to_image.py``);
- *edits* of photo-style images (functions of ``miniature_edits.py``). Others kept: everything not asked for is right at
  once. Unedited region: where the rendered truth equals the source exactly, PSNR against the source, mean over images;
- *matches*: tokens on objects (half covered, of known motion) that move by a token or more, in frames 4 to 24 apart of
  films of every recipe: share matched within 1 token, both ways, of the place the true motion takes them to;
- *keyframes*: ``aks_calibration.py``'s confirmation films, with the card's thresholds;
- *demo*: the seconds from source file to edited file of the demo's 64 frames, on this machine's threads.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aks_calibration import (
    CELL,
    CONFIRMED_ON,
    NAMES,
    card_settings,
    confirm,
    features_of,
    latents_of,
    load_backbone,
    samples,
)
from common import RESULTS, StageClock, machine
from diffusers import StableDiffusionPipeline
from miniature_edits import (
    FIRST_SEED,
    KINDS,
    cases,
    conditioning,
    config_of,
    decode,
    edit_images,
    encode,
    psnr,
    score,
    settings_of,
    wanted,
)
from miniature_text_to_image import draw

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.backbone import Backbone
from adaflow.config import FeatureConfig
from adaflow.correspondence import match, resize
from adaflow.demo import DEMO_FILM, FRAMES_PER_SECOND, PROMPT_CHANGES
from adaflow.inversion import invert, sample
from adaflow.longv_eval.metrics.correspondence import distance, true_tokens
from adaflow.miniature.classifier import AttributeClassifier
from adaflow.miniature.world import RECIPES, STYLES, Film, Scene, caption, random_scene, render, video

SCENE_SEED, CLASSIFIER_SEED, TEXT_SEED, FILM_SEED = 70_000, 80_000, 20_000, 5_000
SWEPT_BLOCKS, SWEPT_TIMESTEPS = (1, 2, 3), (1, 21, 51, 101, 201)
STEPS = 50


@dataclass(frozen=True)
class Counts:
    """How many of what are measured."""

    images_per_style: int = 32
    classified: int = 800
    drawn: int = 128
    edits: int = 64
    pairs_per_recipe: int = 32
    quick: bool = False


QUICK = Counts(images_per_style=2, classified=32, drawn=4, edits=4, pairs_per_recipe=2, quick=True)


@dataclass(frozen=True)
class Bar:
    """A figure that has to be reached."""

    name: str
    bar: float | None
    reached: float
    unit: str = ""
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """None where a figure is only to be given."""
        if self.bar is None:
            return None
        return self.reached >= self.bar if self.at_least else self.reached <= self.bar

    def row(self) -> str:
        """A line of a Markdown table."""
        sign = "" if self.bar is None else ("≥ " if self.at_least else "≤ ")
        bar = "" if self.bar is None else f"{sign}{self.bar:g}{self.unit}"
        met = "" if self.met is None else "yes" if self.met else "no"
        return f"| {self.name} | {bar} | {self.reached:g}{self.unit} | {met} |"


def today() -> str:
    """The date, as results bear it."""
    return datetime.date.today().isoformat()


def share(values: np.ndarray) -> float:
    """A mean, rounded for the table."""
    return round(float(values.mean()), 3)


def held_out_scenes(per_style: int) -> list[Scene]:
    """As many held-out scenes of each style, style after style; a sixth of them with two objects."""
    return [random_scene(SCENE_SEED + i, "test", style=style) for style in STYLES for i in range(per_style)]


def over_styles(values: np.ndarray, styles: list[str]) -> dict[str, Any]:
    """Decibels by style, and their mean."""
    by_style = {s: round(float(values[np.array(styles) == s].mean()), 2) for s in STYLES}
    return {"psnr": round(float(np.mean(list(by_style.values()))), 2), "by_style": by_style}


def reconstruction(pipe: AdaFlowPipeline, counts: Counts) -> tuple[dict[str, Any], list[Bar]]:
    """The autoencoder alone, and inversion and sampling through it."""
    backbone = pipe.backbone
    scenes = held_out_scenes(counts.images_per_style)
    styles = [scene.style for scene in scenes]
    frames = np.stack([render(scene) for scene in scenes])
    latents = encode(backbone, frames)
    plain = decode(backbone, latents)
    texts = conditioning(backbone, [(scene, scene) for scene in scenes], pipe.resolve(EditConfig()))
    last = invert(backbone, latents, texts, STEPS)[int(backbone.scheduler(STEPS).timesteps[0])]
    back = decode(backbone, sample(backbone, last, texts, STEPS))
    figures: dict[str, Any] = {
        "images_per_style": counts.images_per_style,
        "autoencoder": over_styles(psnr(plain, frames), styles),
        "inversion": over_styles(psnr(back, frames), styles) | {"steps": STEPS},
        "inversion_against_autoencoder": over_styles(psnr(back, plain), styles),
    }
    return figures, [
        Bar("autoencoder, mean of styles", 30, figures["autoencoder"]["psnr"], " dB"),
        *(Bar(f"— {s}", None, v, " dB") for s, v in figures["autoencoder"]["by_style"].items()),
        Bar(f"inversion and reconstruction, {STEPS} steps", 26, figures["inversion"]["psnr"], " dB"),
        *(Bar(f"— {s}", None, v, " dB") for s, v in figures["inversion"]["by_style"].items()),
    ]


def right(images: np.ndarray, scenes: list[Scene]) -> dict[str, np.ndarray]:
    """Whether the classifier reads each attribute as the scene has it; without the colours of the colourless pencil."""
    answers = AttributeClassifier.load().classify(images)
    asked = wanted(scenes)
    found = {name: np.array(answers[name]) == asked[name] for name in KINDS}
    return found | {"colour": found["colour"][asked["style"] != "pencil"]}


def classifier(counts: Counts) -> tuple[dict[str, Any], list[Bar]]:
    """How often the classifier reads a render of one object as it is."""
    scenes = [random_scene(CLASSIFIER_SEED + i, "test", objects=1) for i in range(counts.classified)]
    found = {n: share(v) for n, v in right(np.stack([render(s) for s in scenes]), scenes).items()}
    bars = [Bar(f"classifier on renders: {name}", 0.98, value) for name, value in found.items()]
    return {"renders": len(scenes), "right": found}, bars


def text_to_image(
    folder: Path, counts: Counts, guidance: float = 3.0, steps: int = 25
) -> tuple[dict[str, Any], list[Bar]]:
    """How often what a held-out caption says is found in its image."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    scenes = [random_scene(TEXT_SEED + i, "test", objects=1) for i in range(counts.drawn)]
    images = draw(pipe, [caption(scene) for scene in scenes], guidance, steps)
    found = {name: share(values) for name, values in right(images, scenes).items()}
    photo = [n for n, scene in enumerate(scenes) if scene.style == "photo"]
    figures: dict[str, Any] = {"images": len(scenes), "guidance_scale": guidance, "steps": steps, "right": found}
    if photo:
        in_photo = right(images[photo], [scenes[n] for n in photo])
        figures["right_in_photo_style"] = {name: share(values) for name, values in in_photo.items()}
    return figures, [Bar(f"text to image: {name} found", 0.95, value) for name, value in found.items()]


def untouched_psnr(images: np.ndarray, sources: np.ndarray, truths: np.ndarray) -> float:
    """Against the source, where the truth equals it exactly: decibels, mean over images."""
    same = (truths == sources).all(axis=-1)
    error = np.square(images.astype(np.float64) - sources).mean(axis=-1)
    errors = np.array([e[where].mean() for e, where in zip(error, same, strict=True) if where.any()])
    return round(float((10 * np.log10(255**2 / np.maximum(errors, 1e-6))).mean()), 2)


def edits(pipe: AdaFlowPipeline, counts: Counts) -> tuple[dict[str, Any], list[Bar]]:
    """Edits of single images with the card's settings."""
    backbone = pipe.backbone
    figures: dict[str, Any] = {}
    found, kept, untouched = [], [], []
    for kind in KINDS:
        pairs = cases(kind, counts.edits, FIRST_SEED)
        sources, truths = (np.stack([render(scene) for scene in column]) for column in zip(*pairs, strict=True))
        config = pipe.resolve(config_of(kind, None, None, {}))
        texts = conditioning(backbone, pairs, config)
        latents = encode(backbone, sources)
        trajectory = invert(backbone, latents, texts, config.steps)
        edited = edit_images(backbone, config, texts, trajectory, sources, latents)
        figures[kind] = row = score(kind, sources, truths, edited, [target for _, target in pairs])
        found.append(Bar(f"edit of {kind}: found", 0.9, row["found"]))
        kept.append(Bar(f"edit of {kind}: others kept", 0.95, row["others_kept"]))
        if kind in ("colour", "object"):
            row["unedited_psnr"] = untouched_psnr(edited, sources, truths)
            row["unedited_psnr_of_autoencoder"] = untouched_psnr(decode(backbone, latents), sources, truths)
            untouched.append(Bar(f"edit of {kind}: unedited region", 24, row["unedited_psnr"], " dB"))
        row["settings"] = settings_of(config)
        print(kind, json.dumps(row), flush=True)
    return {"scenes": counts.edits, "first_seed": FIRST_SEED, "kinds": figures}, [*found, *kept, *untouched]


@dataclass(frozen=True)
class Pair:
    """Two frames of a shot, and the tokens of the first that are on a moving object."""

    recipe: str
    style: str
    frames: np.ndarray  # [2, 128, 224, 3]
    tokens: np.ndarray  # [k], indices
    positions: np.ndarray  # [k, 2], where they are in the second frame, in tokens


def moving_tokens(film: Film, first: int, second: int, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens on objects that move by a token or more between two frames: indices and true positions."""
    h, w = grid
    positions, valid = true_tokens(film, first, second, grid)
    covered = film.masks(first).sum(axis=0).reshape(h, CELL, w, CELL).mean((1, 3)).reshape(-1) >= 0.5
    y, x = np.mgrid[:h, :w]
    moved = np.abs(positions - np.stack([x, y], axis=-1).reshape(-1, 2)).max(axis=-1) >= 1
    chosen = np.flatnonzero(valid & covered & moved)
    return chosen, positions[chosen]


def match_pairs(per_recipe: int, grid: tuple[int, int], frames: int = 240) -> list[Pair]:
    """Pairs of frames, each of a film of its own, half of them in the photo style."""
    found: list[Pair] = []
    for recipe in RECIPES:
        rng = np.random.default_rng(FILM_SEED)
        own: list[Pair] = []
        for seed in range(FILM_SEED, FILM_SEED + 6 * per_recipe):  # some films show nothing that moves at that time
            style = STYLES[0] if len(own) % 2 == 0 else STYLES[1 + len(own) // 2 % (len(STYLES) - 1)]
            film = video(f"{recipe}-{seed}", frames, style=style)
            first, gap = int(rng.integers(0, frames - 24)), int(rng.integers(4, 25))
            tokens, positions = moving_tokens(film, first, first + gap, grid)
            if len(tokens) >= 4:
                own.append(Pair(recipe, style, film.frames(first, first + gap + 1)[[0, -1]], tokens, positions))
            if len(own) == per_recipe:
                break
        found += own
    return found


def matches(pipe: AdaFlowPipeline, counts: Counts, sweep: bool) -> tuple[dict[str, Any], list[Bar]]:
    """How often the most similar token is where the true motion went."""
    backbone = pipe.backbone
    height, width = backbone.home_size
    grid = (height // backbone.vae_factor, width // backbone.vae_factor)
    pairs = match_pairs(counts.pairs_per_recipe, grid)
    latents = latents_of(backbone, [frame for pair in pairs for frame in pair.frames])
    card = pipe.resolve(EditConfig()).features

    def measured(config: FeatureConfig) -> dict[str, Any]:
        features = features_of(backbone, latents, config)
        off: list[np.ndarray] = []
        for n, pair in enumerate(pairs):
            first, second = (resize(features[2 * n + k].float(), grid) for k in range(2))
            off.append(distance(match(first[pair.tokens], second).numpy(), pair.positions, grid[1]))

        def within(asked: dict[str, str], limit: float = 1) -> float | None:
            parts = [o <= limit for o, pair in zip(off, pairs, strict=True) if asked.items() <= vars(pair).items()]
            return share(np.concatenate(parts)) if parts else None

        return {
            "block": config.block,
            "timestep": config.timestep,
            "within_1": within({}),
            "within_half": within({}, 0.5),
            "within_2": within({}, 2),
            "by_style": {style: within({"style": style}) for style in STYLES},
            "by_recipe": {recipe: within({"recipe": recipe}) for recipe in RECIPES},
        }

    figures: dict[str, Any] = {"pairs": len(pairs), "tokens": sum(len(p.tokens) for p in pairs), **measured(card)}
    if sweep:
        figures["sweep"] = []
        for block in SWEPT_BLOCKS:
            for timestep in SWEPT_TIMESTEPS:
                config = FeatureConfig(block=block, timestep=timestep, noise_seed=card.noise_seed).completed()
                figures["sweep"].append(measured(config))
                print(json.dumps(figures["sweep"][-1]), flush=True)
    return figures, [
        Bar("matches on moving objects", 0.85, figures["within_1"]),
        *(Bar(f"— {s}", None, v) for s, v in figures["by_style"].items() if v is not None),
    ]


def keyframes(backbone: Backbone, counts: Counts) -> tuple[dict[str, Any], list[Bar]]:
    """The card's thresholds on films that they were not chosen on."""
    settings = card_settings(backbone)
    found = samples(backbone, settings.features, CONFIRMED_ON, counts.quick, None)
    figures = confirm(found, {name: getattr(settings.keyframes, name) for name in NAMES})
    return figures, [
        Bar(f"keyframes: {figures['true_cuts']} cuts, found", 0.98, figures["cut_recall"]),
        Bar("keyframes: false cuts per 1,000 frames", None, figures["false_cuts_per_1000"]),
    ]


def demo(pipe: AdaFlowPipeline, counts: Counts) -> tuple[dict[str, Any], list[Bar]]:
    """An edit as `adaflow demo` makes it, timed as there."""
    from adaflow.video import write_video

    frames = 8 if counts.quick else 64
    film = video(DEMO_FILM, frames)
    config = EditConfig.from_fields({"kind": "colour", "source_prompt": film.caption})
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        write_video(source, iter(film), fps=FRAMES_PER_SECOND)
        clock = StageClock()
        started = time.perf_counter()
        target = film.edit(**PROMPT_CHANGES).caption
        result = pipe(source, target, config=config, workspace=Path(folder) / "w", on_progress=clock)
        result.save(Path(folder) / "edited.mp4", on_progress=clock)
        seconds = time.perf_counter() - started
    stages = {name: round(value, 1) for name, value in clock.seconds.items()}
    figures: dict[str, Any] = {
        "frames": frames,
        "seconds": round(seconds, 1),
        "by_stage": stages,
        "threads": torch.get_num_threads(),
    }
    name = f"edit of {frames} frames, {figures['threads']} threads"
    return figures, [Bar(name, 90, figures["seconds"], " s", at_least=False)]


def weights(folder: Path) -> tuple[dict[str, Any], list[Bar]]:
    """What the model takes on disk; the classifier is no part of it."""
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
    return {"megabytes": round(size, 1)}, [Bar("weights", 40, round(size, 1), " MB", at_least=False)]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("reconstruction", "classifier", "text", "edits", "matches", "keyframes", "demo", "weights")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="NAME", help=", ".join(parts))
    parser.add_argument("--model", default="miniature", help="or a folder of other weights of it")
    parser.add_argument("--out", type=Path, default=RESULTS / "miniature-bars.json")
    given = parser.parse_args()
    logging.getLogger("adaflow").setLevel(logging.ERROR)
    counts = QUICK if given.quick else Counts()
    pipe = AdaFlowPipeline(load_backbone(given.model))
    folder = Path(pipe.backbone.pipe.config._name_or_path)
    measures: dict[str, Callable[[], tuple[dict[str, Any], list[Bar]]]] = {
        "reconstruction": lambda: reconstruction(pipe, counts),
        "classifier": lambda: classifier(counts),
        "text": lambda: text_to_image(folder, counts),
        "edits": lambda: edits(pipe, counts),
        "matches": lambda: matches(pipe, counts, given.sweep),
        "keyframes": lambda: keyframes(pipe.backbone, counts),
        "demo": lambda: demo(pipe, counts),
        "weights": lambda: weights(folder),
    }
    report: dict[str, Any] = {
        "command": "python benchmarks/miniature_bars.py" + " --quick" * given.quick + " --sweep" * given.sweep,
        "machine": machine(),
        "model": pipe.backbone.fingerprint(),
    }
    report |= former(given.out, report) if given.only is not parts else {"measured": {}, "bars": {}}
    for name, run in measures.items():
        if name not in given.only:
            continue
        started = time.monotonic()
        report[name], found = run()
        seconds = round(time.monotonic() - started, 1)
        report["measured"][name] = {"seconds": seconds, "threads": torch.get_num_threads(), "date": today()}
        report["bars"][name] = [vars(bar) | {"met": bar.met} for bar in found]
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(name, f"{seconds} s", flush=True)
    print("\n| measured on the miniature | bar | reached | met |\n| --- | --- | --- | --- |")
    for rows in (report["bars"].get(name, []) for name in parts):
        for row in rows:
            print(Bar(**{field: value for field, value in row.items() if field != "met"}).row())


def former(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run found for the same model, so that its parts can be measured one at a time."""
    if path.exists():
        earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if earlier["model"] == report["model"] and ("--quick" in earlier["command"]) == (
            "--quick" in report["command"]
        ):
            return {name: value for name, value in earlier.items() if name not in ("command", "machine", "model")}
    return {"measured": {}, "bars": {}}


if __name__ == "__main__":
    main()
