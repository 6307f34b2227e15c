"""Real videos to be edited and scored: LongV-EVAL, or a folder of one's own, by an index of what should become of them.

An index is a file beside the videos, one record a video, as JSON Lines or as YAML::

    {"id": "0001", "video": "videos/0001.mp4", "fps": 25, "caption": "...",
     "edits": {"foreground": "...", "background": "...", "style": "..."}}

Frames may also lie in a folder as lossless pictures, in the order of their names. No truth is known of real videos, so
only measures that need none apply to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

from ..colour import Picture
from ..errors import InputError
from ..probe import DEFAULT_FPS
from ..video import ArraySource, FileSource, VideoSource

LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
INDEXES = ("index.jsonl", "index.yaml", "index.yml")
SUFFIXES = (".jsonl", ".yaml", ".yml")
"""Of an index."""
NAME = re.compile(r"[\w.-]+")
FIELDS = {"id", "video", "fps", "caption", "edits", "provenance"}


@dataclass(frozen=True)
class Record:
    """One video and what should become of it.

    Attributes:
        id: Its name in results.
        video: A video file, or a folder of lossless frames.
        edits: The prompt of each edit, by name: ``foreground``, ``background``, ``style``, or others.
        caption: What it shows; empty where nobody said.
        fps: Frames per second; None: as the file says.
        provenance: Where the caption and prompts come from that `adaflow annotate` had made, each by its name.
    """

    id: str
    video: Path
    edits: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""
    fps: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def source(self) -> VideoSource:
        """Its frames."""
        return open_frames(self.video, self.fps)


@dataclass(frozen=True)
class Index:
    """The videos of a data set.

    Attributes:
        file: Where it was read from, or will be written.
        records: In order.
    """

    file: Path
    records: tuple[Record, ...]

    @property
    def edits(self) -> int:
        """How many edits there are of all videos."""
        return sum(len(record.edits) for record in self.records)


def load_index(path: Path) -> Index:
    """An index, or that of a folder.

    Raises:
        InputError: it is missing or not an index, a record is wrong, or a video is not there; says which.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in INDEXES if (path / name).is_file()]
        if not found:
            raise InputError(f"{path} has no {INDEXES[0]}; make one with: adaflow eval index {path}")
        path = found[0]
    documents = _documents(path)
    records = tuple(_record(path, place, document) for place, document in documents)
    if not records:
        raise InputError(f"{path} lists no video")
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise InputError(f"{path} has two videos with the id {record.id!r}; every video needs its own")
        seen.add(record.id)
    return Index(path, records)


def index_text(index: Index) -> str:
    """The index as JSON Lines, with videos relative to it where they lie beside it."""
    lines = []
    root = index.file.parent.absolute()
    for record in index.records:
        video = record.video.absolute()
        place = video.relative_to(root).as_posix() if video.is_relative_to(root) else str(video)
        document: dict[str, Any] = {"id": record.id, "video": place, "fps": record.fps, "caption": record.caption}
        document |= {"edits": dict(record.edits), "provenance": dict(record.provenance) or None}
        known = {name: value for name, value in document.items() if value not in (None, "")}
        lines.append(json.dumps(known, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def open_frames(path: Path, fps: float | None = None) -> VideoSource:
    """A video file, or a folder of lossless frames in the order of their names.

    Args:
        path: Of the file or folder.
        fps: Of a folder's frames; None: 30. A file knows its own.

    Raises:
        InputError: there is no such file, or the folder holds no lossless pictures.
    """
    path = Path(path)
    if not path.is_dir():
        return FileSource(path)
    files = tuple(sorted((f for f in path.iterdir() if f.suffix.lower() in LOSSLESS), key=natural))
    if not files:
        raise InputError(f"{path} holds no lossless frames ({', '.join(LOSSLESS)})")
    return ArraySource(Pictures(files), fps or DEFAULT_FPS)


@dataclass(frozen=True)
class Pictures(Sequence[Picture]):
    """Picture files as frames, read when they are asked for."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, number: int) -> Picture: ...

    @overload
    def __getitem__(self, number: slice) -> Pictures: ...

    def __getitem__(self, number: int | slice) -> Picture | Pictures:
        if isinstance(number, slice):
            return Pictures(self.files[number])
        file = self.files[number]
        try:
            with Image.open(file) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"{file} cannot be read as a picture ({error})") from error


def _documents(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of an index as plain data, each with its place for messages."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the index {path} cannot be read ({error})") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: no JSON ({error})") from error
    elif path.suffix in (".yaml", ".yml"):
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
        videos = document.get("videos") if isinstance(document, Mapping) else document
        if not isinstance(videos, list):
            raise InputError(f"{path} must hold a list of videos, by itself or under `videos:`")
        for number, record in enumerate(videos, 1):
            yield f"video {number}", record
    else:
        raise InputError(f"{path} is no index; one ends in .jsonl or .yaml")


def _record(path: Path, place: str, document: Any) -> Record:
    where = f"{path}, {place}"
    if not isinstance(document, Mapping):
        raise InputError(f"{where}: a video is an object with id, video and edits")
    if unknown := sorted(map(str, document.keys() - FIELDS)):
        raise InputError(f"{where}: {unknown[0]!r} is unknown; known are {', '.join(sorted(FIELDS))}")
    name, video, edits = document.get("id"), document.get("video"), document.get("edits") or {}
    name = str(name) if isinstance(name, str | int) else None
    if name is None or not NAME.fullmatch(name) or name.startswith("."):
        raise InputError(f"{where}: the id must be of letters, digits, '.', '_' and '-', and is {name!r}")
    if not isinstance(video, str) or not video:
        raise InputError(f"{where}: video must name a file, and is {video!r}")
    file = path.parent / video
    if not file.exists():
        raise InputError(f"{where}: there is no video {file}")
    if not isinstance(edits, Mapping):
        raise InputError(f"{where}: edits must map names to prompts")
    for kind, prompt in edits.items():
        if not isinstance(kind, str) or not NAME.fullmatch(kind) or "." in kind:
            raise InputError(f"{where}: the name of an edit must be of letters, digits, '_' and '-', and is {kind!r}")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{where}: the prompt of {kind} is empty or no text")
    fps, caption = document.get("fps"), document.get("caption") or ""
    if fps is not None and not (isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < 1e4):
        raise InputError(f"{where}: fps must be a number above 0, and is {fps!r}")
    if not isinstance(caption, str):
        raise InputError(f"{where}: the caption must be text")
    provenance = document.get("provenance") or {}
    if not isinstance(provenance, Mapping):
        raise InputError(f"{where}: provenance must map the caption and edits to where they come from")
    prompts = {k: " ".join(p.split()) for k, p in edits.items()}
    return Record(name, file, prompts, " ".join(caption.split()), fps, provenance)


def natural(path: Path) -> tuple[Any, ...]:
    """A key by which frame 10 comes after frame 9."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix()))
