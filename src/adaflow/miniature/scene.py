"""Scenes as data: what is where, how it moves, which ones are held out for testing, and how one is edited."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Literal

from .panorama import WIDTH as PANORAMA_WIDTH
from .sprites import AIRBORNE, shape
from .vocabulary import BACKGROUNDS, COLOURS, OBJECTS, STYLES, compose

HEIGHT, WIDTH = 128, 224
Split = Literal["train", "test"]
PLACES = {"train": range(0, 160), "test": range(160, 200)}


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is and where it is at time ``t``, in pixels of the frame.

    ``x`` is its middle and ``y`` its lowest point at t = 0; ``size`` is the square root of its bounding box's area, so
    that one object can take another's place. Speeds are pixels a frame; ``bob`` is the height of a slow swing.
    """

    kind: str
    colour: str
    x: float
    y: float
    size: float
    flip: bool = False  # facing right
    vx: float = 0.0
    vy: float = 0.0
    bob: float = 0.0

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in pixels."""
        height, width = shape(self.kind)
        return self.size * height, self.size * width

    @property
    def casts_shadow(self) -> bool:
        """Whether it stands on the ground."""
        return self.kind not in AIRBORNE

    def position(self, t: float) -> tuple[float, float]:
        """``(x, y)`` of the middle of its lower edge at time ``t``."""
        return self.x + self.vx * t, self.y + self.vy * t + self.bob * math.sin(0.15 * t)


@dataclass(frozen=True)
class Scene:
    """A background seen by a camera that may pan, and objects from the farthest to the nearest."""

    background: str
    place: int  # panorama seed
    objects: tuple[SceneObject, ...]
    style: str = "photo"
    offset: float = 0.0  # left edge of the frame in the panorama at t = 0
    pan: float = 0.0  # pixels a frame

    def camera(self, t: float) -> float:
        """Left edge of the frame in the panorama at time ``t``; at an end of the panorama the camera turns back."""
        room = PANORAMA_WIDTH - WIDTH - 1
        return room - abs((self.offset + self.pan * t) % (2 * room) - room)


def caption(scene: Scene) -> str:
    """``a red car on a grass field, watercolor painting``."""
    return compose([(o.colour, o.kind) for o in scene.objects], scene.background, scene.style)


def held_out(kind: str, colour: str, background: str) -> bool:
    """Whether training never shows this combination: one in eight, every pair of the three attributes being shown."""
    index = OBJECTS.index(kind) + 3 * COLOURS.index(colour) + 5 * BACKGROUNDS.index(background)
    return index % 8 == 0


def edit_scene(
    scene: Scene,
    *,
    colour: str | None = None,
    object: str | None = None,
    background: str | None = None,
    style: str | None = None,
    index: int = 0,
) -> Scene:
    """The same scene with some attributes changed; ``colour`` and ``object`` are those of object ``index``.

    Rendering it gives the ground truth of that edit.
    """
    for value, known in ((colour, COLOURS), (object, OBJECTS), (background, BACKGROUNDS), (style, STYLES)):
        if value is not None and value not in known:
            raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    objects = list(scene.objects)
    if colour is not None or object is not None:
        old = objects[index]
        objects[index] = replace(old, colour=colour or old.colour, kind=object or old.kind)
    return replace(scene, objects=tuple(objects), background=background or scene.background, style=style or scene.style)


def draw_look(rng: random.Random, split: Split, background: str) -> tuple[str, str]:
    """A random ``(kind, colour)`` that belongs to the split on that background."""
    looks = [(k, c) for k in OBJECTS for c in COLOURS if held_out(k, c, background) == (split == "test")]
    return rng.choice(looks)


def stand(rng: random.Random, kind: str, height: float) -> float:
    """A height in the frame for the lowest point of an object: on the ground, or anywhere if it flies."""
    if kind in AIRBORNE:
        return rng.uniform(height + 4, max(height + 5, HEIGHT - 14))
    return rng.uniform(max(height + 4, 100), HEIGHT - 5)


def random_object(
    rng: random.Random, split: Split, background: str, columns: tuple[float, float], sizes: tuple[float, float]
) -> SceneObject:
    """An object within some columns of the frame, moving the way it faces."""
    kind, colour = draw_look(rng, split, background)
    size, flip = rng.uniform(*sizes), rng.random() < 0.5
    airborne = kind in AIRBORNE
    return SceneObject(
        kind,
        colour,
        x=rng.uniform(*columns),
        y=stand(rng, kind, size * shape(kind)[0]),
        size=size,
        flip=flip,
        vx=(1 if flip else -1) * rng.choice((0.0, rng.uniform(0.2, 1.5))),
        vy=rng.uniform(-0.15, 0.15) if airborne else 0.0,
        bob=rng.uniform(0, 5) if airborne or kind in ("boat", "fish") else 0.0,
    )


def random_scene(seed: int, split: Split = "train", objects: int | None = None, style: str | None = None) -> Scene:
    """A scene drawn from a seed: always the same for the same arguments.

    Args:
        seed: Any integer.
        split: ``test`` scenes lie in places and combine object, colour and background as no ``train`` scene does.
        objects: 1 or 2; None draws two in one scene of six.
        style: None draws one, the photo style half of the time.

    """
    rng = random.Random(f"{split} {seed}")
    background = rng.choice(BACKGROUNDS)
    drawn_style = "photo" if rng.random() < 0.5 else rng.choice(STYLES[1:])
    pair = rng.random() < 1 / 6 if objects is None else objects == 2
    if pair:
        slots = [((38.0, 75.0), (44.0, 60.0)), ((148.0, 186.0), (44.0, 60.0))]
    else:
        slots = [((50.0, WIDTH - 50.0), (58.0, 86.0))]
    return Scene(
        background,
        rng.choice(PLACES[split]),
        tuple(random_object(rng, split, background, columns, sizes) for columns, sizes in slots),
        style or drawn_style,
        offset=rng.uniform(0, PANORAMA_WIDTH - WIDTH - 1),
        pan=rng.choice((0.0, rng.uniform(-1.2, 1.2))),
    )
