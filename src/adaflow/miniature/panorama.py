"""Painted landscapes wider than the frame.

A panorama seed fixes a *place*: its horizon, hills and cloud field. Each background paints that same place under
another sky and on another ground, so that the ground truth of "the same scene, in the snow" keeps the geography.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .drawing import Array, disc, gaussian, gradient, noise, polygon, polyline
from .vocabulary import BACKGROUNDS

HEIGHT = 128
WIDTH = 448  # of a panorama; the frame sees half of it

SOFT = ((4, 8, 1.0), (8, 16, 0.5), (16, 32, 0.25), (32, 64, 0.12))
CLOUDS = ((3, 10, 1.0), (6, 22, 0.6), (12, 45, 0.3), (24, 90, 0.15))
FLOWERS = ((255, 255, 255), (255, 220, 60), (240, 120, 150))
HOUSES = ((170, 110, 90), (150, 150, 160), (190, 170, 140), (110, 125, 150), (140, 95, 80))
WINDOWS = ((250, 235, 170), (90, 115, 140))


@dataclass(frozen=True)
class Place:
    """What all backgrounds of one panorama seed share."""

    horizon: int  # first row of the ground
    hills: NDArray[np.float64]  # (WIDTH,) in [0, 1]
    clouds: Array  # (horizon, WIDTH) in [0, 1], density of white
    ground: Array  # (HEIGHT - horizon, WIDTH, 1) in [0, 1], texture


class Painter:
    """One panorama in the making: the image, its place, and the random numbers of this background."""

    def __init__(self, place: Place, rng: np.random.RandomState) -> None:
        self.place, self.rng, self.horizon = place, rng, place.horizon
        self.depth = HEIGHT - place.horizon
        self.image = np.zeros((HEIGHT, WIDTH, 3), np.float32)

    def vary(self, colour: ArrayLike, amount: float = 12) -> Array:
        """``colour`` changed a little, in hue and in brightness."""
        change = self.rng.uniform(-amount, amount, 3) + self.rng.uniform(-amount, amount)
        return np.clip(np.asarray(colour, np.float32) + change, 0, 255).astype(np.float32)

    def sky(self, top: ArrayLike, bottom: ArrayLike, amount: float = 12) -> None:
        """Fill the sky from top to horizon."""
        self.image[: self.horizon] = gradient(self.vary(top, amount), self.vary(bottom, amount), self.horizon, WIDTH)

    def ground(self, far: ArrayLike, near: ArrayLike, low: float, texture: float) -> None:
        """Fill the ground, from the horizon to the viewer."""
        shade = low + texture * self.place.ground
        self.image[self.horizon :] = gradient(far, near, self.depth, WIDTH) * shade

    def clouds(self, density: float) -> None:
        """Put the place's clouds into the sky, thinner towards the horizon."""
        fade = np.linspace(1, 0.35, self.horizon, dtype=np.float32)[:, None]
        share = (self.place.clouds * density * fade)[..., None]
        self.image[: self.horizon] += share * (255 - self.image[: self.horizon])

    def fill_below(self, line: NDArray[np.float64], top: ArrayLike, bottom: ArrayLike, last: int) -> None:
        """Fill from ``line`` (a row per column, antialiased) down to row ``last`` with a vertical gradient."""
        rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
        share = (np.clip(rows - line[None] + 0.5, 0, 1) * (rows < last))[..., None].astype(np.float32)
        t = np.clip((rows - line.min()) / max(1, last - line.min()), 0, 1)[..., None]
        colour = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
        self.image += share * (colour - self.image)

    def hills(self, height: float, top: ArrayLike, bottom: ArrayLike) -> None:
        """Put the place's hills on the horizon."""
        self.fill_below(self.horizon + 2 - height * self.place.hills, top, bottom, self.horizon)

    def spot(self, left: int, right: int, top: int, bottom: int) -> tuple[int, int]:
        """A random point."""
        return int(self.rng.randint(left, right)), int(self.rng.randint(top, bottom))


def ridge(rng: np.random.RandomState, waves: int) -> NDArray[np.float64]:
    """A hilly line over the panorama, scaled to [0, 1]."""
    x = 2 * np.pi * np.arange(WIDTH) / WIDTH
    line = np.zeros(WIDTH)
    for k in range(1, waves + 1):
        line += rng.uniform(0.4, 1) / k * np.sin(k * x * rng.randint(1, 3) + rng.uniform(0, 7))
    return (line - line.min()) / (np.ptp(line) + 1e-6)


@cache
def place(seed: int) -> Place:
    """The place of a panorama seed."""
    rng = np.random.RandomState(1000 + 7 * seed)
    horizon = int(rng.randint(60, 78))
    depth = HEIGHT - horizon
    hills = ridge(rng, 4)
    clouds = np.clip((noise(rng, horizon, WIDTH, CLOUDS) - rng.uniform(0.5, 0.6)) * 3.2, 0, 1)
    octaves = ((6, 10, 1.0), (12, 40, 0.7), (30, 120, 0.5), (depth, WIDTH, 0.35))
    return Place(horizon, hills, clouds, noise(rng, depth, WIDTH, octaves)[..., None])


def _grass(p: Painter) -> None:
    p.sky((90, 160, 235), (205, 230, 250))
    p.clouds(0.95)
    hill = p.vary((80, 140, 90))
    p.hills(p.rng.randint(12, 26), hill, hill)
    p.ground(p.vary((120, 180, 70)), p.vary((60, 130, 35)), 0.72, 0.5)
    for _ in range(p.rng.randint(10, 40)):
        x, y = p.spot(0, WIDTH, p.horizon + 8, HEIGHT - 1)
        disc(p.image, x, y, 1, FLOWERS[p.rng.randint(3)])


def _cactus(p: Painter, x: int, y: int, size: int) -> None:
    green = (60, 120, 60)
    polyline(p.image, [(x, y + size), (x, y - size)], 4, green)
    arm = size // 2 + 1
    polyline(p.image, [(x, y + 3), (x + arm, y + 3), (x + arm, y - size // 2)], 3, green)
    polyline(p.image, [(x, y), (x - arm, y), (x - arm, y - size // 2 - 2)], 3, green)


def _desert(p: Painter) -> None:
    p.sky((110, 180, 230), (250, 225, 175))
    x, y = p.spot(20, WIDTH - 20, 12, 36)
    disc(p.image, x, y, p.rng.randint(8, 13), (255, 245, 190))
    p.image = np.ascontiguousarray(gaussian(p.image.transpose(2, 0, 1), 0.8).transpose(1, 2, 0))
    p.ground(p.vary((235, 195, 125)), p.vary((205, 150, 80)), 0.9, 0.2)
    shade = 0.9 + 0.2 * p.place.ground
    for k in range(4):
        line = p.horizon + int(p.depth * k / 5) + 6
        crest = p.place.hills if k == 0 else ridge(p.rng, 2)
        sand = p.vary((228, 182, 112), 9) * (1 - 0.05 * k)
        height = p.rng.randint(12, 26) if k == 0 else p.rng.randint(8, 18)
        p.fill_below(line - height * crest, sand * 1.06, sand * 0.8, HEIGHT)
    p.image[p.horizon :] *= shade
    for _ in range(p.rng.randint(2, 6)):
        x, y = p.spot(0, WIDTH, p.horizon + 4, HEIGHT - 16)
        _cactus(p, x, y, int(p.rng.randint(7, 13)))


def _mountain(p: Painter, x: int, height: int, width: int) -> None:
    base, peak = p.horizon, p.horizon - height
    rock = p.vary((105, 120, 150), 10)
    polygon(p.image, [(x - width, base), (x, peak), (x + width, base)], rock)
    polygon(p.image, [(x, peak), (x + width, base), (x + width // 3, base)], rock * 0.82)
    third = width // 3, base - height * 2 // 3
    cap = [(x - third[0], third[1]), (x, peak), (x + third[0], third[1])]
    cap += [(x + width // 8, base - height // 2), (x, base - height * 3 // 5), (x - width // 7, base - height // 2)]
    polygon(p.image, cap, (248, 250, 255))


def _snow(p: Painter) -> None:
    p.sky((120, 165, 215), (215, 228, 240))
    p.hills(p.rng.randint(12, 26), p.vary((150, 165, 190), 8), p.vary((190, 200, 218), 8))
    for _ in range(5):
        x = int(p.rng.randint(0, WIDTH))
        _mountain(p, x, int(p.rng.randint(28, p.horizon - 6)), int(p.rng.randint(45, 90)))
    p.ground((226, 234, 246), (246, 249, 255), 0.9, 0.12)
    for _ in range(p.rng.randint(5, 12)):
        x, y = p.spot(0, WIDTH, p.horizon, p.horizon + p.depth // 3)
        s = int(p.rng.randint(9, 18))
        for j in range(3):
            left, right, low = x - s // 2 + j * s // 9, x + s // 2 - j * s // 9, y - j * s // 3
            fir = (40 + 10 * j, 90 + 14 * j, 75 + 12 * j)
            polygon(p.image, [(left, low), (x, y - s * 2 // 3 - j * s // 3), (right, low)], fir)


def _sea(p: Painter) -> None:
    p.sky((105, 180, 240), (225, 240, 250))
    p.clouds(0.9)
    p.ground(p.vary((70, 150, 190)), p.vary((15, 70, 130)), 1, 0)
    for _ in range(150):
        y = p.horizon + int(p.depth * p.rng.rand() ** 1.3)
        near = (y - p.horizon) / p.depth
        x, length = p.rng.randint(-20, WIDTH), int(10 + 26 * near * p.rng.rand())
        colour = (185, 225, 240) if p.rng.rand() < 0.6 else (20, 80, 140)
        bow = [(x + i * length / 4, y + (1 + 2 * near) * np.sin(i / 4 * np.pi)) for i in range(5)]
        polyline(p.image, bow, 1 if near < 0.5 else 2, colour, alpha=0.5)
    p.image[p.horizon :] *= 0.93 + 0.14 * p.place.ground


def _house(p: Painter, x: int, base: int, width: int, height: int) -> None:
    top = base - height
    wall = p.vary(HOUSES[p.rng.randint(5)], 14)
    p.image[top : base + 1, x : x + width] = wall
    p.image[top : base + 1, max(0, x + width - 3) : x + width] = wall * 0.75
    light = WINDOWS[p.rng.randint(2)]
    for y in range(top + 5, base - 6, 10):
        for left in range(x + 4, x + width - 8, 9):
            p.image[y : y + 6, left : left + 5] = light if p.rng.rand() < 0.8 else (60, 70, 85)


def _city(p: Painter) -> None:
    base = p.horizon + 10
    p.image[:base] = gradient(p.vary((140, 185, 225)), p.vary((235, 225, 210)), base, WIDTH)
    x = 0
    while x < WIDTH:
        width, height = int(p.rng.randint(26, 50)), int(p.rng.randint(38, base - 4))
        _house(p, x, base, width, height)
        x += width + int(p.rng.choice([0, 0, 6]))
    p.image[base : base + 7] = (178, 175, 170)
    p.image[base + 7 :] = gradient((98, 98, 104), (72, 72, 78), HEIGHT - base - 7, WIDTH)
    p.image[base:] *= 0.9 + 0.2 * p.place.ground[10:]
    middle = base + 7 + (HEIGHT - base - 7) // 2
    for left in range(p.rng.randint(0, 20), WIDTH, 36):
        p.image[middle - 1 : middle + 2, left : left + 19] = (235, 225, 150)


def _night(p: Painter) -> None:
    p.sky((10, 12, 45), (60, 50, 110), 8)
    p.image[: p.horizon] += p.place.clouds[..., None] * np.array((18, 7, 27), np.float32)
    for _ in range(p.rng.randint(60, 110)):
        x, y = p.spot(0, WIDTH, 0, p.horizon)
        disc(p.image, x, y, 1 if p.rng.rand() < 0.4 else 0.2, (255, 250, p.rng.randint(190, 255)))
    x, y = p.spot(30, WIDTH - 30, 16, 32)
    disc(p.image, x, y, 11, (250, 245, 215))
    disc(p.image, x + 4, y - 2, 2, (225, 215, 180))
    disc(p.image, x - 4, y + 4, 3, (225, 215, 180))
    p.hills(p.rng.randint(12, 26), (25, 28, 60), (30, 32, 66))
    p.ground(p.vary((35, 50, 75), 8), p.vary((15, 25, 42), 6), 0.75, 0.5)


_PAINT = {"grass": _grass, "desert": _desert, "snow": _snow, "sea": _sea, "city": _city, "night": _night}


def paint(background: str, seed: int) -> NDArray[np.uint8]:
    """The place of ``seed`` as ``background``: ``(HEIGHT, WIDTH, 3)`` uint8."""
    painter = Painter(place(seed), np.random.RandomState(7 * seed + BACKGROUNDS.index(background)))
    _PAINT[background](painter)
    return np.clip(painter.image, 0, 255).astype(np.uint8)


@cache
def panorama(background: str, seed: int) -> NDArray[np.uint8]:
    """What `paint` gives, kept once painted (172 kB each)."""
    return paint(background, seed)
