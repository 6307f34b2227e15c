"""The queue of jobs, in SQLite: what is to be run, what runs, and what came of it; it outlives page and server.

::

    waiting -> running -> done | failed
       ^          |-----> pausing -> paused ---> waiting (resumed)
       |----------|-----> cancelling -> cancelled
    (the server was restarted)

A job's state changes only from the states it may be left from, in one statement, so that two pages that ask for
contrary things do not both get their way.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..database import connected, writing
from ..errors import InputError

Kind = Literal["inspect", "preview", "edit"]
STATES = ("waiting", "running", "pausing", "paused", "cancelling", "cancelled", "done", "failed")
ACTIVE = ("waiting", "running", "pausing", "cancelling")
"""States in which something is still going to happen by itself."""
WORKING = ("running", "pausing", "cancelling")
"""States of a job that has a process."""
MOST_WAITING = 50
NAME = re.compile(r"[0-9a-f]{16}")

_TABLES = """
CREATE TABLE IF NOT EXISTS videos (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, added REAL NOT NULL, about TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, video TEXT NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    prompt TEXT NOT NULL, model TEXT NOT NULL, settings TEXT NOT NULL, state TEXT NOT NULL, added REAL NOT NULL,
    ended REAL, pid INTEGER, born REAL, progress TEXT NOT NULL, result TEXT NOT NULL, error TEXT NOT NULL,
    seconds REAL NOT NULL
);
"""
_JOB = "id, kind, video, prompt, model, settings, state, added, ended, pid, born, progress, result, error, seconds"


@dataclass(frozen=True)
class Job:
    """One command to be run: `kind` is its name; `settings` are those that differ from the model's own.

    `pid` and `born` tell the process that runs it from any other; `seconds` is how long it has run in all.
    """

    id: str
    kind: Kind
    video: str
    prompt: str
    model: str
    settings: Mapping[str, Any]
    state: str
    added: float
    ended: float | None = None
    pid: int | None = None
    born: float | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Video:
    """A video that was taken in; `name` is what its owner calls it, and only ever shown."""

    id: str
    name: str
    added: float
    about: Mapping[str, Any]


class FullError(InputError):
    """There are as many jobs waiting as there may be."""


class Queue:
    """Videos and jobs of one studio.

    Args:
        file: The database; made if it is not there.

    Raises:
        InputError: the file cannot be used.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            file.touch(mode=0o600)
            with connected(self.file) as base:
                base.execute("PRAGMA journal_mode = WAL")
                base.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{file} cannot be used for the studio's jobs ({error}); choose another folder") from error

    # -- videos -------------------------------------------------------------------------------------------------------

    def add_video(self, id: str, name: str, about: Mapping[str, Any]) -> Video:
        """Note a video whose files are in place."""
        video = Video(id, name, time.time(), dict(about))
        with connected(self.file) as base:
            base.execute("INSERT INTO videos VALUES (?, ?, ?, ?)", (id, name, video.added, json.dumps(video.about)))
        return video

    def video(self, id: object) -> Video | None:
        """The video of that id; None for any other value."""
        if not (isinstance(id, str) and NAME.fullmatch(id)):
            return None
        return next(iter(self._videos("WHERE id = ?", id)), None)

    def videos(self) -> list[Video]:
        """All of them, the last added first."""
        return self._videos("ORDER BY added DESC, rowid DESC")

    def tell_video(self, id: str, **more: Any) -> None:
        """Add to what is known about a video."""
        with writing(self.file) as base:
            row = base.execute("SELECT about FROM videos WHERE id = ?", (id,)).fetchone()
            if row:
                base.execute("UPDATE videos SET about = ? WHERE id = ?", (json.dumps(json.loads(row[0]) | more), id))

    def remove_video(self, id: str) -> list[str]:
        """Forget a video and its jobs, those that wait among them.

        Returns:
            The ids of the jobs.

        Raises:
            InputError: the video is not here, or one of its jobs is at work.
        """
        with writing(self.file) as base:
            jobs = base.execute("SELECT id, state FROM jobs WHERE video = ?", (id,)).fetchall()
            if any(state in WORKING for _, state in jobs):
                raise InputError("this video is being worked on; cancel that first, and delete the video when it ended")
            if not base.execute("DELETE FROM videos WHERE id = ?", (id,)).rowcount:
                raise InputError("this video is not here any more")
        return [job for job, _ in jobs]

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def add(self, kind: Kind, video: str, prompt: str, model: str, settings: Mapping[str, Any]) -> Job:
        """A new job, waiting; a look at a video in place of an earlier one that still waits.

        Raises:
            FullError: too many wait already.
            InputError: the video was deleted.
        """
        job = Job(secrets.token_hex(8), kind, video, prompt, model, dict(settings), "waiting", time.time())
        with writing(self.file) as base:
            if kind == "inspect":
                base.execute("DELETE FROM jobs WHERE kind = ? AND video = ? AND state = 'waiting'", (kind, video))
            if base.execute("SELECT count(*) FROM jobs WHERE state = 'waiting'").fetchone()[0] >= MOST_WAITING:
                raise FullError(f"{MOST_WAITING} jobs are waiting already; cancel some, or wait")
            values = (job.id, kind, video, prompt, model, json.dumps(job.settings), job.state, job.added)
            if base.execute("SELECT 1 FROM videos WHERE id = ?", (video,)).fetchone() is None:
                raise InputError("this video is not here any more")
            base.execute(
                f"INSERT INTO jobs ({_JOB}) VALUES (?,?,?,?,?,?,?,?, NULL, NULL, NULL, '{{}}', '{{}}', '', 0)", values
            )
        return job

    def find(self, id: object) -> Job | None:
        """The job of that id; None for any other value."""
        if not (isinstance(id, str) and NAME.fullmatch(id)):
            return None
        return next(iter(self._jobs("WHERE id = ?", id)), None)

    def jobs(self, kind: Kind | None = None, video: str | None = None, limit: int = 100) -> list[Job]:
        """The last jobs, the newest first."""
        where, values = ["1"], []
        for column, value in (("kind", kind), ("video", video)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        return self._jobs(f"WHERE {' AND '.join(where)} ORDER BY added DESC, rowid DESC LIMIT {limit:d}", *values)

    def current(self) -> Job | None:
        """The job at work, if any."""
        return next(iter(self._jobs(f"WHERE state IN {WORKING} LIMIT 1")), None)

    def waiting(self) -> list[Job]:
        """Those that wait, in the order in which they will be run: short ones before edits."""
        return self._jobs("WHERE state = 'waiting' ORDER BY kind = 'edit', added, rowid")

    def take(self) -> Job | None:
        """The next job, now running; None if none waits."""
        with writing(self.file) as base:
            row = base.execute(
                "SELECT id FROM jobs WHERE state = 'waiting' ORDER BY kind = 'edit', added, rowid LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            base.execute("UPDATE jobs SET state = 'running', error = '' WHERE id = ?", row)
        return self.find(row[0])

    def move(self, id: str, to: str, *sources: str) -> bool:
        """Change a job's state from one of `sources`; whether it was in one of them."""
        ended = time.time() if to in ("done", "failed", "cancelled", "paused") else None
        marks = ", ".join("?" * len(sources))
        with writing(self.file) as base:
            done = base.execute(
                f"UPDATE jobs SET state = ?, ended = ? WHERE id = ? AND state IN ({marks})", (to, ended, id, *sources)
            )
            return done.rowcount == 1

    def pause(self, id: str) -> bool:
        """Ask for a job to stop, so that it can go on later; only edits are paused."""
        job = self.find(id)
        return bool(job and job.kind == "edit") and (
            self.move(id, "pausing", "running") or self.move(id, "paused", "waiting")
        )

    def resume(self, id: str) -> bool:
        """Let a job go on that was paused, failed or cancelled: it continues from its last finished unit of work."""
        if not self.move(id, "waiting", "paused", "failed", "cancelled"):
            return False
        self.tell(id, error="")
        return True

    def cancel(self, id: str) -> bool:
        """Ask for a job to end."""
        return self.move(id, "cancelling", "running", "pausing") or self.move(id, "cancelled", "waiting", "paused")

    def tell(self, id: str, **fields: Any) -> None:
        """Note `progress`, `result`, `error`, `pid`, `born` or `seconds` of a job."""
        assert fields.keys() <= {"progress", "result", "error", "pid", "born", "seconds"}
        values = [json.dumps(v) if isinstance(v, Mapping) else v for v in fields.values()]
        with connected(self.file) as base:
            base.execute(f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in fields)} WHERE id = ?", (*values, id))

    # -----------------------------------------------------------------------------------------------------------------

    def _jobs(self, where: str, *values: Any) -> list[Job]:
        with connected(self.file) as base:
            rows = base.execute(f"SELECT {_JOB} FROM jobs {where}", values).fetchall()
        made = []
        for row in rows:
            fields = dict(zip(_JOB.split(", "), row, strict=True))
            made.append(Job(**fields | {name: json.loads(fields[name]) for name in ("settings", "progress", "result")}))
        return made

    def _videos(self, where: str, *values: Any) -> list[Video]:
        with connected(self.file) as base:
            rows = base.execute(f"SELECT id, name, added, about FROM videos {where}", values).fetchall()
        return [Video(id, name, added, json.loads(about)) for id, name, added, about in rows]
