"""An index made of a folder of videos and whatever tables of prompts lie in it; what finds no place is said.

LongV-EVAL is published as videos with prompts beside them, and people's own folders are alike but never equal. Files of
JSON, JSON Lines, CSV, TSV and YAML are read as rows; a row belongs to the video it names, by file name or its stem; a
column is taken by its name. Nothing is guessed beyond that: a person is told instead.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, MissingError
from .dataset import INDEXES, Index, Record, natural

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
TABLES = (".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".txt")
CLOSED = (".parquet", ".arrow", ".xlsx", ".xls", ".ods", ".pkl", ".zip", ".tar", ".gz")
KINDS = {
    "foreground": ("foreground", "object", "fg"),
    "background": ("background", "bg"),
    "style": ("style",),
}
"""The edits of LongV-EVAL, and the words that columns and rows name them by."""
CAPTIONS = ("caption", "description", "source_prompt", "original", "original_prompt", "source")
PROMPTS = ("prompt", "edit_prompt", "target_prompt", "target", "edit", "text")
WHICH = ("kind", "type", "edit_type", "category", "task")
NAMES = ("id", "video", "name", "file", "filename", "video_name", "video_id", "path", "video_path")
QUIET = ("fps", "duration", "frames", "width", "height", "url", "source_url", "license", "index")
"""Columns that are known and of no use here."""
HUB = "zhangsh2001/LongV-EVAL"
"""Where LongV-EVAL is published."""


@dataclass(frozen=True)
class Placed:
    """An index, and in a sentence each what found no place in it."""

    index: Index
    unplaced: tuple[str, ...]


def fetch_dataset(repository: str, folder: Path) -> None:
    """Bring a data set of the hub into a folder: videos and tables, nothing else.

    Raises:
        MissingError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in (*VIDEOS, *TABLES, ".md")]
    try:
        snapshot_download(repository, repo_type="dataset", local_dir=folder, allow_patterns=patterns)
    except Exception as error:  # the hub client has no common base for network, cache and permission errors
        reason = " ".join(str(error).split()).split(". ")[0]
        raise MissingError(f"{repository} could not be fetched ({reason}); check the network and the name") from error


def make_index(folder: Path, out: Path | None = None) -> Placed:
    """Find the videos of a folder and what should become of them.

    Args:
        folder: Looked through with all that is in it.
        out: Where the index will be; None: ``index.jsonl`` in the folder. Nothing is written here.

    Raises:
        InputError: there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; fetch LongV-EVAL into it with --hub {HUB}")
    files = sorted((f for f in folder.rglob("*") if f.is_file() and not _hidden(f, folder)), key=natural)
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    if not videos:
        raise InputError(f"{folder} holds no videos ({', '.join(VIDEOS)})")
    return _Placing(folder, videos).done(files, out or folder / INDEXES[0])


class _Placing:
    """Videos by name, and what the tables say of them."""

    def __init__(self, folder: Path, videos: list[Path]) -> None:
        self._folder = folder
        self._said: list[str] = []
        self._videos: dict[str, Path] = {}
        for video in videos:
            name = _name(video.stem)
            if name in self._videos:
                name = _name("-".join(video.relative_to(folder).with_suffix("").parts))
            while name in self._videos:
                name += "-again"
            self._videos[name] = video
        self._captions: dict[str, str] = {}
        self._edits: dict[str, dict[str, str]] = {name: {} for name in self._videos}

    def done(self, files: list[Path], out: Path) -> Placed:
        for file in files:
            if file.suffix.lower() in CLOSED:
                self._said.append(f"{self._short(file)} is not read here; export it as CSV or JSON")
            elif file.suffix.lower() in TABLES and file.name not in INDEXES and file != out:
                self._table(file)
        for name, edits in self._edits.items():
            missing = [kind for kind in KINDS if kind not in edits]
            if len(missing) == len(KINDS) and not edits:
                self._said.append(f"{self._short(self._videos[name])} has no prompts")
            elif missing:
                self._said.append(f"{self._short(self._videos[name])} has no prompt for {' and '.join(missing)}")
        records = tuple(
            Record(name, video, self._edits[name], self._captions.get(name, "")) for name, video in self._videos.items()
        )
        return Placed(Index(out, records), tuple(self._said))

    def _table(self, file: Path) -> None:
        try:
            rows = list(_rows(file))
        except (OSError, ValueError, yaml.YAMLError, csv.Error) as error:
            self._said.append(f"{self._short(file)} cannot be read ({' '.join(str(error).split())[:120]})")
            return
        unknown: dict[str, None] = {}
        strangers = 0
        for row in rows:
            name = self._video_of(row)
            if name is None:
                strangers += 1
            else:
                self._row(file, name, row, unknown)
        if strangers:
            what = "names no video of the folder" if strangers == 1 else "name no video of the folder"
            self._said.append(f"{self._short(file)}: {strangers} of {len(rows)} rows {what}")
        if unknown:
            columns = ", ".join(repr(column) for column in unknown)
            self._said.append(f"{self._short(file)}: no place for the column{'s' * (len(unknown) > 1)} {columns}")

    def _video_of(self, row: Mapping[str, Any]) -> str | None:
        """The video a row names: first by columns that are for names, then by any value."""
        given = {str(key).strip().lower(): value for key, value in row.items()}
        values = [given[key] for key in NAMES if key in given] + list(given.values())
        for value in values:
            if isinstance(value, str | int):
                text = str(value).strip()
                for name in (_name(Path(text).stem), _name(text)) if text else ():
                    if name in self._videos:
                        return name
        return None

    def _row(self, file: Path, name: str, row: Mapping[str, Any], unknown: dict[str, None]) -> None:
        given = {str(key).strip().lower().replace(" ", "_"): value for key, value in row.items()}
        which = next((kind for key in WHICH if key in given for kind in [_kind(str(given[key]))] if kind), None)
        for key, value in given.items():
            kind = _kind(key)
            if key in NAMES or key in QUIET or key in WHICH or value in (None, ""):
                continue
            if isinstance(value, Mapping) and key in ("edits", "prompts", *PROMPTS):
                self._row(file, name, value, unknown)
            elif isinstance(value, list) and key in ("edits", "prompts", *PROMPTS) and len(value) == len(KINDS):
                self._row(file, name, dict(zip(KINDS, value, strict=True)), unknown)  # in the paper's order
            elif not isinstance(value, str):
                unknown[key] = None
            elif key in CAPTIONS:
                self._put(file, name, "caption", value, self._captions, name)
            elif kind is not None:
                self._put(file, name, kind, value, self._edits[name], kind)
            elif key in PROMPTS and which is not None:
                self._put(file, name, which, value, self._edits[name], which)
            else:
                unknown[key] = None

    def _put(self, file: Path, video: str, what: str, text: str, into: dict[str, str], key: str) -> None:
        text = " ".join(text.split())
        if into.setdefault(key, text) != text:
            self._said.append(f"{self._short(file)}: a second {what} for {video} is left out: {text!r}")

    def _short(self, file: Path) -> str:
        return file.relative_to(self._folder).as_posix()


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table; what is keyed by video has the key as its ``id``.

    Raises:
        ValueError, YAMLError, csv.Error: it is none.
    """
    text = file.read_text(encoding="utf-8-sig")
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from csv.DictReader(text.splitlines(), delimiter="\t" if suffix == ".tsv" else ",", restval="")
    elif suffix == ".txt":
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) == len(KINDS):  # beside a video: its three prompts in the paper's order
            yield {"id": file.stem, **dict(zip(KINDS, lines, strict=True))}
        elif len(lines) == 1:
            yield {"id": file.stem, "caption": lines[0]}
        else:
            raise ValueError(f"{len(lines)} lines; one is a caption, three are prompts")
    elif suffix == ".jsonl":
        yield from _objects([json.loads(line) for line in text.splitlines() if line.strip()])
    else:
        yield from _objects(json.loads(text) if suffix == ".json" else yaml.safe_load(text))


def _objects(document: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(document, Mapping):
        lists = [value for value in document.values() if isinstance(value, list) and _all_objects(value)]
        if len(lists) == 1:
            document = lists[0]
        else:
            for key, value in document.items():
                yield {"id": key, **(value if isinstance(value, Mapping) else {"prompts": value})}
            return
    if not isinstance(document, list) or not _all_objects(document):
        raise ValueError("no list of rows")
    yield from document


def _all_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, Mapping) for value in values)


def _kind(word: str) -> str | None:
    """The edit that a word names."""
    parts = re.split(r"[\W_]+", word.lower())
    return next((kind for kind, words in KINDS.items() if any(w in parts for w in words)), None)


def _name(stem: str) -> str:
    """A stem as an id."""
    return re.sub(r"[^\w.-]+", "-", stem).strip(".") or "video"


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
