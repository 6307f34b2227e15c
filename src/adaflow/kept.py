"""The tokens that keyframes keep of each other for attention: drawn over the keyframes (Fig. 9), and as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageColor

from .canvas import (
    DPI,
    FONT,
    LIGHT,
    MAP,
    NARROW,
    Frame,
    Theme,
    as_array,
    bar_in_colours,
    count,
    in_colours,
    new_figure,
    pixels,
)
from .sheets import contact_sheet


def kept_tokens_sheet(
    images: Sequence[Frame], counts: Any, tokens: int | None = None, *, theme: Theme = LIGHT, width: float = 7.7
) -> Figure:
    """How much of each keyframe each keyframe keeps: a matrix, with the keyframes along its sides where there is room.

    Args:
        images: The keyframes.
        counts: `[M, M]`, from `slimming.kept_per_keyframe`: row i tells what keyframe i keeps of keyframe j.
        tokens: Tokens of a keyframe; by default the highest count, as a keyframe keeps all of its own.
        theme: Colours; `width`: inches.

    Raises:
        ValueError: there are not as many keyframes as counts.
    """
    share = as_array(counts)
    keyframes = len(share)
    if len(images) != keyframes:
        raise ValueError(f"there are {len(images)} keyframes and counts for {keyframes}")
    share = share / (tokens or max(share.max(), 1))
    wide = width > NARROW
    pictured = keyframes <= (24 if wide else 12)
    figure = new_figure(width, width - 0.8 if wide else width + 0.3, theme)
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 9), height_ratios=(1, 9), wspace=0.02, hspace=0.02)
    ax = figure.add_subplot(grid[1, 1])
    in_colours(ax, theme)
    shown = ax.imshow(share, cmap=MAP, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    ax.tick_params(bottom=True, labelbottom=True, left=not pictured, labelleft=not pictured)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=12 if wide else 6, integer=True))
    ax.set_xlabel("… of keyframe j", fontsize=FONT, color=theme.ink)
    if keyframes <= (16 if wide else 8):
        for i in range(keyframes):
            for j in range(keyframes):
                colour = "#ffffff" if share[i, j] < 0.55 else LIGHT.ink
                ax.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=FONT - 2, color=colour)
    title = "Tokens kept for attention, by query (row) and source (column)" if wide else "Tokens kept for attention"
    if pictured:
        above, beside = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 0])
        size = max(24, int((width - 1.2) * DPI * 0.85 / keyframes))
        small = [_tile(image, size, theme) for image in images]
        above.imshow(np.concatenate(small, axis=1), aspect="auto", extent=(-0.5, keyframes - 0.5, 1, 0))
        beside.imshow(np.concatenate(small, axis=0), aspect="auto", extent=(0, 1, keyframes - 0.5, -0.5))
        for other in (above, beside):
            in_colours(other, theme)
            other.set(xticks=[], yticks=[])
        beside.set_ylabel("what keyframe i keeps …", fontsize=FONT, color=theme.ink)
        beside.set_yticks(range(keyframes), [str(i) for i in range(keyframes)], fontsize=FONT - 1)
        above.set_title(title, fontsize=FONT + 1, color=theme.ink)
    else:
        ax.set_ylabel("what keyframe i keeps …", fontsize=FONT, color=theme.ink)
        ax.set_title(title, fontsize=FONT + 1, color=theme.ink)
    percent = lambda x, _: f"{100 * x:.0f} %"  # noqa: E731
    where = {"fraction": 0.04, "pad": 0.02} if wide else {"fraction": 0.05, "pad": 0.02, "location": "bottom"}
    bar = figure.colorbar(shown, ax=figure.axes, format=percent, **where)
    bar_in_colours(bar, "share of keyframe j's tokens", theme)
    return figure


def kept_token_tiles(
    images: Sequence[Frame], kept: Any, grid: tuple[int, int], query: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """The keyframes as one of them sees them: what it keeps as it is, the rest grey and dark.

    Args:
        images: The keyframes.
        kept: `[M, m]`, from `slimming.kept_tokens` at one resolution.
        grid: Height and width of that resolution in tokens.
        query: The keyframe that looks.

    Returns:
        The pictures, and the share of each that is kept, `[M]`.

    Raises:
        ValueError: the lists do not belong to these keyframes and this grid.
        IndexError: there is no such keyframe.
    """
    tokens = grid[0] * grid[1]
    lists = as_array(kept).astype(np.int64)
    if lists.ndim != 2 or len(lists) != len(images) or lists.min() < 0 or lists.max() >= len(images) * tokens:
        raise ValueError(f"the tokens kept do not belong to {count(len(images), 'keyframe')} of {tokens} tokens")
    if not 0 <= query < len(images):
        raise IndexError(f"keyframe {query} of {len(images)}")
    mask = np.zeros(len(images) * tokens, dtype=bool)
    mask[lists[query]] = True
    masks = mask.reshape(len(images), *grid)
    shown = []
    for image, seen in zip(images, masks, strict=True):
        picture = pixels(image)
        large = np.asarray(Image.fromarray(seen).resize(picture.shape[1::-1], Image.Resampling.NEAREST))
        grey = picture.mean(axis=2, keepdims=True)
        dark = np.broadcast_to(grey * 0.14 + 20, picture.shape).astype(np.uint8)
        shown.append(np.where(large[..., None], picture, dark))
    return shown, masks.mean(axis=(1, 2))


def kept_tokens_masks(
    images: Sequence[Frame],
    kept: Any,
    grid: tuple[int, int],
    query: int,
    labels: Sequence[str] | None = None,
    *,
    width: int = 1200,
    theme: Theme = LIGHT,
) -> Image.Image:
    """The keyframe sheet with what one of the keyframes keeps of each, the rest grey and dark (Fig. 9).

    Args:
        images: The keyframes.
        kept: `[M, m]`, from `slimming.kept_tokens` at one resolution.
        grid: Height and width of that resolution in tokens.
        query: The keyframe that looks; it has a frame.
        labels: What stands below each; by default its number and how much of it is kept.
        width: Of the sheet, in pixels; `theme`: colours.
    """
    tiles, shares = kept_token_tiles(images, kept, grid, query)
    below = [kept_label(j, share, query) for j, share in enumerate(shares)]
    return contact_sheet(tiles, labels or below, width=width, marked=query, theme=theme)


def framed(picture: Frame, colour: str = LIGHT.second) -> np.ndarray:
    """A copy of a picture with a frame inside its border."""
    out = pixels(picture).copy()
    thick = max(2, out.shape[1] // 60)
    inner = out[thick:-thick, thick:-thick].copy()
    out[:] = ImageColor.getrgb(colour)
    out[thick:-thick, thick:-thick] = inner
    return out


def kept_label(keyframe: int, share: float, query: int) -> str:
    """What stands below a keyframe of `kept_token_tiles`."""
    return f"{keyframe}: {100 * share:.0f} %" + (", query" if keyframe == query else "")


def _tile(frame: Frame, size: int, theme: Theme) -> np.ndarray:
    """A picture in the middle of a square of the ground's colour, with a margin."""
    image = Image.fromarray(pixels(frame))
    image.thumbnail((size - 4, size - 4))
    tile = Image.new("RGB", (size, size), theme.ground)
    tile.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(tile)
