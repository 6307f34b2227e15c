"""What the page may ask for, without a word of HTTP: each participant sees their own answers, and nothing of others."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .answers import Answer, Answers, Closed, Full, Participant
from .plan import MEDIA, OPAQUE, QUESTIONS, Study

Document = dict[str, Any]


class Refused(Exception):  # noqa: N818 (an answer to the page, not a fault of the server)
    """A request that makes no sense, with its status and a sentence for the page."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Site:
    """One study, its answers, and where its videos are."""

    study: Study
    answers: Answers
    folder: Path

    def video(self, name: str) -> Path | None:
        """The file of a video of this study, by its opaque name; None for any other name."""
        known = OPAQUE.fullmatch(name) and name in self.study.media
        return self.folder / MEDIA / f"{name}.mp4" if known else None

    def call(self, name: str, code: str | None, given: Mapping[str, Any]) -> Document:
        """Do what the page asks for.

        Args:
            name: `start`, `state`, `answer` or `finish`.
            code: Of the participant.
            given: What was sent.

        Raises:
            Refused: it makes no sense.
        """
        try:
            return self._called(name, code, given)
        except sqlite3.Error:  # the disk is full, or somebody holds the database
            raise Refused(503, "This could not be stored. Please try again.") from None

    def _called(self, name: str, code: str | None, given: Mapping[str, Any]) -> Document:
        calls: dict[str, Callable[[Participant, Mapping[str, Any]], Document]] = {
            "state": self._state,
            "answer": self._answer,
            "finish": self._finish,
        }
        if name == "start":
            return self._start()
        if name not in calls:
            raise Refused(404, "There is nothing here.")
        participant = self.answers.find(code or "")
        if participant is None:
            raise Refused(403, "This code is not known. Please look whether it is written as you noted it.")
        try:
            return calls[name](participant, given)
        except Closed:
            raise Refused(409, "You have finished this study; your answers stay as they are.") from None

    def _start(self) -> Document:
        try:
            return {"code": self.answers.start()}
        except Full:
            raise Refused(503, "This study has as many participants as it can take.") from None

    def _state(self, participant: Participant, _: Mapping[str, Any]) -> Document:
        """All that this participant sees: the sets in their order, and their own answers."""
        chosen: dict[str, dict[str, str]] = {}
        for answer in self.answers.of(participant.id):
            chosen.setdefault(answer.item, {})[answer.question] = answer.choice
        return {
            "title": self.study.title,
            "questions": [asdict(question) for question in QUESTIONS],
            "items": [
                {**asdict(item), "answers": chosen.get(item.id, {})} for item in self.study.order(participant.id)
            ],
            "finished": participant.finished,
        }

    def _answer(self, participant: Participant, given: Mapping[str, Any]) -> Document:
        item = self.study.item(str(given.get("item")))
        question, choice = str(given.get("question")), str(given.get("choice"))
        if item is None or question not in {q.name for q in QUESTIONS} or choice not in item.clips:
            raise Refused(400, "This answer belongs to no question of the study.")
        self.answers.store(Answer(participant.id, item.id, question, choice))
        return {"stored": True}

    def _finish(self, participant: Participant, _: Mapping[str, Any]) -> Document:
        if not self.answers.finish(participant.id, len(self.study.items) * len(QUESTIONS)):
            raise Refused(409, "Some questions are not answered yet.")
        return {"finished": True}
