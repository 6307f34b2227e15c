"""Taking videos in: how large, of what content, under which name; and the samples that need no upload."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from ..cache import default_root, remove_workspace
from ..disk import format_bytes
from ..errors import InputError
from .place import Place
from .queue import Queue, Video

LOOK_SECONDS = 600.0
"""How long the first look at an upload may take."""
LONGEST_NAME = 80
SPARE = 1 << 30
"""Bytes of disk that an upload leaves free."""
SAMPLES = {
    "cuts-20": "a film with cuts",
    "static-4": "the camera at rest",
    "pan-3": "the camera turning",
}
"""Recipes of the miniature's world, and what they are called here."""
SAMPLE_FRAMES, SAMPLE_FPS = 48, 12


class TooLargeError(InputError):
    """An upload is larger than is allowed, or than the disk has room for."""


class Library:
    """The videos of a studio.

    Args:
        place: Its folder.
        queue: Where they are noted.
        most_bytes: The largest upload.
    """

    def __init__(self, place: Place, queue: Queue, most_bytes: int) -> None:
        self.place, self.queue, self.most_bytes = place, queue, most_bytes
        for folder in ("videos", "jobs"):
            for leftover in (place.root / folder).glob(".*"):  # of a server that was killed while it took or removed
                shutil.rmtree(leftover, ignore_errors=True)

    async def receive(self, pieces: AsyncIterator[bytes], promised: int | None) -> Path:
        """The new folder of an upload, with its content as the file `video`; to be given to `accept` or `drop`.

        Args:
            pieces: The content.
            promised: Its length in bytes, if the client said it.

        Raises:
            TooLargeError: it is, or does not say how large and becomes so; nothing is left of it.
        """
        self.check_size(promised or 0)
        folder = self.place.root / "videos" / f".{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        taken = 0
        try:
            with (folder / "video").open("xb") as file:
                async for piece in pieces:
                    taken += len(piece)
                    self.check_size(taken)
                    file.write(piece)
        except BaseException:
            self.drop(folder)
            raise
        return folder

    def check_size(self, size: int) -> None:
        """Refuse what is too large. Raises `TooLargeError`."""
        if size > self.most_bytes:
            raise TooLargeError(f"the file is larger than {format_bytes(self.most_bytes)}, the most that is taken here")
        if size > shutil.disk_usage(self.place.root).free - SPARE:
            raise TooLargeError("the disk has no room for this file")

    def accept(self, folder: Path, name: str) -> Video:
        """Look at an upload, and take it into the library or refuse it; blocks while the video is decoded.

        Args:
            folder: From `receive`.
            name: What its owner calls it: shown, never used as a path.

        Raises:
            InputError: it is no video that can be edited; nothing is left of it.
        """
        try:
            about = _looked(folder)
            id = folder.name.removeprefix(".")
            folder.rename(self.place.video(id))
            return self.queue.add_video(id, shown_name(name), about)
        except BaseException:
            self.drop(folder)
            raise

    def drop(self, folder: Path) -> None:
        """Remove what was received."""
        shutil.rmtree(folder, ignore_errors=True)

    def remove(self, video: Video) -> str:
        """Delete a video, its jobs, what they made, and its workspace, in which also the command line works.

        Returns:
            A sentence: what was deleted, and what was not.

        Raises:
            InputError: one of its jobs is at work; nothing is deleted.
        """
        jobs = self.queue.remove_video(video.id)  # from here on no job of it begins, and nobody is given its files
        for folder in (*map(self.place.job, jobs), self.place.video(video.id)):
            hidden = folder.with_name(f".{folder.name}")  # if this server is killed now, the next one removes it
            with contextlib.suppress(FileNotFoundError):
                folder.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        said = f"Deleted: {video.name}."
        if any(other.about["fingerprint"] == video.about["fingerprint"] for other in self.queue.videos()):
            return f"{said} Its workspace stays, since another video here has the same content."
        workspace = default_root(str(video.about["fingerprint"]))
        if not remove_workspace(workspace) and workspace.is_dir():
            return f"{said} Its workspace stays, since a command line is using it (adaflow workspace prune)."
        return said

    def sample(self, name: str) -> Video:
        """The rendered sample of that name: found, or rendered now.

        Raises:
            InputError: there is none.
        """
        if name not in SAMPLES:
            raise InputError("there is no such sample")
        for video in self.queue.videos():
            if video.about.get("sample") == name:
                return video
        from ..miniature.world import video as rendered
        from ..video import write_video

        folder = self.place.root / "videos" / f".{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        film = rendered(name, SAMPLE_FRAMES)
        made = folder / "video.mp4"
        write_video(made, iter(film), fps=SAMPLE_FPS)
        made.rename(folder / "video")
        found = self.accept(folder, f"Sample: {SAMPLES[name]}")
        self.queue.tell_video(found.id, sample=name, caption=film.caption)
        return self.queue.video(found.id) or found


def shown_name(name: str) -> str:
    """A file's name as it is shown: its last part, in one line, without what is not to be seen, not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    seen = "".join(c if not unicodedata.category(c).startswith(("C", "Z")) else " " for c in last)
    short = " ".join(seen.split())
    return (short if len(short) <= LONGEST_NAME else f"{short[: LONGEST_NAME - 1]}…") or "video"


def _looked(folder: Path, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> dict[str, object]:
    command = [sys.executable, "-m", "adaflow.studio.look", str(folder / "video"), str(folder / "strip.jpg")]
    try:
        done = run(command, capture_output=True, text=True, timeout=LOOK_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise InputError("the file takes too long to look at; convert it to H.264 first") from None
    if done.returncode == 2:
        raise InputError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise InputError("the file could not be decoded; it is damaged, or made to be")
    found: dict[str, object] = json.loads(done.stdout)
    return found
