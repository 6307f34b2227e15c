"""Which similarity thresholds suit the miniature's features in Adaptive Keyframe Selection (AKS).

    python benchmarks/aks_calibration.py [--quick] [--block B] [--timestep T] [--model DIR] [--cache DIR] [--out FILE]

Held-out films of every recipe are encoded, and their features extracted as an edit does it. AKS compares a frame with
its clip's *first* frame, so each setting is a run of its own; it is simulated on similarities that are computed once.
Settings are chosen on one set of films and confirmed, by the package's own `partition`, on another. The rule: of the
settings that find at least 98 % of the true cuts and split at least 95 % of the entrances, those within a twentieth of
the fewest false cuts; of these the one whose keyframes explain most. What is counted:

- *cut recall*: true cuts (of shots with one caption) at which, or one frame after which, a clip starts;
- *false cuts*: clip starts that belong to no true cut, per 1,000 frames. They are right where content changes, so:
- *entrances split*: an object that comes into sight within a shot (from less than 5 % to 75 % of the most that is seen
  of it) has a clip start while it does, so that some clip's keyframe can show it;
- *explained*: share of a frame's tokens whose match φ in its clip's middle frame lies within 1 token of where the true
  motion takes them; tokens that the middle frame does not show count as not explained. *right* leaves these out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import RESULTS, machine
from safetensors.torch import load_file, save_file

from adaflow import EditConfig
from adaflow.backbone import Backbone
from adaflow.cards import find_card
from adaflow.config import FeatureConfig, KeyframeConfig
from adaflow.config import resolve as resolve_config
from adaflow.correspondence import match, normalise
from adaflow.features import FeatureExtractor
from adaflow.keyframes import partition, window_size
from adaflow.longv_eval.metrics.correspondence import distance, true_tokens
from adaflow.miniature.world import RECIPES, Film, video

CELL = 8  # pixels of a token
FRAMES = 240
CHOSEN_ON, CONFIRMED_ON = 3_000, 4_000  # first film seeds of the two sets
CUT_FILMS, OTHER_FILMS = 20, 4
MEANS = (0.94, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975, 0.98)
WINDOWS = (-1.0, 0.5, 0.6, 0.65, 0.7, 0.74, 0.78, 0.8, 0.82, 0.84, 0.86, 0.88, 0.9)
GAPS = (1, 2, 4, 8, 16, 32, 64, 128)
WANTED_RECALL, WANTED_ENTRANCES, NEARLY = 0.98, 0.95, 1.05
EVERY = 12  # frames between those whose explanation is measured
NAMES = ("mean_threshold", "window_threshold", "both_directions")
SD = {"mean_threshold": 0.75, "window_threshold": 0.6, "both_directions": False}  # the paper's


def load_backbone(model: str) -> Backbone:
    """A model by name, or a folder of other weights of the miniature, which is then given the miniature's card."""
    backbone = Backbone.load(model)
    return Backbone(backbone.pipe, find_card("miniature")) if Path(model).is_dir() else backbone


def card_settings(backbone: Backbone) -> Any:
    """The settings of the model's card, complete."""
    return resolve_config(EditConfig(), backbone.card.settings, backbone.card.kinds)


def latents_of(
    backbone: Backbone, frames: Iterator[np.ndarray] | Sequence[np.ndarray], batch: int = 16
) -> torch.Tensor:
    """Clean latents ``[n, c, h, w]`` of uint8 frames."""
    parts, waiting = [], []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == batch:
            parts.append(backbone.encode(torch.from_numpy(np.stack(waiting))))
            waiting = []
    if waiting:
        parts.append(backbone.encode(torch.from_numpy(np.stack(waiting))))
    return torch.cat(parts)


def features_of(backbone: Backbone, latents: torch.Tensor, config: FeatureConfig, batch: int = 64) -> torch.Tensor:
    """Features ``[n, h, w, d]`` fp16, as an edit stores them."""
    channels, height, width = latents.shape[1:]
    extractor = FeatureExtractor(backbone, config, (channels, height, width))
    return torch.cat([extractor(part).half().cpu() for part in latents.split(batch)])


# -- truth -------------------------------------------------------------------------------------------------------------


def entrances(film: Film) -> list[tuple[int, int]]:
    """Every appearance of an object within a shot: the last frame with < 5 % of it, and the first with >= 75 %."""
    found = []
    for shot in film.shots:
        seen = np.stack([film.masks(i).sum((1, 2)) for i in range(shot.start, shot.stop)])  # [frames, objects]
        for share in (seen / np.maximum(seen.max(axis=0), 1)).T:
            hidden: int | None = None
            for i, value in enumerate(share):
                if value < 0.05:
                    hidden = i
                elif value >= 0.75 and hidden is not None:
                    found.append((shot.start + hidden, shot.start + i))
                    hidden = None
    return found


# -- films and their similarities --------------------------------------------------------------------------------------


@dataclass
class Sample:
    """A film with its features, and the similarities of its frames, computed when they are first asked for."""

    recipe: str
    film: Film
    features: torch.Tensor  # [n, h, w, d]
    entrances: list[tuple[int, int]]
    _curves: dict[int, np.ndarray] = field(default_factory=dict)
    _explained: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def grid(self) -> tuple[int, int]:
        """The features' rows and columns."""
        return int(self.features.shape[1]), int(self.features.shape[2])

    def curve(self, first: int, stop: int) -> np.ndarray:
        """Similarities of frame `first` with the frames from ``first + 1`` up to `stop`, or some more: ``[k, 4]``.

        Mean and least window of the first frame's heatmap (what leaves lowers it), then both of the other's (what
        enters does).
        """
        known = self._curves.get(first, np.zeros((0, 4)))
        while first + 1 + len(known) < min(stop, len(self)):
            start = first + 1 + len(known)
            known = np.concatenate([known, _similarities(self.features[first], self.features[start : start + 16])])
        self._curves[first] = known
        return known

    def starts(self, mean: float, window: float, both: bool) -> list[int]:
        """The clips' first frames under these thresholds: `adaflow.keyframes.partition` on stored similarities."""
        found, reach = [0], 16
        while True:
            first = found[-1]
            curve = self.curve(first, first + 1 + reach)
            low = np.minimum(curve[:, :2], curve[:, 2:]) if both else curve[:, :2]
            failing = np.flatnonzero((low[:, 0] < mean) | (low[:, 1] < window))
            if len(failing):
                found.append(first + 1 + int(failing[0]))
                reach = 16
            elif first + 1 + len(curve) >= len(self):
                return found
            else:
                reach = len(curve) + 16

    def explained(self, frame: int, keyframe: int) -> tuple[int, int]:
        """How many tokens of a frame the true motion takes into the keyframe, and how many of these φ does, too."""
        pair = (frame, keyframe)
        if pair not in self._explained:
            h, w = self.grid
            if frame == keyframe:
                self._explained[pair] = (h * w, h * w)
            else:
                positions, valid = true_tokens(self.film, frame, keyframe, self.grid)
                matches = match(self.features[frame].flatten(0, 1), self.features[keyframe].flatten(0, 1))
                right = valid & (distance(matches.numpy(), positions, w) <= 1)
                self._explained[pair] = (int(valid.sum()), int(right.sum()))
        return self._explained[pair]


def _similarities(first: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """Mean and least window of both heatmaps of a frame ``[h, w, d]`` with others ``[k, h, w, d]``: ``[k, 4]``."""
    h, w = first.shape[:2]
    a, b = normalise(first).flatten(0, 1), normalise(others).flatten(0, 2)
    product = (a @ b.T).view(h * w, len(others), h * w)
    there = product.amax(dim=2).T.reshape(len(others), h, w)
    back = product.amax(dim=0).view(len(others), h, w)
    side, step = window_size(h, w)
    columns = []
    for maps in (there.clamp(-1, 1).double(), back.clamp(-1, 1).double()):
        means = F.avg_pool2d(maps[:, None], (min(side, h), min(side, w)), stride=step)
        columns += [maps.mean((1, 2)), means.amin((1, 2, 3))]
    return torch.stack(columns, dim=1).numpy()


def samples(
    backbone: Backbone, config: FeatureConfig, first_seed: int, quick: bool, cache: Path | None
) -> list[Sample]:
    """The held-out films of one set, always the same; `cache` keeps their latents between runs."""
    found = []
    for recipe in RECIPES:
        count = CUT_FILMS if recipe == "cuts" else OTHER_FILMS
        for seed in range(first_seed, first_seed + (max(1, count // 4) if quick else count)):
            film = video(f"{recipe}-{seed}", FRAMES)
            path = cache / f"{backbone.fingerprint()}-{recipe}-{seed}-{film_key(film)}.safetensors" if cache else None
            if path and path.exists():
                latents = load_file(path)["latents"]
            else:
                latents = latents_of(backbone, iter(film))
                if path:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    save_file({"latents": latents.contiguous()}, path)
            found.append(Sample(recipe, film, features_of(backbone, latents, config), entrances(film)))
    return found


def film_key(film: Film) -> str:
    """Changes when the film does: a recipe may be redefined while latents are kept."""
    shown = [film.frame(i).tobytes() for i in (0, len(film) // 2, len(film) - 1)]
    return hashlib.sha256(b"".join([repr(film).encode(), *shown])).hexdigest()[:12]


# -- measures ----------------------------------------------------------------------------------------------------------


def found_cuts(starts: Sequence[int], cuts: Sequence[int]) -> int:
    """Cuts at which, or one frame after which, a clip starts; each start is used once."""
    free = set(starts)
    found = 0
    for cut in cuts:
        hit = next((s for s in (cut, cut + 1) if s in free), None)
        if hit is not None:
            free.remove(hit)
            found += 1
    return found


def measure(items: Sequence[Sample], partitions: Sequence[Sequence[int]], every: int = 0) -> dict[str, Any]:
    """What partitions (their clips' first frames) are worth; how well keyframes explain every `every`-th frame."""
    cuts = hits = false = frames = entered = split = 0
    lengths: list[int] = []
    shares: list[float] = []
    right: list[float] = []
    for item, starts in zip(items, partitions, strict=True):
        found = found_cuts(starts, item.film.cuts)
        cuts, hits = cuts + len(item.film.cuts), hits + found
        false += len(starts) - 1 - found
        frames += len(item)
        entered += len(item.entrances)
        split += sum(any(a < s <= b for s in starts) for a, b in item.entrances)
        stops = [*starts[1:], len(item)]
        lengths += [b - a for a, b in zip(starts, stops, strict=True)]
        for frame in range(every // 2, len(item), every) if every else ():
            clip = int(np.searchsorted(starts, frame, side="right")) - 1
            known, correct = item.explained(frame, (starts[clip] + stops[clip] - 1) // 2)
            shares.append(correct / math.prod(item.grid))
            right += [correct / known] if known else []
    quartiles = [round(float(q), 1) for q in np.quantile(lengths, (0.25, 0.5, 0.75))]
    measured: dict[str, Any] = {
        "true_cuts": cuts,
        "cut_recall": round(hits / cuts, 4) if cuts else None,
        "false_cuts_per_1000": round(1000 * false / frames, 2),
        "entrances": entered,
        "entrances_split": round(split / entered, 4) if entered else None,
        "clips_per_100": round(100 * len(lengths) / frames, 2),
        "clip_length_quartiles": quartiles,
    }
    if every:
        measured |= {
            "explained": round(float(np.mean(shares)), 4),
            "explained_worst_tenth": round(float(np.quantile(shares, 0.1)), 4),
            "right": round(float(np.mean(right)), 4),
        }
    return measured


def by_recipe(items: Sequence[Sample], partitions: Sequence[Sequence[int]], every: int) -> dict[str, Any]:
    """`measure` for the films of each recipe."""
    table = {}
    for recipe in dict.fromkeys(item.recipe for item in items):
        own = [n for n, item in enumerate(items) if item.recipe == recipe]
        table[recipe] = measure([items[n] for n in own], [partitions[n] for n in own], every)
    return table


def curves(items: Sequence[Sample]) -> dict[str, Any]:
    """Similarity against distance in frames within shots, by recipe, and across true cuts.

    ``[5 %, 50 %, 95 %]`` of: mean and least window of the earlier frame's heatmap, then of the later one's.
    """
    names = ("mean", "window", "mean_back", "window_back")
    table: dict[str, Any] = {}
    for item in items:
        for gap in GAPS:
            for first in range(0, len(item) - gap, 12):
                if item.film.shot(first) == item.film.shot(first + gap):
                    row = item.curve(first, first + gap + 1)[gap - 1]
                    table.setdefault(item.recipe, {}).setdefault(str(gap), []).append(row)
        for cut in item.film.cuts:
            row = item.curve(cut - 1, cut + 1)[0]
            table.setdefault("across a cut", {}).setdefault("1", []).append(row)
    for gaps in table.values():
        for gap, rows in gaps.items():
            quantiles = np.quantile(np.stack(rows), (0.05, 0.5, 0.95), axis=0).T
            gaps[gap] = {name: [round(float(q), 4) for q in qs] for name, qs in zip(names, quantiles, strict=True)}
    return table


def sweep(items: Sequence[Sample]) -> list[dict[str, Any]]:
    """Every setting, measured; those that may be chosen also by how well their keyframes explain the frames."""
    partitions, rows = [], []
    for both in (False, True):
        for mean in MEANS:
            for window in WINDOWS:
                partitions.append([item.starts(mean, window, both) for item in items])
                rows.append(dict(zip(NAMES, (mean, window, both), strict=True)) | measure(items, partitions[-1]))
    for n, row in enumerate(rows):
        if row in candidates(rows):
            rows[n] = row | measure(items, partitions[n], EVERY)
    return rows


def candidates(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings that do what is asked with nearly the fewest false cuts; if none does, those that find most cuts."""
    able = [r for r in rows if r["cut_recall"] >= WANTED_RECALL and (r["entrances_split"] or 1) >= WANTED_ENTRANCES]
    able = able or [r for r in rows if r["cut_recall"] == max(r["cut_recall"] for r in rows)]
    fewest = min(row["false_cuts_per_1000"] for row in able)
    return [row for row in able if row["false_cuts_per_1000"] <= NEARLY * fewest]


def confirm(items: Sequence[Sample], setting: dict[str, Any]) -> dict[str, Any]:
    """A setting measured with the package's own partition."""
    config = KeyframeConfig(**{name: setting[name] for name in NAMES})
    partitions = [partition(iter(item.features), config).starts for item in items]
    return {
        **{name: setting[name] for name in NAMES},
        **measure(items, partitions, EVERY),
        "by_recipe": by_recipe(items, partitions, EVERY),
        "simulation_agrees": partitions == [item.starts(*(setting[name] for name in NAMES)) for item in items],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the films")
    parser.add_argument("--block", type=int, help="other features than the card's")
    parser.add_argument("--timestep", type=int)
    parser.add_argument("--model", default="miniature", help="or a folder of other weights of it")
    parser.add_argument("--cache", type=Path, help="folder where latents are kept between runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "aks-calibration.json")
    given = parser.parse_args()
    started = time.monotonic()
    backbone = load_backbone(given.model)
    settings = card_settings(backbone)
    asked = {"block": given.block, "timestep": given.timestep}
    features = replace(settings.features, **{name: value for name, value in asked.items() if value is not None})
    chosen_on = samples(backbone, features, CHOSEN_ON, given.quick, given.cache)
    print(f"{len(chosen_on)} films, {time.monotonic() - started:.0f} s", flush=True)
    rows = sweep(chosen_on)
    chosen = max((row for row in rows if "explained" in row), key=lambda row: row["explained"])
    print("chosen:", json.dumps(chosen), f"{time.monotonic() - started:.0f} s", flush=True)
    confirmed_on = samples(backbone, features, CONFIRMED_ON, given.quick, given.cache)
    card = {name: getattr(settings.keyframes, name) for name in NAMES}
    report: dict[str, Any] = {
        "command": "python benchmarks/aks_calibration.py" + (" --quick" if given.quick else ""),
        "machine": machine(),
        "model": backbone.fingerprint(),
        "features": features.set_fields(),
        "films": {recipe: sum(item.recipe == recipe for item in chosen_on) for recipe in RECIPES},
        "frames_each": FRAMES,
        "chosen": chosen,
        "confirmed": confirm(confirmed_on, chosen),
        "card_confirmed": confirm(confirmed_on, card),
        "stable_diffusion_confirmed": confirm(confirmed_on, SD),
        "curves": curves(chosen_on),
        "sweep": rows,
        "seconds": round(time.monotonic() - started),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in ("confirmed", "card_confirmed", "stable_diffusion_confirmed"):
        print(f"{name}:", json.dumps({k: v for k, v in report[name].items() if k != "by_recipe"}))


if __name__ == "__main__":
    main()
