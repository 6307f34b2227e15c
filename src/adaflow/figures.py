"""Pictures of what the method does to a video: y-t slice with cuts (Fig. 8), heatmaps (Fig. 2b), kept tokens (Fig. 9).

Functions that draw axes return a matplotlib `Figure`, made without pyplot and so without global state; those that only
put frames side by side return a PIL image. `png` turns either into bytes. A frame may be a PIL image, an array or a
tensor `[H, W, 3]`, uint8 or floating in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from .config import KeyframeConfig
from .keyframes import Partition

Frame: TypeAlias = Any
"""A picture `[H, W, 3]`: a PIL image, a numpy array or a tensor."""
Picture: TypeAlias = Figure | Image.Image

# Okabe and Ito's colours, told apart with every kind of colour vision
BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#222222"
LIGHT = "#d9e6ef"
DPI = 110
FONT = 9


def yt_plot(columns: Any, partition: Partition, title: str = "One column of pixels over time") -> Figure:
    """A video as the history of one column of its pixels, with a line where each clip starts (Fig. 8).

    Args:
        columns: `[n, H, 3]`: the same column of each frame.
        partition: The clips.
        title: What stands above.
    """
    pixels = _pixels(columns)
    if len(pixels) != partition.frames:
        raise ValueError(f"there are {len(pixels)} columns of pixels and {partition.frames} frames")
    figure, (upper, lower) = _axes(10, 3.6, rows=2, heights=(12, 1), sharex=True)
    upper.imshow(
        pixels.transpose(1, 0, 2),
        aspect="auto",
        interpolation="antialiased",
        extent=(0, len(pixels), len(pixels[0]), 0),
    )
    width = 1.2 if len(partition) < 100 else 0.6
    cuts, bottom = partition.starts[1:], len(pixels[0])
    upper.vlines(
        cuts, 0, bottom, color="white", linewidth=2.2 * width, alpha=0.8
    )  # orange on white: seen on any picture
    upper.vlines(cuts, 0, bottom, color=ORANGE, linewidth=width, linestyle=(0, (4, 2)))
    spans = [(clip.start, len(clip)) for clip in partition.clips]
    lower.broken_barh(spans, (0, 1), facecolors=[BLUE if c % 2 else SKY for c in range(len(spans))], edgecolors="none")
    upper.set_title(
        f"{title}: {_count(partition.frames, 'frame')}, {_count(len(partition), 'clip')}", fontsize=FONT + 1
    )
    upper.set_ylabel("height (pixels)", fontsize=FONT)
    upper.tick_params(bottom=False, labelbottom=False)
    lower.set(xlim=(0, partition.frames), ylim=(0, 1), yticks=[])
    lower.set_ylabel("clips", fontsize=FONT, rotation=0, ha="right", va="center")
    lower.set_xlabel("frame", fontsize=FONT)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def heatmap_pair(
    frame_i: Frame, frame_j: Frame, heatmap: Any, labels: tuple[str, str] = ("frame i", "frame j"), low: float = 0.0
) -> Figure:
    """Two frames, and how well each place of the first is found in the second (Fig. 2b).

    Args:
        frame_i: The frame that the map belongs to.
        frame_j: The frame it was compared with.
        heatmap: `[h, w]`, from `keyframes.heatmap(f_i, f_j)`.
        labels: What the frames are called.
        low: The similarity at which the colours begin; they end at 1.
    """
    first, second = _pixels(frame_i), _pixels(frame_j)
    heat = _array(heatmap)
    tall = max(first.shape[0] / first.shape[1], second.shape[0] / second.shape[1])
    figure, axes = _axes(11, 0.9 + 3.4 * min(tall, 1.8), columns=3)
    for ax, pixels, label in zip(axes, (first, second), labels, strict=False):
        ax.imshow(pixels, interpolation="antialiased")
        ax.set_title(label, fontsize=FONT + 1)
    shown = axes[2].imshow(
        heat, cmap="cividis", vmin=low, vmax=1, interpolation="nearest", extent=(0, first.shape[1], first.shape[0], 0)
    )
    axes[2].set_title(f"{labels[0]} found in {labels[1]}: mean {heat.mean():.2f}", fontsize=FONT + 1)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    bar = figure.colorbar(
        shown, ax=axes[2], fraction=0.046 * min(tall, 1), pad=0.03, extend="min" if low > 0 else "neither"
    )
    bar.set_label("best cosine similarity", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    return figure


def kept_tokens_sheet(images: Sequence[Frame], counts: Any, tokens: int | None = None) -> Figure:
    """How much of each keyframe each keyframe keeps: a matrix, with the keyframes along its sides where there is room.

    Args:
        images: The keyframes.
        counts: `[M, M]`, from `slimming.kept_per_keyframe`: row i tells what keyframe i keeps of keyframe j.
        tokens: Tokens of a keyframe; by default the highest count, as a keyframe keeps all of its own.
    """
    share = _array(counts)
    keyframes = len(share)
    if len(images) != keyframes:
        raise ValueError(f"there are {len(images)} keyframes and counts for {keyframes}")
    share = share / (tokens or max(share.max(), 1))
    pictured = keyframes <= 24
    side = 6.5 if pictured else 5.5
    figure = _figure(side + 1.2, side + 0.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 9), height_ratios=(1, 9), wspace=0.02, hspace=0.02)
    ax = figure.add_subplot(grid[1, 1])
    shown = ax.imshow(share, cmap="cividis", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    ax.tick_params(labelsize=FONT - 1, bottom=True, labelbottom=True, left=not pictured, labelleft=not pictured)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    ax.set_xlabel("… of keyframe j", fontsize=FONT)
    if keyframes <= 16:
        for i in range(keyframes):
            for j in range(keyframes):
                colour = "white" if share[i, j] < 0.55 else BLACK
                ax.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=FONT - 2, color=colour)
    if pictured:
        above, beside = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 0])
        size = max(24, int(side * DPI * 0.85 / keyframes))
        small = [_tile(image, size) for image in images]
        above.imshow(np.concatenate(small, axis=1), aspect="auto", extent=(-0.5, keyframes - 0.5, 1, 0))
        beside.imshow(np.concatenate(small, axis=0), aspect="auto", extent=(0, 1, keyframes - 0.5, -0.5))
        for other in (above, beside):
            other.set(xticks=[], yticks=[])
        beside.set_ylabel("what keyframe i keeps …", fontsize=FONT)
        beside.set_yticks(range(keyframes), [str(i) for i in range(keyframes)], fontsize=FONT - 1)
        above.set_title("Tokens kept for attention, by query keyframe (row) and source (column)", fontsize=FONT + 1)
    else:
        ax.set_ylabel("what keyframe i keeps …", fontsize=FONT)
        ax.set_title("Tokens kept for attention, by query keyframe (row) and source (column)", fontsize=FONT + 1)
    bar = figure.colorbar(shown, ax=figure.axes, fraction=0.04, pad=0.02, format=lambda x, _: f"{100 * x:.0f} %")
    bar.set_label("share of keyframe j's tokens", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    return figure


def kept_tokens_masks(
    images: Sequence[Frame], kept: Any, grid: tuple[int, int], query: int, labels: Sequence[str] | None = None
) -> Image.Image:
    """The keyframes as one of them sees them: what it keeps in colour, the rest dark (Fig. 9).

    Args:
        images: The keyframes.
        kept: `[M, m]`, from `slimming.kept_tokens` at one resolution.
        grid: Height and width of that resolution in tokens.
        query: The keyframe that looks.
        labels: What stands below each; by default its number and how much of it is kept.
    """
    tokens = grid[0] * grid[1]
    mask = np.zeros(len(images) * tokens, dtype=bool)
    mask[_array(kept)[query].astype(np.int64)] = True
    dimmed, below = [], []
    for j, (image, seen) in enumerate(zip(images, mask.reshape(len(images), *grid), strict=True)):
        pixels = _pixels(image)
        large = np.asarray(Image.fromarray(seen).resize(pixels.shape[1::-1], Image.Resampling.NEAREST))
        dark = (pixels * 0.12 + 20).astype(np.uint8)
        dimmed.append(np.where(large[..., None], pixels, dark))
        below.append(f"{j}: {100 * seen.mean():.0f} %" + (", query" if j == query else ""))
    return contact_sheet(dimmed, labels or below)


def contact_sheet(
    images: Iterable[Frame], labels: Iterable[str], columns: int | None = None, width: int = 1200
) -> Image.Image:
    """Pictures in a grid, a line of text below each.

    Args:
        images: The pictures; they are made equally wide.
        labels: A short text for each.
        columns: Pictures in a row; by default as many as suit their number.
        width: Of the sheet, in pixels.
    """
    pictures = [Image.fromarray(_pixels(image)) for image in images]
    texts = [str(label) for label in labels]
    if not pictures or len(texts) != len(pictures):
        raise ValueError(f"there are {len(pictures)} pictures and {len(texts)} labels")
    across = min(len(pictures), columns or max(3, min(10, round(len(pictures) ** 0.5 * 1.3))))
    gap, text = 8, 22
    cell = max(16, (width - gap) // across - gap)
    cell = min(cell, max(2 * max(p.width for p in pictures), 96))
    pictures = [p.resize((cell, max(1, round(p.height * cell / p.width))), _resampling(p, cell)) for p in pictures]
    down = -(-len(pictures) // across)
    tall = [max(p.height for p in pictures[row * across : (row + 1) * across]) for row in range(down)]
    sheet = Image.new("RGB", (across * (cell + gap) + gap, sum(tall) + down * (text + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = _font(13)
    top = gap
    for row in range(down):
        for column, index in enumerate(range(row * across, min((row + 1) * across, len(pictures)))):
            left = gap + column * (cell + gap)
            sheet.paste(pictures[index], (left, top))
            draw.text((left, top + tall[row] + 3), _fitted(texts[index], font, cell), fill=BLACK, font=font)
        top += tall[row] + text + gap
    return sheet


def similarity_curves(scores: Any, partition: Partition, config: KeyframeConfig | None = None) -> Figure:
    """The two similarities that decided about each frame, the thresholds, and where clips start.

    Args:
        scores: `[n, 2]`, from `keyframes.partition_with_scores`: mean and lowest window.
        partition: The clips.
        config: Whose thresholds are drawn.
    """
    config = (config or KeyframeConfig()).completed()
    values = _array(scores)
    if values.shape != (partition.frames, 2):
        raise ValueError(f"scores have shape {values.shape}; wanted {(partition.frames, 2)}")
    figure, ax = _axes(10, 3.4)
    frames = np.arange(partition.frames)
    kinds = (
        ("mean", values[:, 0], config.mean_threshold, BLUE, "o", "-"),
        ("lowest window", values[:, 1], config.window_threshold, ORANGE, "s", "--"),
    )
    dots = "" if partition.frames > 1 else "."
    cuts = np.array(partition.starts[1:], dtype=int)
    ax.vlines(cuts, 0, 1, transform=ax.get_xaxis_transform(), color="#999999", linewidth=0.7, zorder=0)
    for name, curve, threshold, colour, marker, style in kinds:
        ax.plot(frames, curve, color=colour, linewidth=1.1, linestyle=style, marker=dots, label=name)
        ax.axhline(threshold, color=colour, linewidth=0.9, linestyle=":", label=f"{name}: threshold {threshold:g}")
        below = cuts[curve[cuts] < threshold]
        ax.plot(below, curve[below], marker, color=colour, markersize=4, markeredgecolor=BLACK, markeredgewidth=0.6)
    length = cuts[(values[cuts, 0] >= config.mean_threshold) & (values[cuts, 1] >= config.window_threshold)]
    if len(length):
        label = f"longest clip ({config.longest_clip})"
        ax.plot(length, values[length, 0], "D", color=GREEN, markersize=5, markeredgecolor=BLACK, label=label)
    lowest = min(values.min(), config.window_threshold, config.mean_threshold)
    ax.set(xlim=(-0.5, max(partition.frames - 0.5, 0.5)), ylim=(lowest - 0.05, 1.03))
    ax.set_xlabel("frame", fontsize=FONT)
    ax.set_ylabel("similarity to the clip's first frame", fontsize=FONT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"Similarity to the clip's first frame; {_count(len(partition), 'clip')}", fontsize=FONT + 1)
    ax.legend(fontsize=FONT - 1, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=5, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def side_by_side(
    frames_a: Sequence[Frame],
    frames_b: Sequence[Frame],
    labels: tuple[str, str] = ("source", "edited"),
    titles: Sequence[str] | None = None,
    width: float = 11,
) -> Figure:
    """Two rows of frames, each frame of the one above its partner in the other.

    Args:
        frames_a: The upper row.
        frames_b: The lower row.
        labels: The rows' names.
        titles: A short text above each column.
        width: Of the figure, in inches.
    """
    rows = [[_pixels(frame) for frame in frames] for frames in (frames_a, frames_b)]
    count = len(rows[0])
    if not count or len(rows[1]) != count or (titles is not None and len(titles) != count):
        raise ValueError(
            f"there are {count} and {len(rows[1])} frames; wanted as many of both, and a title each or none"
        )
    gap, left, above = 0.05, 0.3, 0.3 if titles else 0.05
    cell = min((width - left) / count - gap, 4.0)
    tall = [cell * max(p.shape[0] / p.shape[1] for p in row) for row in rows]
    wide, high = left + count * (cell + gap), above + sum(tall) + 2 * gap
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    bottom = high - above
    for row, label, height in zip(rows, labels, tall, strict=True):
        bottom -= height
        middle = (bottom + height / 2) / high
        figure.text(left / 2 / wide, middle, label, rotation=90, ha="center", va="center", fontsize=FONT + 1)
        for column, pixels in enumerate(row):
            x = left + column * (cell + gap)
            ax = figure.add_axes((x / wide, bottom / high, cell / wide, height / high))
            ax.imshow(pixels, interpolation="antialiased")
            ax.set_axis_off()
            if titles and row is rows[0]:
                figure.text(
                    (x + cell / 2) / wide, 1 - 0.15 / high, titles[column], ha="center", va="center", fontsize=FONT
                )
        bottom -= gap
    return figure


def png(picture: Picture) -> bytes:
    """A figure or an image as a PNG file; the same picture gives the same bytes."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(file, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.08)
    else:
        picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _axes(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    heights: Sequence[float] | None = None,
    sharex: bool = False,
) -> tuple[Figure, Any]:
    figure = _figure(width, height)
    axes = figure.subplots(rows, columns, height_ratios=heights, sharex=sharex)
    each: Axes
    for each in np.atleast_1d(axes).flat:
        each.tick_params(labelsize=FONT - 1)
    return figure, axes


def _array(values: Any) -> np.ndarray:
    """An array or tensor as float64."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _pixels(frame: Frame) -> np.ndarray:
    """A picture as uint8 `[H, W, 3]`."""
    if isinstance(frame, Image.Image):
        frame = frame.convert("RGB")
    if isinstance(frame, torch.Tensor):
        frame = frame.detach().cpu()
        frame = (frame.float() if frame.is_floating_point() else frame).numpy()
    pixels = np.asarray(frame)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"a picture has shape {pixels.shape}; wanted [H, W, 3]")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a picture is of type {pixels.dtype}; wanted uint8, or floating in [0, 1]")
    return pixels


def _tile(frame: Frame, size: int) -> np.ndarray:
    """A picture in the middle of a white square, with a margin."""
    image = Image.fromarray(_pixels(frame))
    image.thumbnail((size - 4, size - 4))
    tile = Image.new("RGB", (size, size), "white")
    tile.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(tile)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, cut to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _resampling(image: Image.Image, width: int) -> Image.Resampling:
    """Smooth when shrinking; large pixels stay pixels."""
    return Image.Resampling.LANCZOS if width <= image.width else Image.Resampling.NEAREST


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
