"""Runs the jobs of the queue, one at a time, each as a process of its own stopped by the terminal's signal.

A process that is stopped, or killed, leaves what it finished in the video's workspace, where the next run finds it: so
pausing is stopping, resuming is running again, and nothing is held in memory between.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from typing import IO, Any

import psutil

from ..cache import default_root
from ..errors import AdaFlowError
from ..video import FileSource, write_video
from .command import command_of, write_settings
from .place import Place
from .queue import Job, Queue

POLL = 0.1
"""Seconds between two looks at a process."""
PATIENCE = 60.0
"""Seconds that a process may take to stop; then it is killed, which costs it the unit of work at hand."""
PROXY_LONGEST = 640
"""Longer side in pixels of the copy that a browser plays beside the edit."""
OOM = "the system ended it, most likely for want of memory; lower the height, close other programs, and resume"


class Worker(threading.Thread):
    """The thread that runs jobs; `stop` ends it and what it runs, which goes on when a server is started again."""

    def __init__(self, place: Place, queue: Queue) -> None:
        super().__init__(name="studio worker", daemon=True)
        self.place, self.queue = place, queue
        self._stopping = threading.Event()
        self._news = threading.Event()

    def recover(self) -> None:
        """Put right what a server left that was killed; to be called before `start`, while no other server runs."""
        for job in self.queue.jobs(limit=10000):
            if job.state in ("running", "pausing", "cancelling"):
                _end_leftover(job)
                to = {"running": "waiting", "pausing": "paused", "cancelling": "cancelled"}[job.state]
                self.queue.move(job.id, to, job.state)

    def wake(self) -> None:
        """There may be something to do."""
        self._news.set()

    def stop(self) -> None:
        """End the job at hand, so that it is run again by the next server, and the thread."""
        self._stopping.set()
        self._news.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Take jobs until told to stop."""
        while not self._stopping.is_set():
            job = self.queue.take()
            if job is None:
                self._news.wait(1.0)
                self._news.clear()
                continue
            try:
                self._run(job)
            except (OSError, AdaFlowError, ValueError, KeyError) as error:
                self._fail(job, " ".join(str(error).split()) or type(error).__name__)

    def _run(self, job: Job) -> None:
        if self.queue.video(job.video) is None:
            self._fail(job, "the video is not here any more")
            return
        write_settings(job, self.place)
        folder, began = self.place.job(job.id), time.monotonic()
        self.queue.tell(job.id, progress={"phase": "starting"}, error="")
        with (folder / "result.json").open("wb") as result, (folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(
                command_of(job, self.place),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=said,
                start_new_session=True,  # the terminal's Ctrl+C is for the server, which passes it on
                env=_environment(),
            )
            self.queue.tell(job.id, pid=process.pid, born=_born(process.pid))
        with (folder / "said.txt").open(encoding="utf-8", errors="replace") as said_by:
            listener = _Listener(said_by)
            code = self._follow(process, job, listener, began)
        self.queue.tell(job.id, pid=None, born=None, seconds=job.seconds + time.monotonic() - began)
        self._settle(job, code, listener)

    def _follow(self, process: subprocess.Popen[bytes], job: Job, listener: _Listener, began: float) -> int:
        """Pass on what the process says, and what is wished of it, until it ends."""
        told: float | None = None  # when it was told to stop
        while process.poll() is None:
            if listener.news():
                self.queue.tell(job.id, progress=listener.progress, seconds=job.seconds + time.monotonic() - began)
            now = self.queue.find(job.id)
            wished = now is None or now.state in ("pausing", "cancelling") or self._stopping.is_set()
            if wished and told is None:
                told = time.monotonic()
                _signal(process.pid, signal.SIGINT)
            elif told is not None and time.monotonic() - told > PATIENCE:
                _signal(process.pid, signal.SIGKILL)
            time.sleep(POLL)
        listener.news()
        return process.returncode

    def _settle(self, job: Job, code: int, listener: _Listener) -> None:
        """What the end of the process means."""
        now = self.queue.find(job.id)
        state = now.state if now else "cancelled"
        if code == 0 or (code > 0 and self._printed(job)):
            if code:  # all is done but its page of figures
                listener.warn(listener.error.removeprefix("adaflow: "))
            result = self._result(job)
            if state == "cancelling" and self.queue.move(job.id, "cancelled", "cancelling"):
                return
            self.queue.tell(job.id, result=result, progress={**listener.progress, "phase": "done", "seconds_left": 0})
            self.queue.move(job.id, "done", "running", "pausing")
        elif state == "pausing":
            self.queue.move(job.id, "paused", "pausing")
        elif state == "cancelling":
            shutil.rmtree(self.place.job(job.id), ignore_errors=True)
            self.queue.move(job.id, "cancelled", "cancelling")
        elif self._stopping.is_set():
            self.queue.move(job.id, "waiting", "running")
        else:
            self._fail(job, OOM if code == -signal.SIGKILL else listener.error or f"it ended with status {code}")

    def _result(self, job: Job) -> dict[str, Any]:
        """What came of a job that went well, and what the page needs beside it."""
        folder = self.place.job(job.id)
        if job.kind == "preview":
            return {}
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        self._proxy(job.video)
        if job.kind == "inspect":
            self._sketch(job, result)
        return {k: v for k, v in result.items() if k not in ("output", "video", "report", "comparison")}

    def _printed(self, job: Job) -> bool:
        """Whether the process printed its result, which it does when that is saved."""
        with contextlib.suppress(OSError, ValueError):
            return isinstance(json.loads((self.place.job(job.id) / "result.json").read_text(encoding="utf-8")), dict)
        return False

    def _proxy(self, video: str) -> None:
        """A copy of the source that every browser plays, made once."""
        folder = self.place.video(video)
        if (folder / "source.mp4").exists():
            return
        source = FileSource(folder / "video")
        info = source.info
        scale = min(1.0, PROXY_LONGEST / max(info.height, info.width))
        size = (max(2, round(info.height * scale / 2) * 2), max(2, round(info.width * scale / 2) * 2))
        write_video(folder / "source.mp4", source.frames(size), info, audio="none", crf=20)

    def _sketch(self, job: Job, result: dict[str, Any]) -> None:
        """The small copy of the features that was looked at, beside the clips found in it."""
        from .timeline import find_analysis, keep

        video = self.queue.video(job.video)
        analysis = find_analysis(default_root(str(video.about["fingerprint"]))) if video else None
        if analysis is None:
            return
        looked = keep(analysis, self.place.video(job.video))
        self.queue.tell_video(job.video, looked={"job": job.id, "model": job.model, **looked})

    def _fail(self, job: Job, error: str) -> None:
        self.queue.tell(job.id, error=error.removeprefix("adaflow: "), pid=None, born=None)
        if not self.queue.move(job.id, "failed", "running", "pausing"):
            self.queue.move(job.id, "cancelled", "cancelling")


class _Listener:
    """Reads what a process says, line by line: its progress, and its last words."""

    def __init__(self, said: IO[str]) -> None:
        self._said, self._rest = said, ""
        self.progress: dict[str, Any] = {"phase": "starting", "stages": {}}
        self.notes: list[str] = []
        self.error = ""

    def news(self) -> bool:
        """Read on; whether there was any progress."""
        text = self._rest + self._said.read()
        *lines, self._rest = text.split("\n")
        return any([self._line(line) for line in lines])

    def warn(self, note: str) -> None:
        """Add a note to those that the page shows."""
        self.progress["notes"] = [*self.progress.get("notes", []), note][-5:]

    def _line(self, line: str) -> bool:
        if not line.startswith("{"):
            if line.startswith("note: "):
                self.warn(line.removeprefix("note: "))
            elif line.startswith("adaflow: "):
                self.error = line
            return line.startswith("note: ")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            if said["event"] == "progress":
                stages = self.progress["stages"] | {said["stage"]: [said["done"], said["total"]]}
                self.progress |= {"phase": said["stage"], "stages": stages, "seconds_left": said["seconds_left"]}
            elif said["event"] == "estimate":
                self.progress["estimate"] = said["estimate"]
            return True
        return False


def _signal(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, which)


def _born(pid: int) -> float | None:
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).create_time())
    return None


def _end_leftover(job: Job) -> None:
    """End the process of a job whose server was killed, if it is that process: it holds the workspace."""
    if job.pid is None or job.born is None or _born(job.pid) != job.born:
        return
    for which in (signal.SIGINT, signal.SIGKILL):
        _signal(job.pid, which)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(job.pid)
                if process.create_time() == job.born and process.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(POLL)
                    continue
            return


def _environment() -> dict[str, str]:
    """The server's own, with output that is written at once."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
