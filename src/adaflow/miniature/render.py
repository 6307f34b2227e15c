"""Scenes to pixels, with the exact masks and motion of what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .drawing import Array, triangle_matrix
from .panorama import panorama
from .scene import HEIGHT, WIDTH, Scene
from .sprites import sprite
from .styles import apply_style

Painting = Callable[[str, int], NDArray[np.uint8]]
PURE = 0.98  # coverage from which a pixel shows one thing only
SHADOW_STRENGTH = 0.45


@dataclass(frozen=True)
class Layer:
    """One drawn object: premultiplied RGBA ``(4, h, w)`` with its window in the frame, and its shadow with its own."""

    rgba: Array
    window: tuple[slice, slice]
    shadow: Array | None
    shadow_window: tuple[slice, slice]

    def alpha(self) -> Array:
        """Coverage over the whole frame, as if nothing were before it."""
        full = np.zeros((HEIGHT, WIDTH), np.float32)
        full[self.window] = self.rgba[3]
        return full

    def shade(self) -> Array:
        """Darkness of its shadow over the whole frame."""
        full = np.zeros((HEIGHT, WIDTH), np.float32)
        if self.shadow is not None:
            full[self.shadow_window] = self.shadow
        return full


def _window(x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice]:
    top, bottom = np.clip((np.floor(y0) - 1, np.ceil(y1) + 1), 0, HEIGHT).astype(int)
    left, right = np.clip((np.floor(x0) - 1, np.ceil(x1) + 1), 0, WIDTH).astype(int)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _shadow(x: float, y: float, width: float, height: float, scale: float) -> tuple[Array, tuple[slice, slice]]:
    """A soft flat ellipse under the object; its rim is soft over 5 pixels of the picture without zoom."""
    rx, ry = 0.46 * width, max(2.0 * scale, 0.07 * height)
    y -= scale
    rim = 3 * scale
    window = _window(x - rx - rim, x + rx + rim, y - ry - rim, y + ry + rim)
    rows, columns = window
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + np.float32(0.5 - x)
    radius = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
    distance = (radius - 1) * np.hypot(dx, dy) / np.maximum(radius, 1e-3)  # to the rim, towards the middle
    soft = np.clip(0.5 - distance / (5 * scale), 0, 1)
    return (SHADOW_STRENGTH * soft * soft * (3 - 2 * soft)).astype(np.float32), window


def _layer(scene: Scene, index: int, t: float) -> Layer:
    thing, scale = scene.objects[index], scene.scale(t)
    image = sprite(thing.kind, thing.colour)
    if thing.flip:
        image = image[:, :, ::-1]
    x, y = scene.feet(index, t)
    height, width = (side * scale for side in thing.extent)
    left, top = x - width / 2, y - height
    window = _window(left, left + width, top, top + height)
    rows, columns = window
    vertical = triangle_matrix(top - rows.start, height / image.shape[1], rows.stop - rows.start, image.shape[1])
    across = triangle_matrix(left - columns.start, width / image.shape[2], columns.stop - columns.start, image.shape[2])
    rgba = vertical @ (image @ across.T)
    shadow, shadow_window = _shadow(x, y, width, height, scale) if thing.casts_shadow else (None, window)
    return Layer(rgba, window, shadow, shadow_window)


def _layers(scene: Scene, t: float) -> list[Layer]:
    """The objects as drawn at time ``t``, from the farthest to the nearest."""
    return [_layer(scene, index, t) for index in range(len(scene.objects))]


def _background(scene: Scene, t: float, painting: Painting) -> Array:
    camera, scale = scene.camera(t), scene.scale(t)
    left = int(camera)
    view = painting(scene.background, scene.place)[:, left : left + WIDTH + 1].transpose(2, 0, 1).astype(np.float32)
    if scale == 1:
        share = np.float32(camera - left)
        return view[:, :, :-1] + share * (view[:, :, 1:] - view[:, :, :-1])
    down = triangle_matrix((1 - scale) * HEIGHT / 2, scale, HEIGHT, HEIGHT)
    across = triangle_matrix((1 - scale) * WIDTH / 2 - scale * (camera - left), scale, WIDTH, WIDTH + 1)
    return down @ (view @ across.T)


def render(scene: Scene, t: float = 0.0, painting: Painting = panorama) -> NDArray[np.uint8]:
    """The scene at time ``t`` in frames: ``(128, 224, 3)`` uint8 RGB; `painting` gives the panorama."""
    image = _background(scene, t, painting)
    for layer in _layers(scene, t):
        if layer.shadow is not None:
            image[(slice(None), *layer.shadow_window)] *= 1 - layer.shadow
        patch = image[(slice(None), *layer.window)]
        patch *= 1 - layer.rgba[3]
        patch += layer.rgba[:3]
    if scene.light:
        gain = np.asarray(scene.light.gain(t), np.float32)
        image = np.clip(image * gain[:, None, None], 0, 255)
    styled = np.clip(apply_style(image, scene.style), 0, 255)
    return np.ascontiguousarray(styled.transpose(1, 2, 0).astype(np.uint8))


def render_video(scene: Scene, times: Iterable[float]) -> NDArray[np.uint8]:
    """The scene at some times: ``(n, 128, 224, 3)`` uint8 RGB."""
    return np.stack([render(scene, t) for t in times])


def _visible(layers: list[Layer]) -> list[Array]:
    """Visible coverage of the background and of each object; they sum to one."""
    left = np.ones((HEIGHT, WIDTH), np.float32)
    coverage = []
    for layer in reversed(layers):
        alpha = layer.alpha()
        coverage.append(left * alpha)
        left = left * (1 - alpha)
    return [left, *reversed(coverage)]


def masks(scene: Scene, t: float = 0.0) -> Array:
    """Visible coverage of each object: ``(n_objects, 128, 224)`` float32 in [0, 1]."""
    visible = _visible(_layers(scene, t))
    return np.stack(visible[1:]) if len(visible) > 1 else np.zeros((0, HEIGHT, WIDTH), np.float32)


def shadows(scene: Scene, t: float = 0.0) -> Array:
    """Darkness of each object's shadow before anything covers it: ``(n_objects, 128, 224)`` float32 in [0, 1]."""
    layers = [layer.shade() for layer in _layers(scene, t)]
    return np.stack(layers) if layers else np.zeros((0, HEIGHT, WIDTH), np.float32)


def _shade_over(layers: list[Layer]) -> list[Array]:
    """For the background and each object, the darkness of the shadows that fall on it: those of nearer objects."""
    shades = [np.zeros((HEIGHT, WIDTH), np.float32)]
    for layer in reversed(layers):
        shades.append(1 - (1 - shades[-1]) * (1 - layer.shade()))
    return shades[::-1]


def _moves(scene: Scene, t0: float, t1: float) -> list[tuple[float, float]]:
    """How far the background and each object move from ``t0`` to ``t1``, in pixels of the frame at ``t1``."""
    scale = scene.scale(t1)
    moves = [(scale * (scene.camera(t0) - scene.camera(t1)), 0.0)]
    for thing in scene.objects:
        (x0, y0), (x1, y1) = thing.position(t0), thing.position(t1)
        moves.append((scale * (x1 - x0), scale * (y1 - y0)))
    return moves


def flow(scene: Scene, t0: float, t1: float) -> tuple[Array, NDArray[np.bool_]]:
    """Where each pixel of the frame at ``t0`` is at ``t1``.

    It is the motion of things. Where the scene has a ``light``, colours change along it.

    Returns:
        The displacement ``(128, 224, 2)`` float32, x then y, of what the pixel mostly shows; and its validity
        ``(128, 224)`` bool: at both times inside the frame, uncovered, unmixed and unshadowed.

    """
    before, after = _layers(scene, t0), _layers(scene, t1)
    visible, later = _visible(before), _visible(after)
    shade, later_shade = _shade_over(before), _shade_over(after)
    owner = np.argmax(np.stack(visible), axis=0)
    displacement = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    valid = np.zeros((HEIGHT, WIDTH), bool)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    growth = scene.scale(t1) / scene.scale(t0) - 1
    for index, (move_x, move_y) in enumerate(_moves(scene, t0, t1)):
        dx = growth * (x + 0.5 - WIDTH / 2) + move_x
        dy = growth * (y + 0.5 - HEIGHT / 2) + move_y
        left, top = np.floor(x + dx).astype(int), np.floor(y + dy).astype(int)
        right, bottom = np.ceil(x + dx).astype(int), np.ceil(y + dy).astype(int)
        inside = (left >= 0) & (right < WIDTH) & (top >= 0) & (bottom < HEIGHT)
        good = (later[index] >= PURE) & (later_shade[index] < 0.01)
        rows = [np.clip(edge, 0, HEIGHT - 1) for edge in (top, bottom)]
        columns = [np.clip(edge, 0, WIDTH - 1) for edge in (left, right)]
        shown = np.logical_and.reduce([good[row, column] for row in rows for column in columns])
        here = owner == index
        displacement[here] = np.stack((dx, dy), axis=-1)[here]
        valid |= here & (visible[index] >= PURE) & (shade[index] < 0.01) & inside & shown
    return displacement, valid
