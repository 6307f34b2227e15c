"""One page that shows a result: a single HTML file that holds its pictures and videos and needs no network."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .errors import InputError
from .figures import Picture, png

LARGEST_VIDEO = 24 * 2**20
"""Bytes of a video up to which it is put into the page; a larger one is named instead."""


@dataclass(frozen=True)
class Shown:
    """A picture of the page: a matplotlib figure, a PIL image, or the bytes of a PNG or SVG file."""

    picture: Picture | bytes
    caption: str
    description: str = ""
    """For readers who do not see it; the caption where empty."""
    dark: Picture | bytes | None = None
    """The same on a dark ground, for readers who want one."""


@dataclass(frozen=True)
class Film:
    """A small MP4 of the page: its bytes, or the path of a file."""

    video: bytes | Path | str
    caption: str


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

    items: Sequence[Shown | Film | Link]
    width: int = 26
    """Of an item at least, in units of the text's size."""
    together: bool = False
    """Whether a button plays all films at once."""
    caption: str = ""
    """What stands above."""


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, text (empty lines part paragraphs), a table of names and values, and items."""

    heading: str
    text: str = ""
    table: Mapping[str, Any] | None = None
    items: Iterable[Shown | Film | Link | Table | Grid] = ()


def write_report(path: Path | str, title: str, sections: Iterable[Section]) -> Path:
    """Writes the page, or leaves what was there: a reader never finds half of it.

    Args:
        path: Where it goes.
        title: The page's title.
        sections: What it says. All text is shown as it is, never read as HTML.

    Returns:
        The path.

    Raises:
        InputError: a video cannot be read, or the page cannot be written there.
    """
    path = Path(path)
    body = "\n".join(_section(section) for section in sections)
    script = policy = ""
    if "<button" in body:  # text is escaped, so it is a grid's; nothing but this very script may run
        script = f"<script>{_SCRIPT}</script>\n"
        policy = f" script-src 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}';"
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body=body, script=script, policy=policy)
    try:
        _write(path, page.encode())
    except OSError as error:
        raise InputError(f"the report {path} cannot be written: {error.strerror or error}") from error
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(p.strip())}</p>" for p in section.text.split("\n\n") if p.strip()]
    if section.table:
        rows = (f'<tr><th scope="row">{_escape(k)}</th><td>{_escape(v)}</td></tr>' for k, v in section.table.items())
        parts.append(f'<div class="wide"><table>{"".join(rows)}</table></div>')
    parts += [_item(item) for item in section.items]
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _item(item: Shown | Film | Link | Table | Grid) -> str:
    if isinstance(item, Shown):
        return _shown(item)
    if isinstance(item, Film):
        return _film(item)
    if isinstance(item, Table):
        return _table(item)
    if isinstance(item, Link):
        return f'<p><a href="{_escape(quote(item.path))}">{_escape(item.caption)}</a></p>'
    button = '<button type="button" hidden>Play all from the start</button>' if item.together else ""
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
    if item.dark is not None:
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{_image(item.dark)}">'
        image = f"<picture>{source}{image}</picture>"
    return f'<figure><div class="wide">{image}</div><figcaption>{_escape(item.caption)}</figcaption></figure>'


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
    return _data("image/svg+xml" if data.startswith(b"<?xml") else "image/png", data)


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _escape(value: Any) -> str:
    return html.escape(f"{value:g}" if isinstance(value, float) else str(value))


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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

_SCRIPT = """
for (const button of document.querySelectorAll('button')) {
  const films = [...button.parentElement.querySelectorAll('video')];
  button.hidden = films.length < 2;
  button.onclick = () => films.forEach(film => { film.currentTime = 0; film.play(); });
}
"""

_STYLE = """
:root { --ground: #fff; --ink: #1c1e21; --quiet: #5a6068; --line: #d9dce0; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --ink: #e7e9ec; --quiet: #a3abb5; --line: #363b41; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p, figcaption, td, th { overflow-wrap: anywhere; }
p { max-width: 46rem; white-space: pre-line; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--quiet); min-width: 8rem; }
td { font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
video { display: block; max-width: 100%; height: auto; border-radius: 4px; background: #000; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .35rem; max-width: 46rem; }
a { color: inherit; }
small { display: block; color: var(--quiet); font-size: .8em; font-weight: 400; white-space: nowrap; }
button { font: inherit; padding: .3rem .8rem; cursor: pointer; }
caption { text-align: left; font-weight: 600; padding: .9rem 0 .3rem; position: sticky; left: 0; }
.columns th, .columns td { overflow-wrap: normal; min-width: 0; padding-right: 1.1rem; }
.columns thead th { vertical-align: bottom; }
.columns tbody th { position: sticky; left: 0; background: var(--ground); }
.columns tbody th { min-width: 6.5rem; max-width: 11rem; overflow-wrap: break-word; }
.columns tbody th, .columns strong { color: var(--ink); }
.columns strong { font-weight: 700; }
.grid { display: grid; gap: 0 1.2rem; --one: min(100%, clamp(var(--least), 17vw, 13rem)); }
.grid { grid-template-columns: repeat(auto-fill, minmax(var(--one), 1fr)); }
.grid > * { min-width: 0; margin: .6rem 0; }
.grid img, .grid video { width: 100%; }
picture img { background: none; }
"""
