"""Whether an edit did what was asked, and only that, as a classifier of the rendered world reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ...miniature.drawing import box
from ...miniature.film import Film
from ...miniature.sprites import sprite
from ...miniature.vocabulary import VOCABULARY
from .mean import Mean

if TYPE_CHECKING:
    from ..suites import Edit

VISIBLE = 0.5  # share of the object that must be seen for a frame to say anything about it
BATCH = 16  # frames classified at once
MARGIN = 4  # pixels painted over around another object: an edited outline is not drawn as exactly as the true one


class Classifier(Protocol):
    """What reads the attributes of pictures: `adaflow.miniature.classifier.AttributeClassifier`."""

    def classify(self, frames: NDArray[np.uint8]) -> Mapping[str, Sequence[str]]:
        """A word per attribute of `VOCABULARY` for each of the uint8 frames `[n, H, W, 3]`."""


def true_words(film: Film, index: int) -> dict[str, str]:
    """The attributes of a frame, of its first object, by name."""
    scene = film.shot(index).scene
    first = scene.objects[0]
    return {"object": first.kind, "colour": first.colour, "background": scene.background, "style": scene.style}


def visible_share(film: Film, index: int) -> float:
    """How much of the first object is seen: its visible coverage by what it has when nothing hides it, in [0, 1]."""
    shot = film.shot(index)
    first = shot.scene.objects[0]
    left, top, right, bottom = shot.scene.box(0, index - shot.start)
    whole = (right - left) * (bottom - top) * float(sprite(first.kind, first.colour)[3].mean())
    return min(1.0, float(film.masks(index)[0].sum()) / whole)


def alone(film: Film) -> Film:
    """The film with the first object of every shot and no other."""
    return Film(tuple(replace(s, scene=replace(s.scene, objects=s.scene.objects[:1])) for s in film.shots))


def without_others(
    edited: NDArray[np.uint8], target: NDArray[np.uint8], target_alone: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The edited frame with the other objects and their shadows painted over by what the truth shows without them.

    The classifier names one object and cannot know which is meant; frames `[H, W, 3]` all.
    """
    others = (target != target_alone).any(axis=-1)
    near = box(others.astype(np.float32), MARGIN) > 0.5 / (2 * MARGIN + 1) ** 2
    return np.where(near[..., None], target_alone, edited)


class Answers:
    """Takes the frames of an edited video in order, and then says how many answer to the prompt."""

    def __init__(self, edit: Edit, classifier: Classifier) -> None:
        self._edit, self._classifier = edit, classifier
        self._alone = alone(edit.target)
        self._waiting: list[tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, str]]] = []
        self._count = 0
        self._success, self._kept, self._readable = Mean(), Mean(), Mean()

    def add(self, edited: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """The next frame of the edited video and of the target, `[H, W, 3]`."""
        now, self._count = self._count, self._count + 1
        if visible_share(self._edit.target, now) < VISIBLE:
            return
        if len(self._edit.target.shot(now).scene.objects) > 1:
            target_alone = self._alone.frame(now)
            edited, target = without_others(edited, target, target_alone), target_alone
        self._waiting.append((edited, target, true_words(self._edit.target, now)))
        if len(self._waiting) == BATCH:
            self._classify()

    def results(self) -> dict[str, float | None]:
        """`success`, `kept` and `readable`; None where no frame can tell."""
        self._classify()
        return {"success": self._success.value, "kept": self._kept.value, "readable": self._readable.value}

    def _classify(self) -> None:
        if not self._waiting:
            return
        read = self._classifier.classify(np.stack([edited for edited, _, _ in self._waiting]))
        read_of_target = self._classifier.classify(np.stack([target for _, target, _ in self._waiting]))
        for row, (_, _, wanted) in enumerate(self._waiting):
            # what is misread on the perfect picture says nothing about an edited one; a pencil sketch has no colours
            legible = [name for name in VOCABULARY if read_of_target[name][row] == wanted[name]]
            legible = [name for name in legible if not (name == "colour" and wanted["style"] == "pencil")]
            asked = [name for name in VOCABULARY if name in self._edit.changes]
            others = [name for name in legible if name not in asked]
            readable = all(name in legible for name in asked)
            self._readable.add(readable)
            if readable:
                self._success.add(all(read[name][row] == wanted[name] for name in asked))
            if others:
                self._kept.add(all(read[name][row] == wanted[name] for name in others))
        self._waiting.clear()
