"""What figures are drawn on: two grounds, colours that everybody tells apart, and the bytes that pictures become.

No pyplot and no global state: a figure belongs to who asked for it, and the same picture gives the same bytes. A frame
may be a PIL image, an array or a tensor `[H, W, 3]`, uint8 or floating in [0, 1].
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal, TypeAlias

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image, ImageFont

Frame: TypeAlias = Any
"""A picture `[H, W, 3]`: a PIL image, a numpy array or a tensor."""
Picture: TypeAlias = Figure | Image.Image

DPI = 110
FONT = 9.0
WIDE = 10.0
"""Inches of a figure for a desk; below `NARROW` it is drawn for a telephone."""
NARROW = 6.0
MAP = "cividis"
"""The colours of shares and similarities: even steps of lightness, alike for every kind of colour vision."""


@dataclass(frozen=True)
class Theme:
    """Colours on one ground. The hues are Okabe and Ito's, told apart with every kind of colour vision.

    Attributes:
        ground: Behind everything; "none" leaves a matplotlib figure's ground transparent.
        ink, quiet: Of words; `line`: of grids and of what is only there to help.
        first, second, third, fourth: Of curves and bars, in this order; shape or place always says the same.
        pale: Beside `first` where two of a kind take turns.
    """

    ground: str
    ink: str
    quiet: str
    line: str
    first: str
    second: str
    third: str
    fourth: str
    pale: str


LIGHT = Theme("#ffffff", "#1c1e21", "#5a6068", "#d9dce0", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
DARK = Theme("#16181b", "#e7e9ec", "#a3abb5", "#363b41", "#56B4E9", "#E69F00", "#00b685", "#CC79A7", "#0072B2")
THEMES = {"light": LIGHT, "dark": DARK}


def new_figure(
    width: float, height: float, theme: Theme = LIGHT, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty figure of so many inches; without a layout its axes stay where they are put."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor=theme.ground)
    FigureCanvasAgg(figure)
    return figure


def new_axes(
    width: float,
    height: float,
    theme: Theme = LIGHT,
    rows: int = 1,
    columns: int = 1,
    heights: Sequence[float] | None = None,
    sharex: bool = False,
) -> tuple[Figure, Any]:
    """A figure with its axes in the theme's colours."""
    figure = new_figure(width, height, theme)
    axes = figure.subplots(rows, columns, height_ratios=heights, sharex=sharex)
    for ax in np.atleast_1d(axes).flat:
        in_colours(ax, theme)
    return figure, axes


def in_colours(ax: Axes, theme: Theme) -> None:
    """Give axes the theme's colours."""
    ax.set_facecolor(theme.ground)
    ax.tick_params(labelsize=FONT - 1, colors=theme.quiet, labelcolor=theme.ink)
    for spine in ax.spines.values():
        spine.set_color(theme.quiet)


def bar_in_colours(bar: Colorbar, label: str, theme: Theme) -> None:
    """Name a bar of colours, in the theme's."""
    bar.set_label(label, fontsize=FONT, color=theme.ink)
    bar.ax.tick_params(labelsize=FONT - 1, colors=theme.quiet, labelcolor=theme.ink)
    bar.outline.set_edgecolor(theme.quiet)


def png(picture: Picture) -> bytes:
    """A figure or an image as a PNG file; the same picture gives the same bytes."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(file, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.08)
    else:
        picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def webp(picture: Picture, quality: int = 88, dpi: int = 150) -> bytes:
    """A figure or an image as a WebP file: a tenth of a PNG's bytes where there are photographs."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        former = picture.get_dpi()
        picture.set_dpi(dpi)
        canvas = FigureCanvasAgg(picture)
        canvas.draw()  # once; `savefig` draws everything twice
        image = Image.fromarray(np.asarray(canvas.buffer_rgba()))
        picture.set_dpi(former)
        clear = to_rgba(picture.get_facecolor())[3] < 1
    else:
        image, clear = picture, "A" in picture.getbands()
    image.convert("RGBA" if clear else "RGB").save(file, format="WEBP", quality=quality, method=2)
    return file.getvalue()


def svg(figure: Figure) -> bytes:
    """A figure as an SVG file, sharp at any size; the same figure gives the same bytes."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "adaflow"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def recoloured(drawn: bytes, theme: Theme, other: Theme) -> bytes:
    """An SVG file drawn in one theme as it would have been drawn in another, in a hundredth of the time.

    Only for figures of lines and words: each colour must be one of the theme's.
    """
    return _replaced(drawn.decode(), theme, asdict(other)).encode()


def element(figure: Figure, label: str, kind: str = "", theme: Theme = LIGHT) -> str:
    """A figure of lines and words as an element for HTML, in the colours that its page sets (`colours`).

    Args:
        figure: Drawn in `theme`, each of its colours one of the theme's.
        label: What is read to those who do not see it.
        kind: A class for the page's stylesheet.
        theme: The figure's.
    """
    drawn = svg(figure).decode()
    body = drawn[drawn.index("<defs>", drawn.index("</metadata>")) :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)  # of the whole page
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))  # other names would be those of the next figure as well
    body = re.sub(r'<!--.*?-->| id="([^"]*)"', lambda at: at[0] if at[1] in used else "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", " ", body)
    width, height = (72 * inches for inches in figure.get_size_inches())
    variables = {name: f"var(--figure-{name})" for name in asdict(theme)}
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'style="stroke-linejoin:round" xmlns:xlink="http://www.w3.org/1999/xlink">' + _replaced(body, theme, variables)
    )


def colours(theme: Theme) -> str:
    """A theme as the values that a stylesheet gives to the colours of each `element`."""
    return " ".join(f"--figure-{name}: {colour};" for name, colour in asdict(theme).items())


def _replaced(drawn: str, theme: Theme, by: dict[str, str]) -> str:
    names = {colour.lower(): name for name, colour in asdict(theme).items()}
    return re.sub(r"#[0-9a-f]{6}\b", lambda at: by[names[at[0]]].lower() if at[0] in names else at[0], drawn)


def as_array(values: Any) -> np.ndarray:
    """An array or tensor as float64."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def pixels(frame: Frame) -> np.ndarray:
    """A picture as uint8 `[H, W, 3]`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(frame, Image.Image):
        frame = frame.convert("RGB")
    if isinstance(frame, torch.Tensor):
        frame = frame.detach().cpu()
        frame = (frame.float() if frame.is_floating_point() else frame).numpy()
    found = np.asarray(frame)
    if found.ndim != 3 or found.shape[2] != 3 or not found.size:
        raise ValueError(f"a picture has shape {found.shape}; wanted [H, W, 3]")
    if np.issubdtype(found.dtype, np.floating):
        found = np.rint(np.clip(np.nan_to_num(found), 0, 1) * 255).astype(np.uint8)
    if found.dtype != np.uint8:
        raise ValueError(f"a picture is of type {found.dtype}; wanted uint8, or floating in [0, 1]")
    return found


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of words in pictures, which comes with Pillow."""
    return ImageFont.load_default(size)


def fitted(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, cut to a width in pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def scaled(picture: Frame, width: int) -> Image.Image:
    """A picture of another width, its shape kept: smooth when shrinking; large pixels stay pixels."""
    image = Image.fromarray(pixels(picture))
    kind = Image.Resampling.LANCZOS if width <= image.width else Image.Resampling.NEAREST
    return image.resize((width, max(1, round(image.height * width / image.width))), kind)


def count(number: int, noun: str) -> str:
    """A number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
