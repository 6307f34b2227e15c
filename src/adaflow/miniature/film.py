"""Films: shots of scenes one after another, of any length, with cuts, pans, crossings, entrances and exits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .panorama import WIDTH as PANORAMA_WIDTH
from .render import flow, masks, render
from .scene import PLACES, WIDTH, Scene, SceneObject, Split, caption, draw_look, edit_scene, stand
from .sprites import shape
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


@dataclass(frozen=True)
class Recipe:
    """What a named film is made of."""

    shot_length: tuple[int, int]  # frames; drawn uniformly
    actions: tuple[str, ...]
    objects: int = 1
    pan: float = 1.0  # fastest, pixels a frame


RECIPES = {
    "pan": Recipe((10_000, 10_000), ("stay",)),
    "crossing": Recipe((90, 150), ("cross",), objects=2, pan=0.5),
    "enter-leave": Recipe((60, 120), ("enter", "leave")),
    "cuts": Recipe((16, 40), ("stay",)),
    "mixed": Recipe((32, 110), ("stay", "enter", "cross", "leave")),
}


def _shot_scene(
    rng: random.Random, recipe: Recipe, action: str, length: int, base: Scene, places: range, looks: list
) -> Scene:
    """A scene for a shot of ``length`` frames."""
    things: list[SceneObject] = []
    for index, (kind, colour) in enumerate(looks):
        rightward = rng.random() < 0.5 if index == 0 else not things[0].flip
        size = rng.uniform(62, 86) if len(looks) == 1 else rng.uniform(48, 66)
        begin, end = ACTIONS[action]
        speed = min(SPEED, (end - begin) * WIDTH / length)
        begin = min(begin, 0.5) if speed < SPEED else begin
        x = begin * WIDTH if rightward else (1 - begin) * WIDTH
        y = stand(rng, kind, size * shape(kind)[0])
        bob = rng.uniform(1, 5) if kind in ("balloon", "bird", "butterfly", "boat", "fish") else 0.0
        things.append(SceneObject(kind, colour, x, y, size, rightward, speed if rightward else -speed, bob=bob))
    return replace(
        base,
        place=rng.choice(places),
        objects=tuple(things),
        offset=rng.uniform(0, PANORAMA_WIDTH - WIDTH - 1),
        pan=rng.choice((-1, 1)) * rng.uniform(0.3, 1) * recipe.pan,
    )


def video(name_or_seed: str | int = "mixed", frames: int = 64, split: Split = "test", style: str = "photo") -> Film:
    """A film of ``frames`` frames with one caption throughout.

    Args:
        name_or_seed: A recipe (``pan``, ``crossing``, ``enter-leave``, ``cuts``, ``mixed``), a recipe and a seed as in
            ``"cuts-3"``, or a seed alone, which is a ``mixed`` film.
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
