"""What participants are asked: two questions about sets of videos, in an order of each participant's own.

::

    STUDY/study.json       what the server knows: sets, opaque names of their videos, prompts; no method, no file's name
    STUDY/media/<id>.mp4   the videos
    STUDY/key.json         which method made which video; the server never opens it
    STUDY/answers.db       the answers, of all participants
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

STUDY, KEY, MEDIA, ANSWERS = "study.json", "key.json", "media", "answers.db"
OPAQUE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Question:
    """What is asked of every set: its short name, its title, and the criterion."""

    name: str
    title: str
    text: str


QUESTIONS = (
    Question(
        "quality",
        "Video quality",
        "Which video looks most real, and hardest to tell from one that nobody edited? It should change only what the "
        "description asks for, and leave everything else as it is in the source.",
    ),
    Question(
        "consistency",
        "Temporal consistency",
        "In which video does each thing look the same at every moment, from beginning to end, and does one picture "
        "pass into the next as smoothly as in the source?",
    ),
)
"""The two criteria of the paper's Appendix C, in our words."""


@dataclass(frozen=True)
class Item:
    """One set: a source and the videos among which the best is chosen, by opaque names.

    Attributes:
        frame: Seconds that a picture of the source lasts.
    """

    id: str
    prompt: str
    source_prompt: str
    source: str
    clips: tuple[str, ...]
    frame: float


@dataclass(frozen=True)
class Study:
    """What the server knows.

    Attributes:
        seed: Of the participants' orders.
        media: The bytes of every video, by its opaque name.
    """

    id: str
    title: str
    seed: int
    items: tuple[Item, ...]
    media: Mapping[str, int]

    def item(self, name: str) -> Item | None:
        """The set of that name, if there is one."""
        return next((item for item in self.items if item.id == name), None)

    def order(self, participant: str) -> tuple[Item, ...]:
        """The sets, and the videos of each, as one participant sees them: the same order each time.

        Everybody has another order, so that neither tiredness nor a place on the page favours a method.
        """
        draw = random.Random(f"{self.seed} {participant}")
        items = [
            Item(**{**vars(item), "clips": tuple(draw.sample(item.clips, len(item.clips)))}) for item in self.items
        ]
        draw.shuffle(items)
        return tuple(items)

    def to_json(self) -> dict[str, Any]:
        """What study.json holds."""
        return asdict(self)


def load_study(folder: Path) -> Study:
    """The study in a folder that `adaflow study build` made.

    Raises:
        InputError: there is none, or it is damaged.
    """
    document = read_document(folder / STUDY)
    try:
        items = tuple(Item(**{**item, "clips": tuple(item["clips"])}) for item in document["items"])
        study = Study(**{**document, "items": items})
        names: list[str] = [study.id, *study.media]
        names += [name for item in items for name in (item.id, item.source, *item.clips)]
        if not items or not all(OPAQUE.fullmatch(name) for name in names):
            raise ValueError("a name in it is none that adaflow gives")
        used = {name for item in items for name in (item.source, *item.clips)}
        if missing := [n for n in sorted(used) if n not in study.media or not (folder / MEDIA / f"{n}.mp4").is_file()]:
            raise ValueError(f"the video {missing[0]} is missing")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / STUDY} is damaged ({error}); build the study again") from error
    return study


@dataclass(frozen=True)
class Key:
    """What only the tally knows: the methods in order, of every video its method, of every set its name."""

    methods: Sequence[str]
    clips: Mapping[str, str]
    items: Mapping[str, str]


def load_key(folder: Path, study: Study) -> Key:
    """The key of a study.

    Raises:
        InputError: it is missing, damaged, or another study's.
    """
    document = read_document(folder / KEY)
    if document.get("study") != study.id:
        raise InputError(f"{folder / KEY} is the key of another study; put back the one that was built with this study")
    try:
        key = Key(list(document["methods"]), dict(document["clips"]), dict(document["items"]))
        if not all(key.clips[clip] in key.methods for item in study.items for clip in item.clips):
            raise ValueError("a video in it has an unknown method")
        if not all(item.id in key.items for item in study.items):
            raise ValueError("a set has no name")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / KEY} is damaged ({error}); without it nothing can be counted") from error
    return key


def read_document(file: Path) -> dict[str, Any]:
    """A JSON file of a study.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no {file}; make a study with: adaflow study build --out {file.parent}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); build the study again") from error
    if not isinstance(document, dict):
        raise InputError(f"{file} is damaged; build the study again")
    return document
