"""One page that shows a result: a single HTML file that holds its pictures and videos and needs no network."""

from __future__ import annotations

import base64
import contextlib
import html
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .figures import Picture, png

LARGEST_VIDEO = 24 * 2**20
"""Bytes of a video up to which it is put into the page; a larger one is named instead."""


@dataclass(frozen=True)
class Shown:
    """A picture of the page: a matplotlib figure, a PIL image, or a PNG file's bytes."""

    picture: Picture | bytes
    caption: str
    description: str = ""
    """For readers who do not see it; the caption where empty."""


@dataclass(frozen=True)
class Film:
    """A small MP4 of the page: its bytes, or the path of a file."""

    video: bytes | Path | str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, text (empty lines part paragraphs), a table of names and values, and items."""

    heading: str
    text: str = ""
    table: Mapping[str, Any] | None = None
    items: Iterable[Shown | Film] = ()


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
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body=body)
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
    parts += [_shown(item) if isinstance(item, Shown) else _film(item) for item in section.items]
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _shown(item: Shown) -> str:
    data = item.picture if isinstance(item.picture, bytes) else png(item.picture)
    image = f'<img src="{_data("image/png", data)}" alt="{_escape(item.description or item.caption)}">'
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
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
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
"""
