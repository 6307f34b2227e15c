"""The words of the rendered world: what a scene can hold, and how its caption says so."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

OBJECTS = ("car", "truck", "boat", "balloon", "fish", "bird", "butterfly", "cat")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
BACKGROUNDS = ("grass", "desert", "snow", "sea", "city", "night")
STYLES = ("photo", "watercolor", "pencil", "comic")
VOCABULARY = MappingProxyType({"object": OBJECTS, "colour": COLOURS, "background": BACKGROUNDS, "style": STYLES})

BACKGROUND_TEXT = MappingProxyType(
    {
        "grass": "on a grass field",
        "desert": "in the desert",
        "snow": "in the snow",
        "sea": "on the sea",
        "city": "in the city",
        "night": "in the starry night",
    }
)
STYLE_TEXT = MappingProxyType(
    {"photo": "", "watercolor": "watercolor painting", "pencil": "pencil sketch", "comic": "comic style"}
)


def noun(colour: str, kind: str) -> str:
    """``a red car``, ``an orange car``."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {kind}"


def compose(objects: list[tuple[str, str]], background: str, style: str) -> str:
    """The caption of ``(colour, object)`` pairs on a background in a style."""
    text = f"{' and '.join(noun(colour, kind) for colour, kind in objects)} {BACKGROUND_TEXT[background]}"
    return f"{text}, {STYLE_TEXT[style]}" if STYLE_TEXT[style] else text


def parse_caption(text: str) -> dict[str, Any]:
    """What a caption says: ``objects`` as ``(colour, object)`` pairs, ``background`` and ``style``.

    Raises:
        ValueError: If ``text`` is not a caption of this world.

    """
    body, _, style_text = text.strip().partition(", ")
    styles = [name for name, words in STYLE_TEXT.items() if words == style_text]
    backgrounds = [name for name, words in BACKGROUND_TEXT.items() if body.endswith(" " + words)]
    if not styles or not backgrounds:
        raise ValueError(f"{text!r} is not a caption of the miniature's world")
    things = body.removesuffix(" " + BACKGROUND_TEXT[backgrounds[0]]).split(" and ")
    matches = [re.fullmatch(rf"an? ({'|'.join(COLOURS)}) ({'|'.join(OBJECTS)})", thing) for thing in things]
    if not all(matches):
        raise ValueError(f"{text!r} is not a caption of the miniature's world")
    objects = [(match[1], match[2]) for match in matches if match]
    return {"objects": objects, "background": backgrounds[0], "style": styles[0]}
