"""What the page shows of a studio's state: the views that differ from those a tab has, found anew at every look."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from ..errors import AdaFlowError, ConfigError
from . import drawing
from .controls import chosen
from .desk import Desk
from .queue import Job, Video

NAMES = ("about", "timeline", "figures", "estimate", "job", "preview", "compare", "history")
"""The views, in the page's order."""
FREE = ("seed", "negative_prompt", "guidance_scale", "output.quality", "output.audio", "output.size")
"""Settings that an estimate does not depend on."""

LOOK = "Figures of the last look: one column over time, similarities, heatmaps, keyframes"
EDIT = "Figures of this edit: one column over time, keyframes, tokens kept, time and memory"

Session = dict[str, Any]
"""What a tab shows: digests of its views by their names, its clips, the edit compared, and the job at hand."""


@dataclass(frozen=True)
class Asked:
    """What the controls of a tab say; nothing of it is checked yet, except that there is such a model."""

    video: Any
    prompt: Any
    model: str
    preset: Any
    kind: Any
    values: tuple[Any, ...]

    @property
    def low(self) -> tuple[Any, Any]:
        """The two thresholds."""
        mean, window = self.values[-2:]
        return mean, window

    def settings(self) -> dict[str, Any]:
        """The settings that differ from the model's own. Raises `ConfigError` for a value that is not allowed."""
        return chosen(self.values, self.model, self.preset, self.kind)


@dataclass(frozen=True)
class News:
    """What a tab is to be told.

    Attributes:
        session: What it shows then.
        views: The views that differ, by their names.
        drawn: The digest of its clips.
        able: Whether one may pause, resume, cancel, delete the video; None where that is as it was.
        videos: Those here, where the list has changed.
    """

    session: Session
    views: Mapping[str, str]
    drawn: str
    able: tuple[bool, ...] | None
    videos: list[Video] | None


def news(desk: Desk, session: Session | None, drawn: Any, asked: Asked) -> News:
    """All that differs from what a tab shows.

    Clips are drawn by sliders as well, whose answers may come after ours: `drawn` says which are on the page.
    """
    session = {**(session or {}), "timeline": drawn}
    video, job = desk.queue.video(asked.video), desk.focus()
    found = {
        "about": drawing.about_video(video),
        "timeline": _timeline(desk, session, video, asked),
        "figures": _figures(desk, desk.last("inspect", video.id, "done") if video else None, LOOK),
        "estimate": _estimated(desk, video, asked),
        "job": drawing.progress(job, desk.queue.video(job.video) if job else None, len(desk.queue.waiting())),
        "preview": drawing.preview(desk.last("preview", video.id, "done") if video else None),
        "compare": _compared(desk, session, video),
        "history": _history(desk, session),
    }
    digests = {name: digest(view) for name, view in found.items()}
    views = {name: view for name, view in found.items() if session.get(name) != digests[name]}
    session |= digests | {"focus": job.id if job else ""}
    able, videos = (*_able(job), video is not None), desk.queue.videos()
    listed = [(one.id, one.name) for one in videos]
    told = News(
        session,
        views,
        digests["timeline"],
        able if session.get("able") != able else None,
        videos if session.get("listed") != listed else None,
    )
    session |= {"able": able, "listed": listed}
    return told


def digest(view: str) -> str:
    """What tells a view from any other."""
    return hashlib.sha256(view.encode()).hexdigest()[:16]


def _able(job: Job | None) -> tuple[bool, bool, bool]:
    """Whether the job at hand may be paused, resumed, cancelled."""
    state = job.state if job else ""
    return (
        job is not None and job.kind == "edit" and state in ("running", "waiting"),
        state in ("paused", "failed"),
        state in ("running", "waiting", "pausing", "paused"),
    )


def _timeline(desk: Desk, session: Session, video: Video | None, asked: Asked) -> str:
    """The clips of the last look, or those at the thresholds that were moved since, exactly."""
    if video is None:
        return drawing.note("Clips appear here once there is a video.")
    looked, shown = desk.looked(video), session.get("clips")
    job = video.about.get("looked", {}).get("job")
    if shown is None or shown.video != video.id or session.get("looked") != job:
        shown, session["looked"] = looked, job
    if shown is None:
        return drawing.note("The video is being looked at; its clips appear here.")
    if not shown.exact or shown.low != asked.low:  # also where a slider's own answer was overtaken
        with contextlib.suppress(AdaFlowError):
            shown = desk.exact(video, *asked.low, asked.model, asked.settings(), shown) or shown
    session["clips"] = shown
    return drawing.timeline(video, shown.found, shown.scores, shown.config, shown.said)


def _estimated(desk: Desk, video: Video | None, asked: Asked) -> str:
    job = desk.last("inspect", video.id, "done") if video else None
    if job is None:
        return drawing.estimate(None, False, (0, 0))
    try:
        settings: Mapping[str, Any] = asked.settings()
    except ConfigError:
        settings = {}
    free = psutil.virtual_memory().available, shutil.disk_usage(desk.place.root).free
    rounded = (free[0] >> 28 << 28, free[1] >> 28 << 28)  # else every look would be news
    stale = _costly(settings) != _costly(job.settings) or asked.model != job.model
    return drawing.estimate(job.result.get("estimate"), stale, rounded)


def _costly(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in FREE}


def _compared(desk: Desk, session: Session, video: Video | None) -> str:
    """The edit that was asked for, else the newest one of the video."""
    asked = desk.queue.find(session.get("result"))
    newest = desk.last("edit", video.id, "done") if video else None
    if newest is not None and newest.id != session.get("newest"):
        asked, session["newest"] = newest, newest.id
    if asked is None or asked.state != "done" or (video and asked.video != video.id):
        asked = newest
    session["result"] = asked.id if asked else None
    return drawing.compare(asked, desk.queue.video(asked.video) if asked else None, _figures(desk, asked, EDIT))


def _figures(desk: Desk, job: Job | None, words: str) -> str:
    written = job is not None and desk.place.media(job.id, "figures.html") is not None
    return drawing.figures(job.id if job and written else None, words)


def _history(desk: Desk, session: Session) -> str:
    videos = {video.id: video for video in desk.queue.videos()}
    return drawing.history(desk.queue.jobs("edit"), videos, session.get("result"))
