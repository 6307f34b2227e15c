"""One page that shows a result: a single HTML file that holds its pictures and videos and needs no network."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from .canvas import Picture, png
from .disk import disk_errors
from .errors import InputError

LARGEST_VIDEO = 24 * 2**20
"""Bytes of a video up to which it is put into the page; a larger one is named instead."""
TELEPHONE = 640
"""Width in pixels of a screen up to which a picture's `narrow` form is shown."""


@dataclass(frozen=True)
class Shown:
    """A picture of the page: a matplotlib figure, a PIL image, or the bytes of a PNG, WebP or SVG file."""

    picture: Picture | bytes
    caption: str
    description: str = ""
    """For readers who do not see it; the caption where empty."""
    dark: Picture | bytes | None = None
    """The same on a dark ground, for readers who want one."""
    narrow: Picture | bytes | None = None
    """The same drawn for a telephone; `narrow_dark`: on a dark ground."""
    narrow_dark: Picture | bytes | None = None


@dataclass(frozen=True)
class Film:
    """A small MP4 of the page: its bytes, or the path of a file."""

    video: bytes | Path | str
    caption: str


@dataclass(frozen=True)
class Compare:
    """Source and edit as one picture with a line between them that the reader moves, frame by frame or playing.

    Attributes:
        film: An MP4 with the source in its left half and the edit in its right half.
        middles: The middle of the time for which each frame is shown, in seconds.
        caption: What stands below.
        names: Of the two.
    """

    film: bytes
    middles: Sequence[float]
    caption: str
    names: tuple[str, str] = ("source", "edit")


@dataclass(frozen=True)
class Link:
    """A file beside the page, by its path from there."""

    path: str
    caption: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what stands small below it, and whether it is one of the best of its column."""

    text: str
    small: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Columns side by side under their names; the first cell of a line names it."""

    columns: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Grid:
    """Items side by side, as many in a row as there is room for."""

    items: Sequence[Shown | Film | Compare | Link]
    width: int = 26
    """Of an item at least, in units of the text's size."""
    together: bool = False
    """Whether a button plays all films at once."""
    caption: str = ""
    """What stands above."""


Item: TypeAlias = Shown | Film | Compare | Link | Table | Grid


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, text (empty lines part paragraphs), a table of names and values, and items."""

    heading: str
    text: str = ""
    table: Mapping[str, Any] | None = None
    items: Iterable[Item] = ()


Kind: TypeAlias = Literal["edit", "inspect", "page"]
"""Of pages: what `adaflow edit` and `adaflow inspect` write, and any other."""


def write_report(path: Path | str, title: str, sections: Iterable[Section], kind: Kind = "page") -> Path:
    """Writes the page, or leaves what was there: a reader never finds half of it.

    Args:
        path: Where it goes.
        title: The page's title.
        sections: What it says. All text is shown as it is, never read as HTML.
        kind: What `kind_of` says of it.

    Returns:
        The path.

    Raises:
        InputError: a video cannot be read, or the page cannot be written there.
        ResourceError: the disk is full.
    """
    path = Path(path)
    body = "\n".join(_section(section) for section in sections)
    script = policy = ""
    if "<button" in body:  # text is escaped, so it is a grid's or a comparison's; nothing but this very script may run
        code = _part("report.js")
        script = f"<script>{code}</script>\n"
        policy = f" script-src 'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}';"
    page = _PAGE.format(
        title=html.escape(title), style=_part("report.css"), body=body, script=script, policy=policy, kind=kind
    ).encode()
    with disk_errors(path, "written", needed=len(page)):
        _write(path, page)
    return path


def kind_of(path: Path) -> str | None:
    """The kind of a page that `write_report` wrote; None for any other file, and for one that cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_PAGE.encode()))
    except OSError:
        return None
    found = re.search(rb'<meta name="generator" content="AdaFlow, ([a-z]+)">', head)
    return found[1].decode() if found else None


@cache
def _part(name: str) -> str:
    """A file that lies beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(p.strip())}</p>" for p in section.text.split("\n\n") if p.strip()]
    if section.table:
        rows = (f'<tr><th scope="row">{_escape(k)}</th><td>{_escape(v)}</td></tr>' for k, v in section.table.items())
        parts.append(f'<div class="wide"><table>{"".join(rows)}</table></div>')
    parts += [_item(item) for item in section.items]
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _item(item: Item) -> str:
    if isinstance(item, Shown):
        return _shown(item)
    if isinstance(item, Film):
        return _film(item)
    if isinstance(item, Compare):
        return _compare(item)
    if isinstance(item, Table):
        return _table(item)
    if isinstance(item, Link):
        return f'<p><a href="{_escape(quote(item.path))}">{_escape(item.caption)}</a></p>'
    button = '<button type="button" class="together" hidden>Play all from the start</button>' if item.together else ""
    inner = "\n".join(_item(part) for part in item.items)
    caption = f"<p>{_escape(item.caption)}</p>" if item.caption else ""
    return f'<div>{caption}{button}<div class="grid" style="--least: {int(item.width)}rem">\n{inner}\n</div></div>'


def _table(item: Table) -> str:
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in item.columns)
    lines = (
        f'<tr><th scope="row">{_cell(line[0])}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in line[1:]) + "</tr>"
        for line in item.lines
    )
    caption = f"<caption>{_escape(item.caption)}</caption>" if item.caption else ""
    table = f'<table class="columns">{caption}<thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide" tabindex="0" role="region" aria-label="{_escape(item.caption or "table")}">{table}</div>'


def _cell(cell: Cell) -> str:
    text = f"<strong>{_escape(cell.text)}</strong>" if cell.strong else _escape(cell.text)
    return text + (f"<small>{_escape(cell.small)}</small>" if cell.small else "")


def _shown(item: Shown) -> str:
    image = f'<img src="{_image(item.picture)}" alt="{_escape(item.description or item.caption)}">'
    telephone, dark = f"(max-width: {TELEPHONE}px)", "(prefers-color-scheme: dark)"
    others = ((f"{telephone} and {dark}", item.narrow_dark), (telephone, item.narrow), (dark, item.dark))
    sources = [f'<source media="{media}" srcset="{_image(other)}">' for media, other in others if other is not None]
    if sources:  # the first that fits is shown
        image = f"<picture>{''.join(sources)}{image}</picture>"
    return f'<figure><div class="wide">{image}</div><figcaption>{_escape(item.caption)}</figcaption></figure>'


def _compare(item: Compare) -> str:
    caption = f"<figcaption>{_escape(item.caption)}</figcaption>"
    if len(item.film) > LARGEST_VIDEO:
        return (
            f"<figure><p>The video ({len(item.film) / 2**20:.0f} MB) is too large for this page.</p>{caption}</figure>"
        )
    left, right = map(_escape, item.names)
    middles = _escape(json.dumps([round(float(t), 4) for t in item.middles], separators=(",", ":")))
    last = len(item.middles) - 1
    buttons = "".join(
        f'<button type="button"{more}>{text}</button>'
        for text, more in (("Play", ""), ("◀ Frame", ' aria-label="one frame back"'),
                           ("Frame ▶", ' aria-label="one frame on"'), ("Side by side", ' aria-pressed="false"'))
    )  # fmt: skip
    return f"""<figure class="compare" data-middles="{middles}">
<div class="stage" hidden><canvas role="img"></canvas><span class="name left">{left}</span>
<span class="name right">{right}</span></div>
<video controls muted loop playsinline preload="auto" aria-label="{_escape(item.caption)}"
 src="{_data("video/mp4", item.film)}"></video>
<div class="controls" hidden><div class="buttons">{buttons}<output></output></div>
<span class="said">line</span>
<input type="range" class="wipe" min="0" max="1000" value="500" aria-label="line between {left} and {right}">
<span class="said">frame</span>
<input type="range" class="frame" min="0" max="{last}" value="0" aria-label="frame"></div>
{caption}</figure>"""


def _film(item: Film) -> str:
    caption = f"<figcaption>{_escape(item.caption)}</figcaption>"
    name = "the video"
    if isinstance(item.video, bytes):
        data = item.video
        size = len(data)
    else:
        path = Path(item.video)
        name = path.name
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size <= LARGEST_VIDEO else b""
        except OSError as error:
            raise InputError(f"the video {path} cannot be read for the report: {error.strerror or error}") from error
    if size > LARGEST_VIDEO:
        return f"<figure><p>{_escape(name)} ({size / 2**20:.0f} MB) is too large for this page.</p>{caption}</figure>"
    source = _data("video/mp4", data)
    label = _escape(item.caption)
    return (
        f'<figure><video controls muted loop playsinline aria-label="{label}" src="{source}"></video>{caption}</figure>'
    )


def _image(picture: Picture | bytes) -> str:
    data = picture if isinstance(picture, bytes) else png(picture)
    if data.startswith(b"<?xml"):
        return _data("image/svg+xml", data)
    return _data("image/webp" if data[8:12] == b"WEBP" else "image/png", data)


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _escape(value: Any) -> str:
    return html.escape(f"{value:g}" if isinstance(value, float) else str(value))


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}.", dir=path.parent)  # a name has 255 bytes at most
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp's file is its owner's alone
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="AdaFlow, {kind}">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline';{policy} base-uri 'none'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
{script}</body>
</html>
"""
