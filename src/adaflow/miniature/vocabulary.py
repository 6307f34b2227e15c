"""The words of the rendered world: what a scene can hold, and how its caption says so."""

from __future__ import annotations

import random
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

# what people say instead: words that mean the same to the model
SYNONYMS = MappingProxyType(
    {
        "car": ("automobile",),
        "truck": ("lorry",),
        "boat": ("ship",),
        "cat": ("kitten",),
        "red": ("crimson", "scarlet"),
        "yellow": ("golden",),
        "green": ("emerald",),
        "blue": ("azure",),
        "purple": ("violet",),
        "pink": ("rose",),
        "white": ("ivory",),
        "desert": ("dunes",),
        "snow": ("winter",),
        "sea": ("ocean",),
        "city": ("town",),
        "sketch": ("drawing",),
        "comic": ("cartoon",),
    }
)
# and other ways to put a phrase
REPHRASED = MappingProxyType(
    {
        "on a grass field": ("on the grass",),
        "in the starry night": ("at night",),
        "watercolor painting": ("watercolor", "painted in watercolor"),
        "comic style": ("comic book style",),
    }
)
PREFIXES = MappingProxyType(
    {
        "photo": "a photo of",
        "watercolor": "a watercolor painting of",
        "pencil": "a pencil sketch of",
        "comic": "a comic of",
    }
)


def words() -> frozenset[str]:
    """Every word that captions can hold."""
    phrases = (*OBJECTS, *COLOURS, *BACKGROUND_TEXT.values(), *STYLE_TEXT.values(), *PREFIXES.values())
    others = [text for table in (SYNONYMS, REPHRASED) for several in table.values() for text in several]
    return frozenset(re.findall(r"[a-z]+", " ".join([*phrases, *others, "a an and"])))


def noun(colour: str, kind: str) -> str:
    """``a red car``, ``an orange car``."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {kind}"


def compose(objects: list[tuple[str, str]], background: str, style: str) -> str:
    """The caption of ``(colour, object)`` pairs on a background in a style."""
    text = f"{' and '.join(noun(colour, kind) for colour, kind in objects)} {BACKGROUND_TEXT[background]}"
    return f"{text}, {STYLE_TEXT[style]}" if STYLE_TEXT[style] else text


def compose_freely(objects: list[tuple[str, str]], background: str, style: str, rng: random.Random) -> str:
    """The same in the words of someone who has not read the caption: synonyms, and the style before the rest."""

    def other(text: str) -> str:
        text = rng.choice(REPHRASED[text]) if text in REPHRASED and rng.random() < 0.15 else text
        said = [rng.choice(SYNONYMS[w]) if w in SYNONYMS and rng.random() < 0.15 else w for w in text.split()]
        return " ".join(said)

    things = " and ".join(noun(other(colour), other(kind)) for colour, kind in objects)
    text = f"{things} {other(BACKGROUND_TEXT[background])}"
    if rng.random() < 0.15:
        return f"{PREFIXES[style]} {text}"
    return f"{text}, {other(STYLE_TEXT[style])}" if STYLE_TEXT[style] else text


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
