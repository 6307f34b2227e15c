"""Suites: which rendered videos are edited, and how. All follow from seeds; nothing is stored, nothing rendered here.

| suite | videos x frames x edits | for |
| --- | --- | --- |
| `ci` | 2 x 24 x 1 | does it run |
| `brief` | 12 x 40 x 3 | comparing many settings on two cores |
| `recheck` | 12 x 40 x 3 | whether what `brief` shows holds on other videos |
| `report` | 12 x 96 x 3 and 2 x 1,000 x 1 | the figures in the docs |
| `validation` | 12 x 96 x 3 | choosing settings, before `report` is looked at |
| `confirm` | 12 x 96 x 3 | whether what was chosen holds on videos that chose nothing |
| `full` | 24 x 240-1,500 x 3 | a long run |

No two suites share a seed. All videos are of the miniature's test split: places and combinations of object, colour and
background that training never shows. The edits are the three of LongV-EVAL (https://arxiv.org/abs/2502.05433): of the
foreground (in turn a colour, or an object of similar shape), of the background, and of the style; what they lead to
need not be held out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from adaflow.config import Kind
from adaflow.errors import InputError
from adaflow.miniature.scene import HEIGHT, WIDTH
from adaflow.miniature.sprites import AIRBORNE
from adaflow.miniature.world import BACKGROUNDS, COLOURS, STYLES, Film, Scene, SceneObject, similar_objects, video

Truth = Literal["foreground", "background", "style"]

SEEN = 0.6  # share of the frames in which the object to be edited is to be seen
TRIES = 20  # seeds a video may take


@dataclass(frozen=True)
class Edit:
    """One edit of a video, with the video that a perfect edit gives."""

    name: Truth
    kind: Kind
    changes: Mapping[str, str]  # arguments of `edit_scene`
    prompt: str  # caption of the target
    target: Film


@dataclass(frozen=True)
class Case:
    """One video and its edits."""

    id: str  # name of the film: `video(id, frames)` is it
    motion: str  # its recipe
    film: Film
    edits: tuple[Edit, ...]
    source_prompt: str  # caption of the film
    seed: int  # the film's, and also the one to be given to the edits


@dataclass(frozen=True)
class Suite:
    """Videos to be edited under the same settings by every method."""

    name: str
    cases: tuple[Case, ...]
    steps: int | None  # of sampling, and as many of inversion; None: as the model's card says
    settings: Mapping[str, Any]  # dotted fields of EditConfig for every method, `steps` among them


@dataclass(frozen=True)
class _Plan:
    """What a suite is drawn from."""

    first_seed: int  # its seeds lie from here up to 1,000 above
    videos: tuple[tuple[str, int, tuple[Truth, ...]], ...]  # recipe, frames, edits
    steps: int | None
    settings: Mapping[str, Any]


_ALL: tuple[Truth, ...] = ("foreground", "background", "style")
_SINGLE = ("enter-leave", "occlusion", "lighting", "fast", "still")
_TWELVE = ("static", "pan", "pan", "zoom", "zoom", "cuts", "cuts", *_SINGLE)
_SHORT = tuple("mixed" if m == "enter-leave" else m for m in _TWELVE)  # whose shots are longer than 40 frames
_FULL = ("static", "pan", "crossing", "zoom", "mixed", "cuts", "pan", *_SINGLE) * 2
_MEASURED: Mapping[str, Any] = MappingProxyType({"slimming.budget": 4})
_PLANS: Mapping[str, _Plan] = MappingProxyType(
    {
        "ci": _Plan(0, (("pan", 24, ("foreground",)), ("cuts", 24, ("background",))), 8, {"slimming.budget": 2}),
        "brief": _Plan(5000, tuple((m, 40, _ALL) for m in _SHORT), 20, {"slimming.budget": 2}),
        "recheck": _Plan(6000, tuple((m, 40, _ALL) for m in _SHORT), 20, {"slimming.budget": 2}),
        "report": _Plan(
            1000,
            (*((m, 96, _ALL) for m in _TWELVE), ("mixed", 1000, ("foreground",)), ("still", 1000, ("style",))),
            20,
            _MEASURED,
        ),
        "validation": _Plan(2000, tuple((m, 96, _ALL) for m in _TWELVE), 20, _MEASURED),
        "confirm": _Plan(3000, tuple((m, 96, _ALL) for m in _TWELVE), 20, _MEASURED),
        "full": _Plan(4000, tuple((m, 240 + 1260 * k // 23, _ALL) for k, m in enumerate(_FULL)), None, {}),
    }
)
SUITES = tuple(_PLANS)
MINIATURE = "miniature"
"""Another name of the suite whose figures are reported: the miniature edition's `report`."""


def suite(name: str) -> Suite:
    """The suite of that name, always the same; `MINIATURE` is `report`.

    Raises:
        InputError: If there is none.
    """
    name = "report" if name == MINIATURE else name
    if name not in _PLANS:
        raise InputError(f"{name!r} is not a suite; take one of {', '.join(SUITES)}")
    plan = _PLANS[name]
    cases = tuple(
        _case(plan.first_seed + TRIES * index, motion, frames, edits, ("colour", "object")[index % 2])
        for index, (motion, frames, edits) in enumerate(plan.videos)
    )
    steps = {} if plan.steps is None else {"steps": plan.steps}
    return Suite(name, cases, plan.steps, {**steps, **plan.settings})


def _case(first_seed: int, motion: str, frames: int, edits: tuple[Truth, ...], foreground: Kind) -> Case:
    """The first of `TRIES` films from ``first_seed`` on that suits its edits."""
    for seed in range(first_seed, first_seed + TRIES):
        film = video(f"{motion}-{seed}", frames)
        if _suits(film, motion, foreground):
            break
    else:
        raise AssertionError(f"none of {TRIES} films suits {motion}-{first_seed}: the plan asks for too much")
    rng = random.Random(f"edits of {motion}-{seed}")
    drawn = {name: _edit(rng, film, name, foreground) for name in _ALL}
    return Case(f"{motion}-{seed}", motion, film, tuple(drawn[name] for name in edits), film.caption, seed)


def _suits(film: Film, motion: str, foreground: Kind) -> bool:
    """Whether the first object is there to be edited and unlike the second, and shots are as many as the name says."""
    things = film.shots[0].scene.objects
    unlike = all(len({getattr(o, name) for o in things}) == len(things) for name in ("kind", "colour"))
    editable = unlike and (foreground == "colour" or bool(_similar(things)))
    return editable and (motion not in ("cuts", "enter-leave") or bool(film.cuts)) and seen_share(film) >= SEEN


def _similar(things: tuple[SceneObject, ...]) -> list[str]:
    """What the first object may become: the kind of most similar shape, if there is one.

    Not what another object is, and nothing that flies in place of what stands, or the reverse.
    """
    flies = things[0].kind in AIRBORNE
    others = {thing.kind for thing in things}
    return [kind for kind in similar_objects(things[0].kind) if kind not in others and (kind in AIRBORNE) == flies][:1]


def seen_share(film: Film) -> float:
    """The share of a film's frames in which half of the first object or more is to be seen, by bounding boxes."""
    return sum(_seen(s.scene, t) >= 0.5 for s in film.shots for t in range(s.stop - s.start)) / len(film)


def _seen(scene: Scene, t: float) -> float:
    """The share of the first object's box that lies in the frame and not in the box of a nearer object."""
    left, top, right, bottom = scene.box(0, t)
    shown = (max(left, 0.0), max(top, 0.0), min(right, float(WIDTH)), min(bottom, float(HEIGHT)))
    hidden = sum(_common(shown, scene.box(index, t)) for index in range(1, len(scene.objects)))
    return (_common(shown, shown) - hidden) / ((right - left) * (bottom - top))


def _common(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Area of the intersection of two boxes ``(left, top, right, bottom)``."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _edit(rng: random.Random, film: Film, name: Truth, foreground: Kind) -> Edit:
    """An edit drawn for a film."""
    scene = film.shots[0].scene
    kind: Kind = foreground if name == "foreground" else name
    choices = {
        "colour": [colour for colour in COLOURS if colour not in {thing.colour for thing in scene.objects}],
        "object": _similar(scene.objects),
        "background": [background for background in BACKGROUNDS if background != scene.background],
        "style": [style for style in STYLES if style != scene.style],
    }
    changes: dict[str, str] = {kind: rng.choice(choices[kind])}
    target = film.edit(**changes)
    return Edit(name, kind, changes, target.caption, target)
