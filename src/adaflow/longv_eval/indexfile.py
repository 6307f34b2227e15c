"""An index that is being completed: where it begins, and how it is kept so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..disk import disk_errors
from ..errors import InputError
from ..store import sync_folder
from .dataset import INDEXES, Index, Record, load_index
from .indexing import make_index

CAPTION = "caption"
"""The name of a caption's provenance."""
LACKING = " has no prompt"  # what an index says of videos that are about to be asked about


def working_index(place: Path, out: Path | None) -> tuple[Index, tuple[str, ...]]:
    """The index to be completed, with what is in it already, and what a folder holds that found no place in it.

    Args:
        place: An index, a folder with one, or a folder of videos.
        out: Where it will be written, beside what may be there of a former run; None: where it is.

    Raises:
        InputError: there is neither, it is wrong, or it cannot be written to that place.
    """
    notes: tuple[str, ...] = ()
    if place.is_dir() and not any((place / name).is_file() for name in INDEXES):
        placed = make_index(place, out)
        index, notes = placed.index, tuple(note for note in placed.unplaced if LACKING not in note)
    else:
        index = load_index(place)
    if out is None and index.file.suffix != ".jsonl":
        raise InputError(f"{index.file} is only read; name a place for the annotated index with --out FILE.jsonl")
    if out is not None:
        if out.suffix != ".jsonl":
            raise InputError(f"--out is {out}; an index is written as .jsonl")
        former = load_index(out) if out.exists() else Index(out, ())
        index = _joined(index, former)
    return replace(index, records=tuple(_own_provenance(record) for record in index.records)), notes


class IndexFile:
    """An index that is replaced as a whole, and by nobody else meanwhile."""

    def __init__(self, file: Path) -> None:
        self._file = file.resolve()  # a link stays one
        self._text = self._read()

    def write(self, text: str) -> None:
        """Replace it, durably; on failure the former one stays."""
        if text == self._text:
            return
        if self._read() != self._text:
            raise InputError(f"{self._file} was changed by somebody else meanwhile; run the same command again")
        part = self._file.with_name(f".{self._file.name}.part")
        try:
            with disk_errors(self._file, "written"):
                with open(part, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                if self._text is not None:
                    shutil.copymode(self._file, part)
                os.replace(part, self._file)
                sync_folder(self._file.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        self._text = text

    def _read(self) -> str | None:
        with disk_errors(self._file, "read"):
            return self._file.read_text(encoding="utf-8") if self._file.exists() else None


def digest(text: str) -> str:
    """By which a text is known again."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _joined(index: Index, former: Index) -> Index:
    """The records of an index, with what a former run of it had answered, at the place of the latter."""
    answered = {record.id: record for record in former.records}
    known = {record.id for record in index.records}
    if strangers := [name for name in answered if name not in known]:
        raise InputError(f"{former.file} has a video {strangers[0]!r} that {index.file} has not; choose another place")
    records = []
    for record in index.records:
        if other := answered.get(record.id):
            record = replace(
                record,
                caption=record.caption or other.caption,
                edits={**other.edits, **record.edits},
                provenance={**other.provenance, **record.provenance},
            )
        records.append(record)
    return Index(former.file, tuple(records))


def _own_provenance(record: Record) -> Record:
    """Without that of texts which a person has changed or deleted since."""
    texts = {**record.edits, CAPTION: record.caption}
    kept = {
        name: origin
        for name, origin in record.provenance.items()
        if isinstance(origin, Mapping) and name in texts and origin.get("sha256") == digest(texts[name])
    }
    return replace(record, provenance=kept)
