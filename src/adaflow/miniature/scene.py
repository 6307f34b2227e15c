"""Scenes as data: what is where, how it moves, which ones are held out for testing, and how one is edited."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Literal

from .panorama import WIDTH as PANORAMA_WIDTH
from .sprites import AIRBORNE, shape
from .vocabulary import BACKGROUNDS, COLOURS, OBJECTS, STYLES, compose, compose_freely

HEIGHT, WIDTH = 128, 224
ZOOM_MOST = 1.6
Split = Literal["train", "test"]
PLACES = {"train": range(0, 160), "test": range(160, 200)}
MORE_PLACES = range(200, 440)  # training scenes lie there too


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is and where it is at time ``t``, in pixels of the frame.

    ``x`` is its middle and ``y`` its lowest point at t = 0; ``size`` is the square root of its bounding box's area, so
    that one object can take another's place. Speeds are pixels a frame; ``bob`` is the height of a slow swing. An
    object with a ``lap`` comes round again: out at one side of the frame, and in at the other so many pixels later.
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
    lap: float = 0.0  # pixels along x, more than the frame and the object are wide; 0: it never comes back

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
        x = self.x + self.vx * t
        if self.lap:
            x = (x - WIDTH / 2 + self.lap / 2) % self.lap + WIDTH / 2 - self.lap / 2
        return x, self.y + self.vy * t + self.bob * math.sin(0.15 * t)


@dataclass(frozen=True)
class Zoom:
    """A camera that zooms in and out, smoothly and without end: the scale runs between 1 and ``ZOOM_MOST``."""

    rate: float  # fastest change of the scale, per frame
    phase: float = 0.0  # radians, where t = 0 lies in the swing; at 0 the scale is 1 and about to grow

    def scale(self, t: float) -> float:
        """How many pixels of the frame at time ``t`` one pixel without zoom is wide."""
        swing = (ZOOM_MOST - 1) / 2
        return 1 + swing * (1 - math.cos(self.phase + self.rate / swing * t))


@dataclass(frozen=True)
class Light:
    """Light that fades and returns slowly, and changes from warm to cool on the way."""

    stops: float  # how far it fades: a stop is half of the light
    warmth: float = 0.0  # by what share red gains and blue loses when it is warmest; the reverse when it is coolest
    period: float = 160.0  # frames
    phase: float = 0.0  # radians, where t = 0 lies in the swing; at 0 it is full and about to fade

    def gain(self, t: float) -> tuple[float, float, float]:
        """What red, green and blue are multiplied with at time ``t``."""
        angle = self.phase + 2 * math.pi * t / self.period
        full = 2 ** (-self.stops * (1 - math.cos(angle)) / 2)
        tint = self.warmth * math.sin(angle)
        return full * (1 + tint), full, full * (1 - tint)


@dataclass(frozen=True)
class Scene:
    """A background seen by a camera that may pan and zoom, and objects from the farthest to the nearest.

    Objects are where they are in the frame, not in the panorama: a pan moves the background behind them. A zoom scales
    the whole picture about the middle of the frame, objects and shadows included. Light changes colours alone.
    """

    background: str
    place: int  # panorama seed
    objects: tuple[SceneObject, ...]
    style: str = "photo"
    offset: float = 0.0  # left edge of the frame in the panorama at t = 0
    pan: float = 0.0  # pixels a frame, before any zoom
    zoom: Zoom | None = None
    light: Light | None = None

    def camera(self, t: float) -> float:
        """Left edge of the frame in the panorama at time ``t``; at an end of the panorama the camera turns back."""
        room = PANORAMA_WIDTH - WIDTH - 1
        return room - abs((self.offset + self.pan * t) % (2 * room) - room)

    def scale(self, t: float) -> float:
        """How much larger than without zoom everything is at time ``t``."""
        return self.zoom.scale(t) if self.zoom else 1.0

    def feet(self, index: int, t: float) -> tuple[float, float]:
        """``(x, y)`` of the middle of the lower edge of object ``index`` in the frame at time ``t``, zoom included."""
        x, y = self.objects[index].position(t)
        growth = self.scale(t) - 1
        return x + growth * (x - WIDTH / 2), y + growth * (y - HEIGHT / 2)

    def box(self, index: int, t: float) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of object ``index`` at time ``t``, which may lie outside the frame."""
        x, y = self.feet(index, t)
        height, width = (side * self.scale(t) for side in self.objects[index].extent)
        return x - width / 2, y - height, x + width / 2, y


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


def training_scene(seed: int, objects: int | None = None) -> tuple[Scene, float, str]:
    """A scene of the training split that varies more than ``random_scene``, a time in it, and a caption for it.

    It may lie in more places; its camera may have zoomed and its light faded; of two objects one may stand before the
    other; the caption may use other words.
    """
    rng = random.Random(f"training {seed}")
    scene = random_scene(seed, "train", objects)
    things = list(scene.objects)
    if len(things) == 2 and rng.random() < 0.4:
        shift = rng.uniform(-30, 30)
        things[1] = replace(things[1], x=things[0].x + shift if rng.random() < 0.7 else rng.uniform(38, WIDTH - 38))
    zoom = light = None
    if rng.random() < 0.2:
        zoom = Zoom(0.01, rng.uniform(0, 2 * math.pi))
        things = [_farther(thing, 0.72) for thing in things]
    if rng.random() < 0.2:
        light = Light(rng.uniform(0, 0.6), rng.uniform(0, 0.08), phase=rng.uniform(0, 2 * math.pi))
    place = rng.choice((*PLACES["train"], *MORE_PLACES))
    scene = replace(scene, place=place, objects=tuple(things), zoom=zoom, light=light)
    looks = [(o.colour, o.kind) for o in scene.objects]
    return scene, rng.uniform(0, 12), compose_freely(looks, scene.background, scene.style, rng)


def _farther(thing: SceneObject, scale: float) -> SceneObject:
    """The object as seen from so far that a zoom does not drive it out of the frame."""
    x, y = WIDTH / 2 + scale * (thing.x - WIDTH / 2), HEIGHT / 2 + scale * (thing.y - HEIGHT / 2)
    return replace(thing, x=x, y=y, size=scale * thing.size)
