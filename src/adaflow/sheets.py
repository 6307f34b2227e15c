"""Frames beside each other: contact sheets, keyframes with the lengths of their clips, source above edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from .canvas import DPI, FONT, LIGHT, WIDE, Frame, Theme, count, fitted, font, pixels, scaled
from .keyframes import Partition

GAP, TEXT, BAR = 8, 22, 6


def contact_sheet(
    images: Iterable[Frame],
    labels: Iterable[str],
    columns: int | None = None,
    width: int = 1200,
    *,
    shares: Sequence[float] | None = None,
    marked: int | None = None,
    theme: Theme = LIGHT,
) -> Image.Image:
    """Pictures in a grid, a line of text below each.

    Args:
        images: The pictures; they are made equally wide.
        labels: A short text for each.
        columns: Pictures in a row; by default as many as suit their number and the width.
        width: Of the sheet, in pixels.
        shares: Of each picture's width, between 0 and 1: how far a bar below it reaches.
        marked: The picture that gets a frame.
        theme: Colours; its ground must be one.

    Raises:
        ValueError: there are no pictures, or not as many labels or shares.
    """
    pictures, texts = [pixels(image) for image in images], [str(label) for label in labels]
    if not pictures or len(texts) != len(pictures) or (shares is not None and len(shares) != len(pictures)):
        raise ValueError(f"there are {len(pictures)} pictures and {len(texts)} labels")
    fitting = max(2, min(10, width // 110))
    across = min(len(pictures), columns or max(min(3, fitting), min(fitting, round(len(pictures) ** 0.5 * 1.3))))
    cell = max(16, (width - GAP) // across - GAP)
    cell = min(cell, max(2 * max(p.shape[1] for p in pictures), 96))
    small = [scaled(picture, cell) for picture in pictures]
    down, below = -(-len(small) // across), TEXT + (BAR if shares is not None else 0)
    tall = [max(p.height for p in small[row * across : (row + 1) * across]) for row in range(down)]
    sheet = Image.new("RGB", (across * (cell + GAP) + GAP, sum(tall) + down * (below + GAP) + GAP), theme.ground)
    draw, face = ImageDraw.Draw(sheet), font(13)
    for index, picture in enumerate(small):
        row, column = divmod(index, across)
        left, top = GAP + column * (cell + GAP), GAP + sum(tall[:row]) + row * (below + GAP)
        if index == marked:
            draw.rectangle((left - 3, top - 3, left + cell + 2, top + picture.height + 2), fill=theme.second)
        sheet.paste(picture, (left, top))
        under = top + tall[row] + 3
        if shares is not None:
            draw.rectangle((left, under, left + cell - 1, under + 3), fill=theme.line)
            reach = round(cell * min(max(shares[index], 0.0), 1.0))
            if reach:
                draw.rectangle((left, under, left + reach - 1, under + 3), fill=theme.first)
            under += BAR
        draw.text((left, under), fitted(texts[index], face, cell), fill=theme.ink, font=face)
    return sheet


def clip_labels(partition: Partition, clips: Sequence[int] | None = None) -> list[str]:
    """What stands below the keyframe of each clip: its frames and their number."""
    some = range(len(partition)) if clips is None else clips
    chosen = [partition.clips[c] for c in some]
    return [f"{clip.start}-{clip.stop - 1}, {count(len(clip), 'frame')}" for clip in chosen]


def keyframe_sheet(
    images: Sequence[Frame],
    partition: Partition,
    clips: Sequence[int] | None = None,
    *,
    width: int = 1200,
    theme: Theme = LIGHT,
) -> Image.Image:
    """One keyframe of each clip, with the clip's frames, their number, and a bar as long as the clip is beside others.

    Args:
        images: A keyframe of each clip shown.
        partition: All clips.
        clips: Which clips are shown; by default all.
        width: Of the sheet, in pixels; `theme`: colours.

    Raises:
        ValueError: there are not as many pictures as clips.
    """
    longest = max(len(clip) for clip in partition.clips)
    shown = range(len(partition)) if clips is None else clips
    shares = [len(partition.clips[c]) / longest for c in shown]
    return contact_sheet(images, clip_labels(partition, clips), width=width, shares=shares, theme=theme)


def side_by_side(
    frames_a: Sequence[Frame],
    frames_b: Sequence[Frame],
    labels: tuple[str, str] = ("source", "edited"),
    titles: Sequence[str] | None = None,
    width: float = WIDE + 1,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Two rows of frames, each frame of the one above its partner in the other.

    Args:
        frames_a: The upper row.
        frames_b: The lower row.
        labels: The rows' names.
        titles: A short text above each column.
        width: Of the figure, in inches; `theme`: colours.

    Raises:
        ValueError: the rows are empty or differ in length, or there is no title for each column.
    """
    rows = [[pixels(frame) for frame in frames] for frames in (frames_a, frames_b)]
    number = len(rows[0])
    if not number or len(rows[1]) != number or (titles is not None and len(titles) != number):
        raise ValueError(
            f"there are {number} and {len(rows[1])} frames; wanted as many of both, and a title each or none"
        )
    gap, left, above = 0.05, 0.3, 0.3 if titles else 0.05
    cell = min((width - left) / number - gap, 4.0)
    tall = [cell * max(p.shape[0] / p.shape[1] for p in row) for row in rows]
    wide, high = left + number * (cell + gap), above + sum(tall) + 2 * gap
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor=theme.ground)
    FigureCanvasAgg(figure)
    bottom = high - above
    for row, label, height in zip(rows, labels, tall, strict=True):
        bottom -= height
        figure.text(
            left / 2 / wide, (bottom + height / 2) / high, label, rotation=90, ha="center", va="center",
            fontsize=FONT + 1, color=theme.ink,
        )  # fmt: skip
        for column, picture in enumerate(row):
            x = left + column * (cell + gap)
            ax = figure.add_axes((x / wide, bottom / high, cell / wide, height / high))
            ax.imshow(picture, interpolation="antialiased")
            ax.set_axis_off()
            if titles and row is rows[0]:
                figure.text(
                    (x + cell / 2) / wide, 1 - 0.15 / high, titles[column], ha="center", va="center", fontsize=FONT,
                    color=theme.ink,
                )  # fmt: skip
        bottom -= gap
    return figure


def pair(above: Frame, below: Frame, gap: int = 4) -> Image.Image:
    """One frame above another of the same width; a thin transparent line parts them."""
    upper, lower = pixels(above), pixels(below)
    if upper.shape[1] != lower.shape[1]:
        raise ValueError(f"the frames are {upper.shape[1]} and {lower.shape[1]} pixels wide; wanted the same")
    solid = [np.concatenate([p, np.full((*p.shape[:2], 1), 255, np.uint8)], axis=2) for p in (upper, lower)]
    clear = np.zeros((gap, upper.shape[1], 4), np.uint8)
    return Image.fromarray(np.concatenate([solid[0], clear, solid[1]]))
