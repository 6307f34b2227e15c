"""Films: shots of scenes one after another, of any length, drawn by recipes that are named for what moves in them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .panorama import WIDTH as PANORAMA_WIDTH
from .render import flow, masks, render
from .scene import (
    HEIGHT,
    PLACES,
    WIDTH,
    ZOOM_MOST,
    Light,
    Scene,
    SceneObject,
    Split,
    Zoom,
    caption,
    draw_look,
    edit_scene,
    stand,
)
from .sprites import AIRBORNE, shape
from .vocabulary import BACKGROUNDS


@dataclass(frozen=True)
class Shot:
    """Frames ``[start, stop)`` of a film; its scene's time is counted from ``start``."""

    scene: Scene
    start: int
    stop: int


@dataclass(frozen=True)
class Film:
    """Shots that follow each other without gap from frame 0."""

    shots: tuple[Shot, ...]

    def __post_init__(self) -> None:
        starts = [0, *(shot.stop for shot in self.shots)]
        if not self.shots or any(s.start != start or s.stop <= start for s, start in zip(self.shots, starts)):  # noqa: B905
            raise ValueError("the shots of a film follow each other from frame 0 and none is empty")

    def __len__(self) -> int:
        return self.shots[-1].stop

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.frame(i) for i in range(len(self)))

    @property
    def cuts(self) -> tuple[int, ...]:
        """The first frame of every shot but the first."""
        return tuple(shot.start for shot in self.shots[1:])

    @property
    def caption(self) -> str:
        """The caption of the first shot; films drawn by ``video`` have the same one throughout."""
        return caption(self.shots[0].scene)

    def shot(self, index: int) -> Shot:
        """The shot that frame ``index`` belongs to."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a film of {len(self)}")
        return next(shot for shot in self.shots if index < shot.stop)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index``: ``(128, 224, 3)`` uint8 RGB."""
        shot = self.shot(index)
        return render(shot.scene, index - shot.start)

    def frames(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Some frames, or all: ``(n, 128, 224, 3)`` uint8 RGB."""
        return np.stack([self.frame(i) for i in range(start, len(self) if stop is None else stop)])

    def masks(self, index: int) -> NDArray[np.float32]:
        """Visible coverage of each object in frame ``index``."""
        shot = self.shot(index)
        return masks(shot.scene, index - shot.start)

    def flow(self, first: int, second: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Displacement and validity from one frame to another; across a cut nothing is valid."""
        shot, other = self.shot(first), self.shot(second)
        displacement, valid = flow(shot.scene, first - shot.start, second - shot.start)
        return displacement, valid & (shot == other)

    def edit(self, **changes: Any) -> Film:
        """The film with every shot's scene edited (arguments of ``edit_scene``)."""
        return Film(tuple(replace(shot, scene=edit_scene(shot.scene, **changes)) for shot in self.shots))


# how the first object moves through a shot: share of the way across the frame at its start and at its end
ACTIONS = {
    "stay": (0.4, 0.6),
    "cross": (-0.3, 1.3),
    "enter": (-0.3, 0.6),
    "leave": (0.45, 1.3),
}
SPEED = 4.0  # pixels a frame at most


LAP_MARGIN = 1.6  # sizes; no object is wider, so that it turns out of sight
ZOOM_EDGE = HEIGHT / 2 * (1 - 1 / ZOOM_MOST)  # rows that are out of sight, above and below, when the zoom is fullest
ENDLESS = (10_000, 10_000)  # length of a shot of films without cuts


@dataclass(frozen=True)
class Recipe:
    """What a named film is made of."""

    shot_length: tuple[int, int]  # frames; drawn uniformly
    actions: tuple[str, ...]  # of successive shots: names in ACTIONS, or "lap" or "meet"
    objects: int = 1
    pan: float = 1.0  # fastest, pixels a frame
    speed: tuple[float, float] = (0.0, 0.0)  # of "lap" and "meet", pixels a frame; drawn uniformly
    sizes: tuple[float, float] | None = None  # of the objects; None: as their number allows
    zoom: float = 0.0  # fastest change of scale, per frame
    light: float = 0.0  # stops by which the light fades at most


RECIPES = {
    "pan": Recipe(ENDLESS, ("stay",)),
    "crossing": Recipe((90, 150), ("cross",), objects=2, pan=0.5),
    "enter-leave": Recipe((60, 120), ("enter", "leave")),
    "cuts": Recipe((16, 40), ("stay",)),
    "mixed": Recipe((32, 110), ("stay", "enter", "cross", "leave")),
    "static": Recipe(ENDLESS, ("lap",), pan=0.0, speed=(1.5, 3.0)),
    "zoom": Recipe(ENDLESS, ("stay",), pan=0.4, sizes=(46, 56), zoom=0.022),
    "occlusion": Recipe(ENDLESS, ("meet",), objects=2, pan=0.3, speed=(1.6, 2.6)),
    "lighting": Recipe(ENDLESS, ("stay",), pan=0.4, light=0.5),
    "fast": Recipe(ENDLESS, ("lap",), pan=3.5, speed=(6.0, 10.0)),
    "still": Recipe(ENDLESS, ("lap",), pan=0.0, speed=(0.02, 0.05)),
}


def _size(rng: random.Random, recipe: Recipe) -> float:
    alone, beside_another = (62, 86), (48, 66)
    return rng.uniform(*(recipe.sizes or (alone if recipe.objects == 1 else beside_another)))


def _bob(rng: random.Random, kind: str) -> float:
    return rng.uniform(1, 5) if kind in AIRBORNE or kind in ("boat", "fish") else 0.0


def _passing(rng: random.Random, recipe: Recipe, action: str, length: int, looks: list) -> list[SceneObject]:
    """Objects that do one of ACTIONS in a shot of ``length`` frames, a second one against the first."""
    things: list[SceneObject] = []
    for index, (kind, colour) in enumerate(looks):
        rightward = rng.random() < 0.5 if index == 0 else not things[0].flip
        size = _size(rng, recipe)
        begin, end = ACTIONS[action]
        speed = min(SPEED, (end - begin) * WIDTH / length)
        begin = min(begin, 0.5) if speed < SPEED else begin
        x = begin * WIDTH if rightward else (1 - begin) * WIDTH
        height = size * shape(kind)[0]
        y = stand(rng, kind, height)
        if recipe.zoom:
            y = min(max(y, ZOOM_EDGE + height), HEIGHT - ZOOM_EDGE)
        things.append(
            SceneObject(kind, colour, x, y, size, rightward, speed if rightward else -speed, bob=_bob(rng, kind))
        )
    return things


def _lapping(rng: random.Random, recipe: Recipe, looks: list) -> list[SceneObject]:
    """Objects that cross the frame again and again; the first starts in the middle part of it."""
    things: list[SceneObject] = []
    for kind, colour in looks:
        rightward, size, speed = rng.random() < 0.5, _size(rng, recipe), rng.uniform(*recipe.speed)
        x, y = rng.uniform(0.3, 0.7) * WIDTH, stand(rng, kind, size * shape(kind)[0])
        velocity, lap = speed if rightward else -speed, WIDTH + LAP_MARGIN * size
        things.append(SceneObject(kind, colour, x, y, size, rightward, velocity, bob=_bob(rng, kind), lap=lap))
    return things


def _meeting(rng: random.Random, recipe: Recipe, length: int, looks: list) -> list[SceneObject]:
    """Two objects that come from either side and pass each other in the middle, the second before the first.

    They meet first within 30 to 70 % of the shot or of its first 100 frames, and again whenever both have come round.
    """
    rightward, speed = rng.random() < 0.5, rng.uniform(*recipe.speed)
    meeting = rng.uniform(0.3, 0.7) * min(length, 100)
    foot = rng.uniform(HEIGHT - 22, HEIGHT - 16)
    lap = WIDTH + LAP_MARGIN * 66  # one for both, so that they meet where they met before
    things: list[SceneObject] = []
    for index, (kind, colour) in enumerate(looks):
        flip = rightward if index == 0 else not rightward
        velocity = speed if flip else -speed
        x, y = WIDTH / 2 - velocity * meeting, foot + 9 * index
        things.append(SceneObject(kind, colour, x, y, _size(rng, recipe), flip, velocity, bob=_bob(rng, kind), lap=lap))
    return things


def _shot_scene(
    rng: random.Random, recipe: Recipe, action: str, length: int, base: Scene, places: range, looks: list
) -> Scene:
    """A scene for a shot of ``length`` frames."""
    if action == "lap":
        things = _lapping(rng, recipe, looks)
    elif action == "meet":
        things = _meeting(rng, recipe, length, looks)
    else:
        things = _passing(rng, recipe, action, length, looks)
    scene = replace(
        base,
        place=rng.choice(places),
        objects=tuple(things),
        offset=rng.uniform(0, PANORAMA_WIDTH - WIDTH - 1),
        pan=rng.choice((-1, 1)) * rng.uniform(0.3, 1) * recipe.pan,
    )
    if recipe.zoom:
        scene = replace(scene, zoom=Zoom(rng.uniform(0.5, 1) * recipe.zoom, rng.uniform(0, 2 * math.pi)))
    if recipe.light:
        stops, warmth = rng.uniform(0.6, 1) * recipe.light, rng.uniform(0.03, 0.07)
        scene = replace(
            scene, light=Light(stops, warmth, period=rng.uniform(80, 200), phase=rng.uniform(0, 2 * math.pi))
        )
    return scene


def video(name_or_seed: str | int = "mixed", frames: int = 64, split: Split = "test", style: str = "photo") -> Film:
    """A film of ``frames`` frames with one caption throughout.

    Args:
        name_or_seed: A recipe (a name in ``RECIPES``), a recipe and a seed as in ``"cuts-3"``, or a seed alone, which
            is a ``mixed`` film.
        frames: Its length, 1 or more.
        split: Whether it may be seen in training.
        style: One style for all shots.

    """
    name = str(name_or_seed) if isinstance(name_or_seed, str) else f"mixed-{name_or_seed}"
    stem, _, seed = name.rpartition("-")
    recipe_name = stem if seed.isdigit() and stem in RECIPES else name
    if recipe_name not in RECIPES:
        raise ValueError(f"{name!r} is not a film: give a seed or one of {', '.join(RECIPES)}, as in 'cuts-3'")
    recipe = RECIPES[recipe_name]
    rng = random.Random(f"{split} film {name}")
    background = rng.choice(BACKGROUNDS)
    looks = [draw_look(rng, split, background) for _ in range(recipe.objects)]
    base = Scene(background, 0, (), style)
    shots: list[Shot] = []
    start = 0
    while start < frames:
        length = min(rng.randint(*recipe.shot_length), frames - start)
        action = recipe.actions[len(shots) % len(recipe.actions)]
        scene = _shot_scene(rng, recipe, action, length, base, PLACES[split], looks)
        shots.append(Shot(scene, start, start + length))
        start += length
    return Film(tuple(shots))
