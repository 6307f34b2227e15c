"""Where the studio keeps things: every name below its folder is chosen here, none by a client.

::

    studio.sqlite   jobs and videos
    lock            one server at a time
    videos/<16 hex>/video  strip.jpg  source.mp4  sketch.safetensors
    jobs/<16 hex>/edited.mp4  preview.png  figures.html  config.yaml  said.txt  result.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .queue import NAME

MEDIA = {
    "strip.jpg": ("videos", "image/jpeg"),
    "source.mp4": ("videos", "video/mp4"),
    "edited.mp4": ("jobs", "video/mp4"),
    "preview.png": ("jobs", "image/png"),
    "figures.html": ("jobs", "text/html; charset=utf-8"),
}
"""The files that a browser may ask for: in which folder, and of what kind."""


@dataclass(frozen=True)
class Place:
    """The studio's folder."""

    root: Path

    def make(self) -> None:
        """Make the folders, for their owner alone."""
        for folder in (self.root, self.root / "videos", self.root / "jobs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def database(self) -> Path:
        """The file of the queue."""
        return self.root / "studio.sqlite"

    def video(self, id: str) -> Path:
        """The folder of a video."""
        return self.root / "videos" / _checked(id)

    def job(self, id: str) -> Path:
        """The folder of a job."""
        return self.root / "jobs" / _checked(id)

    def media(self, id: str, name: str) -> tuple[Path, str] | None:
        """A file for the browser and its kind; None for any name but those listed."""
        if name not in MEDIA or not NAME.fullmatch(id):
            return None
        folder, kind = MEDIA[name]
        file = self.root / folder / id / name
        return (file, kind) if file.is_file() else None


def _checked(id: str) -> str:
    assert NAME.fullmatch(id), "names of videos and jobs are the server's own"
    return id
