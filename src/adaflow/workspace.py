"""The workspace of a video: what is costly to compute, kept on disk so that it is done once and a kill costs little.

::

    <cache>/workspaces/<16 hex>/
        manifest.json                 what the workspace belongs to
        lock                          flock while a process uses it; dies with the process
        stages/<name>-<hash of key>/
            stage.json                key, state, finished units, shapes of the arrays
            <array>.bin  <json>.json

Every JSON file is replaced as a whole, so a kill leaves the old one or the new one. A stage's count of finished units
is written only after the arrays are on the disk, so it never claims what is not there.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .cache import WorkspaceInfo, cache_folder, default_root, list_workspaces, prune_workspaces, workspace_info
from .disk import disk_errors, format_bytes, free_bytes
from .diskarray import DiskArray
from .errors import ResourceError, WorkspaceError
from .lock import LOCK, Lock
from .stagefolder import Stage
from .store import (
    FORMAT,
    MANIFEST,
    STAGE,
    STAGES,
    StageInfo,
    StageRecord,
    State,
    canonical_json,
    check_name,
    damaged,
    read_manifest,
    read_stage,
    remove,
    stage_infos,
    sync_folder,
    write_json,
)

__all__ = [
    "DiskArray",
    "Stage",
    "StageInfo",
    "State",
    "Workspace",
    "WorkspaceInfo",
    "cache_folder",
    "default_root",
    "list_workspaces",
    "prune_workspaces",
    "workspace_info",
]


_log = logging.getLogger(__name__)


class Workspace:
    """A folder of stages, held by one process at a time. Use `open`; a context manager.

    Threads may share it. A child made by ``os.fork`` shares the lock as well, and holds it until it ends.
    """

    def __init__(self, root: Path, manifest: dict[str, Any], lock: Lock) -> None:
        self.root = root
        self.manifest = manifest
        self._lock = lock
        self._stages: dict[str, Stage] = {}
        self._mutex = threading.RLock()
        self._closed = False

    @classmethod
    def open(cls, root: Path, identity: Mapping[str, Any], *, describe: str = "") -> Workspace:
        """Open the workspace at `root`, or make one there, and hold it until `close` or the end of the process.

        Args:
            root: A folder that is a workspace, is empty, or does not exist yet.
            identity: What the workspace belongs to, as JSON values; an existing one must have exactly this.
            describe: Words for `list_workspaces`, such as the path of the video; may differ from time to time.

        Raises:
            WorkspaceError: It is in use, belongs to something else, has another format, is damaged or cannot be
                written; or the folder holds other things.
            ResourceError: The disk is full.
        """
        root = Path(os.path.abspath(Path(root).expanduser()))
        wanted = json.loads(canonical_json(identity))
        if os.path.isfile(root):
            raise WorkspaceError(f"{root} is a file; choose a folder that is empty or does not exist")
        with disk_errors(root, "used as a workspace"):
            root.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(root)
        lock = Lock.take(root)
        try:
            _refuse_foreign(root)
            if os.path.exists(root / MANIFEST):
                manifest = read_manifest(root)
                _check_identity(root, manifest["identity"], wanted)
                if describe and describe != manifest["describe"]:
                    with contextlib.suppress(ResourceError, WorkspaceError):  # words are not worth a failure
                        write_json(root / MANIFEST, {**manifest, "describe": describe})
                        manifest["describe"] = describe
            else:
                manifest = {
                    "format": FORMAT,
                    "version": _version(),
                    "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    "describe": describe,
                    "identity": wanted,
                }
                write_json(root / MANIFEST, manifest)
            with disk_errors(root, "used as a workspace"):
                (root / STAGES).mkdir(exist_ok=True)
            for leftover in (root / STAGES).glob(".*-*"):  # of a kill while a stage was made or removed
                shutil.rmtree(leftover, ignore_errors=True)
        except BaseException:
            lock.release()
            raise
        return cls(root, manifest, lock)

    def stage(self, name: str, key: Mapping[str, Any]) -> Stage:
        """The stage for exactly this `key`: the one on disk, which may be begun or complete, or a new one.

        A stage whose arrays are missing or have another size than recorded counts as not there: it is removed and
        begun anew. Twice the same name and key give the same object.

        Args:
            name: Letters, digits, ``_.-``.
            key: Everything the stage's content depends on, as JSON values.

        Raises:
            WorkspaceError: ``stage.json`` is damaged.
            ResourceError: The disk is full.
        """
        check_name(name)
        text = canonical_json(key)
        folder = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        with self._mutex:
            self._check_open()
            stage = self._stages.get(folder)
            if stage is None or stage.discarded:
                stage = self._stages[folder] = self._open_stage(name, json.loads(text), self.root / STAGES / folder)
            return stage

    def stages(self) -> list[StageInfo]:
        """All stages on disk, by folder name; a damaged one has state ``broken``."""
        return stage_infos(self.root)

    def reserve(self, bytes: int) -> None:
        """Check that `bytes` bytes could still be written here; nothing is set aside (`Stage.array` does that).

        Raises:
            ResourceError: Less is free.
        """
        if bytes < 0:
            raise ValueError(f"bytes cannot be negative: {bytes}")
        with disk_errors(self.root, "measured"):
            free = free_bytes(self.root)
        if bytes > free:
            raise ResourceError(
                f"{format_bytes(bytes)} of disk are needed in {self.root} and {format_bytes(free)} are free; "
                "free some space (adaflow workspace prune), or use a workspace on another disk"
            )

    def prune(self, keep: Collection[str] | Callable[[StageInfo], bool]) -> int:
        """Remove all stages but those to keep; also those of `Stage` objects in use here, as `Stage.discard` does.

        Args:
            keep: Names of stage folders (``stage.folder.name``), or a function that is true for those to keep.

        Returns:
            The bytes freed.
        """
        if isinstance(keep, str):
            raise TypeError("keep is a collection of folder names or a function, not one string")
        keeps = keep if callable(keep) else lambda info, names=frozenset(keep): info.folder in names
        freed = 0
        with self._mutex:
            self._check_open()
            for info in self.stages():
                if keeps(info):
                    continue
                stage = self._stages.pop(info.folder, None)
                if stage is not None:
                    stage.discard()
                else:
                    remove(self.root / STAGES / info.folder)
                freed += info.bytes
        return freed

    def close(self) -> None:
        """Let go of the workspace; what no `Stage.advance` claimed may be lost. Again: nothing.

        Arrays handed out are not written any more, but can be read until they are closed or forgotten.
        """
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            for stage in self._stages.values():
                stage._release()
            self._lock.release()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the workspace {self.root} is closed")

    def _open_stage(self, name: str, key: dict[str, Any], folder: Path) -> Stage:
        if os.path.exists(folder):
            record = read_stage(folder)
            if record.name != name or canonical_json(record.key) != canonical_json(key):
                raise damaged(folder / STAGE, folder, "does not belong to this stage")
            with disk_errors(folder, "read"):
                damage = record.damage(folder)
            if damage is None:
                with contextlib.suppress(OSError):
                    os.utime(folder / STAGE)  # when it was last used
                return Stage(folder, record, self._check_open)
            _log.warning("%s: %s; the stage is begun anew", folder, damage)
            remove(folder)
        record = StageRecord(name, key)
        new = folder.with_name(f".new-{folder.name}")
        try:
            with disk_errors(folder, "created"):
                new.mkdir(exist_ok=True)
                write_json(new / STAGE, record.as_json())
                new.rename(folder)
                sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return Stage(folder, record, self._check_open)


def _refuse_foreign(root: Path) -> None:
    """Refuse a folder with other people's files; one in which making a workspace was killed is fine."""
    with disk_errors(root, "read"):
        names = os.listdir(root)
    if names and MANIFEST not in names and not set(names) <= {LOCK, f".{MANIFEST}.new"}:
        raise WorkspaceError(
            f"{root} is not empty and is no workspace; choose a folder that is empty or does not exist"
        )


def _check_identity(root: Path, kept: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    kept_fields, asked_fields = dict(_flat(kept)), dict(_flat(asked))
    differences = [
        f"{name} is {kept_fields.get(name, 'not set')} there and {asked_fields.get(name, 'not set')} here"
        for name in sorted(kept_fields.keys() | asked_fields.keys())
        if kept_fields.get(name) != asked_fields.get(name)
    ]
    if differences:
        raise WorkspaceError(
            f"{root} belongs to something else: {', '.join(differences)}; "
            f"use another workspace, or delete the folder {root}"
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"size": {"h": 1}}`` as ``("size.h", "1")``."""
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(item, sort_keys=True)


def _version() -> str:
    try:
        return importlib.metadata.version("adaflow")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
