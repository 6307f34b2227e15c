"""A stage of a workspace: one folder with arrays, JSON files and the count of finished work."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .diskarray import DTYPE_NAMES, DTYPES, DiskArray, check_shape
from .errors import WorkspaceError
from .store import STAGE, StageRecord, check_name, read_json, remove, write_json


class Stage:
    """One folder of results that depend on exactly one key: arrays, JSON files, and how much of the work is finished.

    Attributes:
        name, key: As given to `Workspace.stage`.
        folder: Where its files are; other files put there go with it.
        discarded: True once it was removed; `Workspace.stage` then gives a new one.
    """

    def __init__(self, folder: Path, record: StageRecord, check_workspace: Callable[[], None]) -> None:
        self.name = record.name
        self.key: Mapping[str, Any] = record.key
        self.folder = folder
        self.discarded = False
        self._check_workspace = check_workspace  # raises ValueError once the workspace is closed
        self._record = record
        self._arrays: dict[str, DiskArray] = {}
        self._mutex = threading.RLock()

    @property
    def complete(self) -> bool:
        """Whether `finish` was called; its arrays are then read-only, for good."""
        return self._record.state == "complete"

    @property
    def done(self) -> int:
        """Finished units of work, all of whose data is on the disk."""
        return self._record.done

    def array(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> DiskArray:
        """The array `name` of this stage; a new one reads as zeros and has its space reserved.

        Twice the same name gives the same object, until that is closed.

        Raises:
            ResourceError: The disk has not the room for it; nothing is left behind.
            WorkspaceError: It has another shape or type, or the stage is complete without it.
        """
        check_name(name)
        shape = check_shape(shape, dtype)
        asked = shape, DTYPE_NAMES[dtype]
        with self._mutex:
            self._check_open()
            recorded = self._record.arrays.get(name)
            if recorded is not None and recorded != asked:
                raise WorkspaceError(
                    f"{self.folder / name}.bin is {recorded[0]} of {recorded[1]}, and {shape} of "
                    f"{asked[1]} is asked for; delete the folder {self.folder} and run the same command again"
                )
            array = self._arrays.get(name)
            if array is not None and not array._file.closed:
                return array
            path = self.folder / f"{name}.bin"
            if recorded is not None:
                array = DiskArray.open(path, shape, dtype, writable=not self.complete)
            elif self.complete:
                raise WorkspaceError(
                    f"the stage {self.folder} is complete without {name}.bin; delete it and run the same command again"
                )
            else:
                array = DiskArray.create(path, shape, dtype)
                try:
                    self._save(arrays={**self._record.arrays, name: asked})
                except BaseException:
                    array._file.close()
                    path.unlink()
                    raise
            self._arrays[name] = array
            return array

    def existing(self, name: str) -> DiskArray:
        """The array `name` with the shape and type it was made with.

        Raises:
            WorkspaceError: The stage has none of this name.
        """
        with self._mutex:
            self._check_open()
            if name not in self._record.arrays:
                raise WorkspaceError(
                    f"the stage {self.folder} has no {name}.bin; delete it and run the same command again"
                )
            shape, dtype = self._record.arrays[name]
            return self.array(name, shape, DTYPES[dtype])

    def read_json(self, name: str, default: Any = None) -> Any:
        """What `write_json` wrote under `name`, or `default` if it wrote nothing.

        Raises:
            WorkspaceError: The file is damaged.
        """
        path = self._json_path(name)
        with self._mutex:
            self._check_open()
            return read_json(path, self.folder) if os.path.lexists(path) else default

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` (JSON values) as ``{name}.json``, whole or not at all, and onto the disk.

        Allowed in a complete stage too.

        Raises:
            ResourceError, WorkspaceError: The disk is full, or fails; the former value stays.
        """
        path = self._json_path(name)
        with self._mutex:
            self._check_open()
            write_json(path, value)

    def advance(self, done: int) -> None:
        """Record that `done` units are finished: everything written so far to the arrays first, then the count.

        Raises:
            ValueError: Fewer than before, or the stage is complete.
            ResourceError, WorkspaceError: The disk is full, or fails; the former count stays.
        """
        done = operator.index(done)
        with self._mutex:
            self._check_open()
            if self.complete or done < self.done:
                raise ValueError(
                    f"{self.folder.name} has {self.done} units done{' in all' * self.complete}, not {done}"
                )
            self._flush()
            self._save(done=done)

    def finish(self) -> None:
        """Bring everything onto the disk and mark the stage complete. Again: nothing. Raises as `advance` does."""
        with self._mutex:
            self._check_open()
            if not self.complete:
                self._flush()
                self._save(state="complete")
                for array in self._arrays.values():
                    array._file.writable = False

    def discard(self) -> None:
        """Remove the stage and all its files; a kill in between leaves the whole stage or none of it. Again: nothing.

        Arrays handed out can be read until they are closed or forgotten; only then is their space free.

        Raises:
            WorkspaceError: The folder cannot be removed.
        """
        with self._mutex:
            if self.discarded:
                return
            self._check_open()
            self._release()
            remove(self.folder)
            self.discarded = True

    def __repr__(self) -> str:
        return f"Stage({self.folder.name!r}, done={self.done}, complete={self.complete})"

    def _json_path(self, name: str) -> Path:
        check_name(name)
        if name == "stage":
            raise ValueError("stage.json is the stage's own record; use another name")
        return self.folder / f"{name}.json"

    def _check_open(self) -> None:
        self._check_workspace()
        if self.discarded:
            raise ValueError(f"the stage {self.folder} was discarded; ask the workspace for a new one")

    def _flush(self) -> None:
        for array in self._arrays.values():
            if not array._file.closed:  # a closed one was flushed then
                array.flush()

    def _save(self, **changes: Any) -> None:
        record = StageRecord(**{**vars(self._record), **changes})
        write_json(self.folder / STAGE, record.as_json())
        self._record = record

    def _release(self) -> None:
        """No more writing; who holds an array may go on reading it, even from a file that is removed."""
        with self._mutex:
            for array in self._arrays.values():
                array._file.writable = False
            self._arrays.clear()
