"""Parts of a file that a browser asks for (RFC 9110, section 14), never longer than `PIECE`.

A page with many videos would hold all of the browser's connections with whole files; pieces set them free again.
"""

from __future__ import annotations

import re

PIECE = 1 << 20
"""Bytes of one answer at most, where a part was asked for."""

_ONE = re.compile(r"bytes=(\d{1,15})?-(\d{1,15})?", re.ASCII)


class Unsatisfiable(Exception):  # noqa: N818 (the standard's word)
    """The part lies beyond the file's end."""


def part_of(header: str | None, size: int) -> range | None:
    """The bytes asked for, at most `PIECE` of them; None for the whole file.

    Several parts at once, other units and what is no range at all are answered with the whole file, as the standard
    allows.

    Raises:
        Unsatisfiable: there is no such part.
    """
    found = _ONE.fullmatch(header.strip()) if header else None
    if found is None or found.groups() == (None, None):
        return None
    first, last = (None if digits is None else int(digits) for digits in found.groups())
    if first is None:
        start, stop = max(0, size - (last or 0)), size
        if last == 0:
            raise Unsatisfiable
    else:
        if last is not None and last < first:
            return None
        start, stop = first, size if last is None else min(last + 1, size)
    if start >= size:
        raise Unsatisfiable
    return range(start, min(stop, start + PIECE))
