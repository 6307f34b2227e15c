"""What can be asked of the studio, whoever asks: look, move thresholds, preview, edit. The page only shows it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..cache import default_root
from ..config import KeyframeConfig
from ..errors import InputError
from ..keyframes import Partition
from ..prompts import unknown_words
from ..store import read_json
from .controls import MEAN, WINDOW, models_here, thresholds
from .finder import Finder
from .library import Library
from .place import Place
from .queue import Job, Queue, Video
from .timeline import DRAWN, Analysis, Sketch, difference, find_analysis
from .worker import Worker

WAIT = 1.0
"""Seconds that a page waits for exact clips; 1,000 frames of the miniature take less."""
SKETCHES = 4
"""Small copies of features held in memory."""
LONGEST_PROMPT = 2000


@dataclass(frozen=True)
class Shown:
    """The clips on a page: of which video, for which thresholds, and whether they are those of an edit."""

    video: str
    found: Partition
    scores: list[list[float]]
    config: KeyframeConfig
    exact: bool
    said: str

    @property
    def low(self) -> tuple[float, float]:
        """The two thresholds."""
        return _low(self.config)


class Desk:
    """One studio: its videos, its queue, and the worker that does the jobs."""

    def __init__(self, place: Place, most_bytes: int) -> None:
        place.make()
        self.place = place
        self.queue = Queue(place.database)
        self.library = Library(place, self.queue, most_bytes)
        self.worker = Worker(place, self.queue)
        self._sketches: OrderedDict[tuple[str, int], Sketch] = OrderedDict()
        self._mutex = threading.Lock()
        self._finder = Finder()

    def stop(self) -> None:
        """End what is at work: a job goes on when a server is started again."""
        self._finder.close()
        self.worker.stop()

    def remove(self, video: Video) -> str:
        """Delete a video with all that was made of it; what was and what was not, in a sentence.

        Raises:
            InputError: one of its jobs is at work.
        """
        said = self.library.remove(video)
        with self._mutex:
            for key in [key for key in self._sketches if key[0] == video.id]:
                del self._sketches[key]
        return said

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def look(self, video: Video, model: str, settings: Mapping[str, Any]) -> Job:
        """Have a video looked at: its clips, and an estimate."""
        return self._add("inspect", video, "", model, settings)

    def preview(self, video: Video, prompt: str, model: str, settings: Mapping[str, Any]) -> Job:
        """Have four keyframes edited jointly."""
        return self._add("preview", video, self._prompt(prompt, model), model, settings)

    def edit(self, video: Video, prompt: str, model: str, settings: Mapping[str, Any]) -> Job:
        """Have the whole video edited."""
        return self._add("edit", video, self._prompt(prompt, model), model, settings)

    def video(self, id: object) -> Video:
        """The video of that id. Raises `InputError` for any other value."""
        found = self.queue.video(id)
        if found is None:
            raise InputError("choose a video first")
        return found

    def model(self, name: object) -> str:
        """The name of a model that is here. Raises `InputError` for any other value: a client names no folders."""
        if name not in models_here():
            raise InputError("this model is not on this machine")
        return str(name)

    def last(self, kind: Any, video: str, *states: str) -> Job | None:
        """The newest job of a kind for a video in one of these states."""
        return next((job for job in self.queue.jobs(kind, video) if job.state in states), None)

    def focus(self) -> Job | None:
        """The job that a page shows: the one at work, else the next, else an edit that is paused, else the last."""
        if job := self.queue.current():
            return job
        if waiting := self.queue.waiting():
            return waiting[0]
        jobs = self.queue.jobs()
        return next((job for job in jobs if job.state == "paused"), jobs[0] if jobs else None)

    def _add(self, kind: Any, video: Video, prompt: str, model: str, settings: Mapping[str, Any]) -> Job:
        job = self.queue.add(kind, video.id, prompt, model, settings)
        self.worker.wake()
        return job

    def _prompt(self, prompt: str, model: str) -> str:
        words = " ".join(str(prompt).split())
        if not words:
            raise InputError("say first what the edited video should show")
        if len(words) > LONGEST_PROMPT or "\0" in words:
            raise InputError(f"the prompt is longer than {LONGEST_PROMPT} characters; no model reads as much")
        return words

    # -- clips --------------------------------------------------------------------------------------------------------

    def looked(self, video: Video) -> Shown | None:
        """The clips that the last look found; None before there was one."""
        about = video.about.get("looked")
        file = self.place.video(video.id) / "clips.json"
        if about is None or not file.is_file():
            return None
        data = read_json(file, file.parent)
        config = KeyframeConfig(**{name: about[name] for name in DRAWN if name in about}).completed()
        said = "Exact, as an edit will have it."
        return Shown(video.id, Partition.from_json(data), data["scores"], config, True, said)

    def moving(self, video: Video, mean: float, window: float, model: str, settings: Mapping[str, Any]) -> Shown | None:
        """The clips at these thresholds, at once, about."""
        sketch = self._sketch(video)
        if sketch is None:
            return None
        config = self._config(video, mean, window, model, settings)
        with self._finder.aside():
            found, scores = sketch.divide(config)
        return self._shown(video, found, scores, config, False, "About; exact in a moment.")

    def exact(
        self,
        video: Video,
        mean: float,
        window: float,
        model: str,
        settings: Mapping[str, Any],
        before: Shown | None = None,
    ) -> Shown | None:
        """The clips at these thresholds, from the features themselves, and what differs from those found live.

        Where they take longer than a page can wait, those found live, and how far the exact ones are: ask again.
        `before` is what is shown: of these thresholds or others, live or exact.
        """
        analysis = self._analysis(video)
        if analysis is None:
            return before and replace(before, exact=True, said=GONE)
        config = self._config(video, mean, window, model, settings)
        answer = self._finder.ask(analysis, config, WAIT)
        if isinstance(answer, float):
            known = before if before and before.low == _low(config) else None
            live = known or self.moving(video, mean, window, model, settings)
            said = f"About; the exact ones are being found: {5 * int(20 * answer)} %."
            return live and replace(live, exact=False, said=said)
        found, scores = answer
        said = "Exact, as an edit will have it."
        if before and before.exact:
            said = before.said if (before.low, before.found) == (_low(config), found) else said
        elif before:
            live = before if before.low == _low(config) else self.moving(video, mean, window, model, settings)
            said = f"Exact: {difference(live.found, found)}." if live else said
        return self._shown(video, found, scores, config, True, said)

    def _shown(
        self, video: Video, found: Partition, scores: torch.Tensor, config: KeyframeConfig, exact: bool, said: str
    ) -> Shown:
        return Shown(video.id, found, scores.tolist(), config.completed(), exact, said)

    def _config(
        self, video: Video, mean: float, window: float, model: str, settings: Mapping[str, Any]
    ) -> KeyframeConfig:
        found: KeyframeConfig = thresholds(
            mean, window, {k: v for k, v in settings.items() if k not in (MEAN, WINDOW)}, model
        )
        return found

    def _sketch(self, video: Video) -> Sketch | None:
        file = self.place.video(video.id) / "sketch.safetensors"
        try:
            key = (video.id, file.stat().st_mtime_ns)
        except OSError:
            return None
        with self._mutex:
            if key not in self._sketches:
                found = Sketch.load(file)
                if found is None:
                    return None
                self._sketches[key] = found
                while len(self._sketches) > SKETCHES:
                    self._sketches.popitem(last=False)
            self._sketches.move_to_end(key)
            return self._sketches[key]

    def _analysis(self, video: Video) -> Analysis | None:
        return find_analysis(default_root(str(video.about["fingerprint"])))


def _low(config: KeyframeConfig) -> tuple[float, float]:
    """The two thresholds of settings in which nothing is open."""
    assert config.mean_threshold is not None and config.window_threshold is not None
    return config.mean_threshold, config.window_threshold


GONE = "About: the features are not kept any more; press “Update the estimate” to look again."


def unknown_to(model: str, prompt: str) -> dict[str, list[str]]:
    """The words of a prompt that a model is known not to know."""
    from ..cards import find_card

    return unknown_words(prompt[:LONGEST_PROMPT]) if find_card(model).embedded else {}
