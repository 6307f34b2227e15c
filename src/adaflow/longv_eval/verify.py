"""Whether the metrics of the paper are computed rightly here: by what is known beforehand, with weights and without.

Without weights: entries and sizes of the networks built here against the published ones, fixed points of formulas.
With them: that they are whole, that they answer as their authors published, and that they score a made-up film as they
did when the scores were recorded (``--record``), so that another version of a library shows.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..disk import disk_errors
from ..errors import AdaFlowError, InputError, MissingError
from ..result import versions
from ..store import write_json
from ..video import ArraySource
from .metrics.aesthetic import WIDTHS as HEAD_WIDTHS
from .metrics.aesthetic import head_shapes
from .metrics.consistency import Consistency
from .metrics.dover import AESTHETIC_MEAN, KEYS, TECHNICAL_MEAN, Dover, expected_shapes, fuse
from .metrics.encoders import CLIP_PICTURES, Picture
from .metrics.swin3d import WINDOW, fragment_distance, fragment_of_cell, split
from .metrics.weights import CONVERTED, NETWORKS, Weights
from .scoring import score

Verdict = Literal["holds", "fails", "skipped"]

PARAMETERS = {"technical_backbone": 28_078_620, "aesthetic_backbone": 28_041_120, "": 56_218_302}
SWAPPED = 0.59671
"""VQ at the fixed point with the raw scores in the wrong order."""
DISTANCES = ((56, 2), (28, 4), (14, 6))
"""Cells a side of each stage with fragments, and the most fragments apart that two cells of a window are."""
PHOTOGRAPH = "000000039769"
"""The picture of COCO (val2017) that transformers' own tests publish outputs for, as .png or .jpg."""
DINOV2_OF_PHOTOGRAPH = (-2.1747, -0.4729, 1.0936)
"""The first three of the class token (transformers, tests/models/dinov2)."""
CLIP_B32_OF_PHOTOGRAPH = {"a photo of a cat": 24.5701, "a photo of a dog": 19.3049}
"""Logits (transformers, tests/models/clip)."""
HEAD_MARKS = (5.236646, 4.215948)
"""Of the vector 0 and of 768 numbers from -1 to 1, by the published weights (SHA-256 21dd590f…), in float64."""
NEAR = 0.05
"""How far a published output may be missed: JPEG decoders differ."""
RECORDED, SAME = "known-scores.json", 1e-3
FRAMES, HEIGHT, WIDTH, FPS = 24, 240, 320, 12


@dataclass(frozen=True)
class Check:
    """Something that is known beforehand, whether it is so here, and what was found."""

    name: str
    verdict: Verdict
    said: str


def verify(weights: Weights, record: bool = False) -> list[Check]:
    """Every check, in order.

    Args:
        weights: Those to be checked.
        record: Write the scores of the made-up film into the weights folder, for later checks to compare with.

    Raises:
        InputError: the recorded scores cannot be read, or not be written.
    """
    checks = [_checked(name, check) for name, check in FORMULAS.items()]
    for network in NETWORKS:
        checks.append(_checked(network.folder, partial(NETWORK_CHECKS[network.folder], weights)))
    for file in CONVERTED:
        checks.append(_checked(file.file, partial(FILE_CHECKS[file.file], weights)))
    return [*checks, *_scores(weights, record)]


def made_up_film() -> NDArray[np.uint8]:
    """Frames ``[24, 240, 320, 3]`` made by whole numbers alone: the same on every machine, for good."""
    t, y, x = np.ogrid[:FRAMES, :HEIGHT, :WIDTH]
    red = (x * 255 // WIDTH + 2 * t) % 256 + 0 * y
    green = (y * 255 // HEIGHT + t) % 256 + 0 * x
    blue = ((x + 3 * t) // 16 + y // 16) % 2 * 160 + 40
    film = np.stack(np.broadcast_arrays(red, green, blue), axis=-1).astype(np.uint8)
    disc = (x - 60 - 6 * t) ** 2 + (y - 120) ** 2 < 40**2
    film[disc] = (220, 60, 40)
    return film


def photograph(folder: Path) -> Picture | None:
    """The picture with published outputs, where it lies in the weights folder."""
    for file in sorted(folder.glob(f"{PHOTOGRAPH}.*")):
        with suppress(OSError), Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    return None


def _checked(name: str, check: Callable[[], str]) -> Check:
    """The verdict of a check that returns what it found, or raises what is wrong."""
    try:
        return Check(name, "holds", check())
    except MissingError as error:
        return Check(name, "skipped", str(error))
    except (InputError, _WrongError) as error:
        return Check(name, "fails", str(error))


class _WrongError(AdaFlowError):
    """What is not as it must be."""


def _must(holds: bool, found: str) -> str:
    if not holds:
        raise _WrongError(found)
    return found


def _entries() -> str:
    shapes = expected_shapes()
    with torch.device("meta"):
        model = Dover()
    counts = {part: sum(p.numel() for n, p in model.named_parameters() if n.startswith(part)) for part in PARAMETERS}
    found = f"{len(shapes)} entries, {counts['']:,} parameters"
    return _must(len(shapes) == KEYS and counts == PARAMETERS, found)


def _fixed_points() -> str:
    middle, swapped = fuse(TECHNICAL_MEAN, AESTHETIC_MEAN), fuse(AESTHETIC_MEAN, TECHNICAL_MEAN)
    rising = all(a < b for a, b in pairwise(fuse(TECHNICAL_MEAN + d, AESTHETIC_MEAN + d) for d in (-0.1, 0.0, 0.1)))
    found = f"VQ is {middle:g} at ({TECHNICAL_MEAN:g}, {AESTHETIC_MEAN:g}), and {swapped:.4f} with the two swapped"
    return _must(middle == 0.5 and rising and math.isclose(swapped, SWAPPED, abs_tol=1e-4), found)


def _fragments() -> str:
    found = []
    for side, _ in DISTANCES:
        cells = split(fragment_of_cell((16, side, side)), WINDOW)
        found.append(int(fragment_distance(cells).max()))
    return _must(found == [most for _, most in DISTANCES], f"up to {found} fragments apart in stages 0 to 2")


def _head() -> str:
    wanted = sum(a * b + b for a, b in pairwise(HEAD_WIDTHS))
    shapes = head_shapes()
    found = sum(math.prod(shape) for shape in shapes.values())
    return _must(len(shapes) == 10 and found == wanted, f"{len(shapes)} entries, {found:,} parameters")


def _likeness() -> str:
    still, turning = Consistency(), Consistency()
    still.add(torch.ones(3, 4))
    turning.add(torch.eye(4))
    values = still.both, turning.both
    return _must(values == (1.0, 0.0), f"a still video has {values[0]:g}, one of unlike frames {values[1]:g}")


FORMULAS: dict[str, Callable[[], str]] = {
    "DOVER's entries": _entries,
    "DOVER's fusion": _fixed_points,
    "DOVER's fragments": _fragments,
    "the aesthetic head's entries": _head,
    "consistency of vectors": _likeness,
}


def _clip_l14(weights: Weights) -> str:
    clip = weights.clip_l14
    vectors = clip.pictures([made_up_film()[0]])
    widths = vectors.pooled.shape[1], vectors.projected.shape[1]
    colours = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 20, 220)}
    plain = [np.full((224, 224, 3), colour, np.uint8) for colour in colours.values()]
    texts = clip.texts([f"a plain {colour} picture" for colour in colours])
    named = (clip.pictures(plain).projected @ texts.T).argmax(dim=1).tolist()
    found = f"vectors of {widths[0]} and {widths[1]}, cosines times {clip.scale:.2f}, plain colours named {named}"
    return _must(widths == (1024, 768) and abs(clip.scale - 100) < 0.1 and named == [0, 1, 2], found)


def _clip_b32(weights: Weights) -> str:
    clip, picture = weights.clip_b32, photograph(weights.folder)
    if picture is None:
        return f"whole; with {PHOTOGRAPH}.jpg of COCO val2017 in {weights.folder} its published logits are checked"
    vector = torch.nn.functional.normalize(clip.pictures([picture], CLIP_PICTURES).projected, dim=-1)
    logits = (clip.scale * vector @ clip.texts(list(CLIP_B32_OF_PHOTOGRAPH)).T)[0].tolist()
    missed = max(abs(a - b) for a, b in zip(logits, CLIP_B32_OF_PHOTOGRAPH.values(), strict=True))
    return _must(missed < NEAR, f"logits of {PHOTOGRAPH} {[round(v, 3) for v in logits]}, {missed:.4f} off")


def _dinov2(weights: Weights) -> str:
    dino, picture = weights.dinov2, photograph(weights.folder)
    if picture is None:
        return f"whole; with {PHOTOGRAPH}.jpg of COCO val2017 in {weights.folder} its published output is checked"
    found = dino.pictures([picture])[0, :3].tolist()
    missed = max(abs(a - b) for a, b in zip(found, DINOV2_OF_PHOTOGRAPH, strict=True))
    return _must(missed < NEAR, f"class token of {PHOTOGRAPH} {[round(v, 4) for v in found]}, {missed:.4f} off")


def _dino(weights: Weights) -> str:
    width = weights.dino.pictures([made_up_film()[0]]).shape[1]
    return _must(width == 768, f"vectors of {width}")


def _aesthetic(weights: Weights) -> str:
    head = weights.aesthetic
    device = next(head.parameters()).device
    ramp = torch.linspace(-1, 1, HEAD_WIDTHS[0], device=device)[None]
    marks = float(head(torch.zeros_like(ramp))), float(head(ramp))
    missed = max(abs(a - b) for a, b in zip(marks, HEAD_MARKS, strict=True))
    return _must(missed < SAME, f"marks of nothing and of a ramp {[round(v, 4) for v in marks]}, {missed:.5f} off")


def _dover(weights: Weights) -> str:
    return f"whole: {len(weights.dover.state_dict())} entries, places counted as here"


NETWORK_CHECKS: dict[str, Callable[[Weights], str]] = {
    "clip-vit-large-patch14": _clip_l14,
    "clip-vit-base-patch32": _clip_b32,
    "dinov2-base": _dinov2,
    "dino-vitb16": _dino,
}
FILE_CHECKS: dict[str, Callable[[Weights], str]] = {
    "laion-aesthetic-v2.safetensors": _aesthetic,
    "dover.safetensors": _dover,
}
RANGES = {"fq": (1.0, 10.0), "vq": (0.0, 1.0), "vq_dense": (0.0, 1.0), "text_alignment": (0.0, 50.0)}
"""What a score of the made-up film must lie in; all others in [0, 1], and raw scores anywhere."""
ANYWHERE = ("vq_technical", "vq_aesthetic")
SCORED = ("fq", "sc", "sc_proj", "text_alignment", "oc", "oc_dino", "subject_consistency", "background_consistency")


def _scores(weights: Weights, record: bool) -> Iterator[Check]:
    """The scores of the made-up film: in their ranges, and as recorded."""
    film = ArraySource(made_up_film(), FPS)
    names = (*SCORED, "vq", *ANYWHERE, "temporal_flickering")
    found = score(film, weights, prompt="a red disc moves over a pattern of coloured squares", only=names)
    values = {name: value for name, value in found.measures.items() if value is not None}
    file = weights.folder / RECORDED
    if record:
        with disk_errors(file, "written"):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"scores": values, "versions": libraries()})
    kept = _recorded(file)
    for name, value in values.items():
        low, high = RANGES.get(name, (-math.inf, math.inf) if name in ANYWHERE else (0.0, 1.0))
        said = f"{value:.5f}"
        holds = low <= value <= high
        if not holds:
            said += f", outside of {low:g} to {high:g}"
        elif name in kept:
            holds = abs(value - kept[name]) < SAME
            said += f", recorded {kept[name]:.5f}"
        elif not kept:
            said += ", nothing recorded to compare with (--record)"
        yield Check(f"{name} of the made-up film", "holds" if holds else "fails", said)
    for name, why in found.skipped.items():
        yield Check(f"{name} of the made-up film", "skipped", why)


def libraries() -> dict[str, str]:
    """The versions that scores depend on."""
    found = dict(versions())
    for name in ("pillow", "numpy", "opencv-python-headless"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _recorded(file: Path) -> dict[str, float]:
    if not file.is_file():
        return {}
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in document["scores"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read ({error}); delete it, and record the scores again") from error
