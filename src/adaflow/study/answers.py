"""The answers, in SQLite: each is on the disk when the page says that it is stored.

A participant is known by a code of their own, of which only a hash is kept: who reads the file cannot take part as
somebody else.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..database import connected, writing
from ..errors import InputError

LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
"""Of codes: none that is mistaken for another when written by hand."""
LENGTH, GROUP = 16, 4  # 79 bits
MOST_PARTICIPANTS = 1000

_TABLES = """
CREATE TABLE IF NOT EXISTS study (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS participants (
    id TEXT PRIMARY KEY, started TEXT NOT NULL, finished TEXT
);
CREATE TABLE IF NOT EXISTS answers (
    participant TEXT NOT NULL REFERENCES participants (id),
    item TEXT NOT NULL, question TEXT NOT NULL, choice TEXT NOT NULL, stored TEXT NOT NULL,
    PRIMARY KEY (participant, item, question)
);
"""


class Closed(Exception):  # noqa: N818 (a state, not an error)
    """The participant has finished: nothing changes any more."""


class Full(Exception):  # noqa: N818 (likewise)
    """There are as many participants as a study may have."""


@dataclass(frozen=True)
class Participant:
    """Somebody who takes part: a name that says nothing, and whether they have finished."""

    id: str
    finished: bool


@dataclass(frozen=True)
class Answer:
    """What one participant chose: the opaque name of a video."""

    participant: str
    item: str
    question: str
    choice: str


class Answers:
    """The answers of one study.

    Args:
        file: The database; made if it is not there.
        study: The study's name.

    Raises:
        InputError: the file cannot be used, or holds the answers of another study.
    """

    def __init__(self, file: Path, study: str) -> None:
        self.file = file
        try:
            file.touch(mode=0o600)  # its owner's alone
            with connected(self.file) as base:
                base.execute("PRAGMA journal_mode = WAL")
                base.executescript(_TABLES)
            with writing(self.file) as base:
                if base.execute("SELECT count(*) FROM study").fetchone() == (0,):
                    base.execute("INSERT INTO study VALUES (?)", (study,))
                found = base.execute("SELECT id FROM study").fetchall()
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{file} cannot be used for the answers ({error}); choose another folder") from error
        if found != [(study,)]:
            raise InputError(f"{file} holds the answers of another study; move it away, or put back its study")

    def start(self) -> str:
        """A new participant's code.

        Raises:
            Full: there are too many.
        """
        code = "".join(secrets.choice(LETTERS) for _ in range(LENGTH))
        with writing(self.file) as base:
            if base.execute("SELECT count(*) FROM participants").fetchone()[0] >= MOST_PARTICIPANTS:
                raise Full
            base.execute("INSERT INTO participants VALUES (?, ?, NULL)", (_hashed(code), _now()))
        return "-".join(code[i : i + GROUP] for i in range(0, LENGTH, GROUP))

    def find(self, code: str) -> Participant | None:
        """The participant with that code, however it is spaced; None if there is none."""
        plain = re.sub(r"[\s-]", "", code).lower()
        if len(plain) != LENGTH:
            return None
        with connected(self.file) as base:
            row = base.execute("SELECT id, finished FROM participants WHERE id = ?", (_hashed(plain),)).fetchone()
        return None if row is None else Participant(row[0], row[1] is not None)

    def of(self, participant: str) -> list[Answer]:
        """What one participant has answered so far."""
        return self._answers("WHERE participant = ?", participant)

    def store(self, answer: Answer) -> None:
        """Store an answer, in place of an earlier one to the same question.

        Raises:
            Closed: the participant has finished.
        """
        with writing(self.file) as base:
            self._open(base, answer.participant)
            base.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT (participant, item, question) "
                "DO UPDATE SET choice = excluded.choice, stored = excluded.stored",
                (answer.participant, answer.item, answer.question, answer.choice, _now()),
            )

    def finish(self, participant: str, needed: int) -> bool:
        """End a participant's part, if as many answers are there as `needed`; says whether they were.

        Raises:
            Closed: the participant has finished already.
        """
        with writing(self.file) as base:
            self._open(base, participant)
            count = base.execute("SELECT count(*) FROM answers WHERE participant = ?", (participant,)).fetchone()[0]
            if count >= needed:
                base.execute("UPDATE participants SET finished = ? WHERE id = ?", (_now(), participant))
        return bool(count >= needed)

    def participants(self) -> list[Participant]:
        """All of them, in the order in which they began."""
        with connected(self.file) as base:
            rows = base.execute("SELECT id, finished FROM participants ORDER BY started, rowid").fetchall()
        return [Participant(name, finished is not None) for name, finished in rows]

    def all(self) -> list[Answer]:
        """Everybody's answers: for the tally, never for the server."""
        return self._answers("")

    def _answers(self, where: str, *values: str) -> list[Answer]:
        with connected(self.file) as base:
            rows = base.execute(f"SELECT participant, item, question, choice FROM answers {where}", values)
            return [Answer(*row) for row in rows]

    def _open(self, base: sqlite3.Connection, participant: str) -> None:
        if base.execute("SELECT finished FROM participants WHERE id = ?", (participant,)).fetchone() != (None,):
            raise Closed


def _hashed(code: str) -> str:
    return hashlib.sha256(f"adaflow study {code}".encode()).hexdigest()[:32]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
