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
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import math
import operator
import os
import re
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from .diskarray import DTYPE_NAMES, DTYPES, check_shape, disk_errors, format_bytes, free_bytes
from .diskarray import DiskArray as DiskArray  # what a stage hands out, so importable from here
from .errors import ResourceError, WorkspaceError

FORMAT = 1  # of the files below; another number is refused

State = Literal["begun", "complete", "broken"]

_MANIFEST, _LOCK, _STAGES, _STAGE = "manifest.json", "lock", "stages", "stage.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageInfo:
    """What is known of a stage from outside."""

    name: str
    folder: str  # its name within the workspace: ``{name}-{16 hex}``
    key: Mapping[str, Any] = field(default_factory=dict)
    state: State
    done: int = 0  # finished units
    bytes: int  # allocated on disk
    last_used: float  # seconds since the epoch
    problem: str | None = None  # of a broken one, a sentence


@dataclass(frozen=True, kw_only=True)
class WorkspaceInfo:
    """What is known of a workspace without opening it; `problem` is a sentence if it cannot be opened."""

    root: Path
    describe: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""  # ISO 8601, UTC
    version: str = ""  # of adaflow, when it was created
    bytes: int = 0  # allocated on disk
    last_used: float = 0.0  # seconds since the epoch
    in_use_by: int | None = None  # PID on this machine; a guess, since only the lock knows
    stages: tuple[StageInfo, ...] = ()
    problem: str | None = None


class Workspace:
    """A folder of stages, held by one process at a time. Use `open`; a context manager.

    Threads may share it. A child made by ``os.fork`` shares the lock as well, and holds it until it ends.
    """

    def __init__(self, root: Path, manifest: dict[str, Any], lock: _Lock) -> None:
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
        lock = _Lock.take(root)
        try:
            _refuse_foreign(root)
            if os.path.exists(root / _MANIFEST):
                manifest = _read_manifest(root)
                _check_identity(root, manifest["identity"], wanted)
                if describe and describe != manifest["describe"]:
                    with contextlib.suppress(ResourceError, WorkspaceError):  # words are not worth a failure
                        _write_json(root / _MANIFEST, {**manifest, "describe": describe})
                        manifest["describe"] = describe
            else:
                manifest = {
                    "format": FORMAT,
                    "version": _version(),
                    "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    "describe": describe,
                    "identity": wanted,
                }
                _write_json(root / _MANIFEST, manifest)
            with disk_errors(root, "used as a workspace"):
                (root / _STAGES).mkdir(exist_ok=True)
            for leftover in (root / _STAGES).glob(".*-*"):  # of a kill while a stage was made or removed
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
        _check_name(name)
        text = canonical_json(key)
        folder = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        with self._mutex:
            self._check_open()
            stage = self._stages.get(folder)
            if stage is None or stage.discarded:
                stage = self._stages[folder] = self._open_stage(name, json.loads(text), self.root / _STAGES / folder)
            return stage

    def stages(self) -> list[StageInfo]:
        """All stages on disk, by folder name; a damaged one has state ``broken``."""
        return _stage_infos(self.root)

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
                    _remove(self.root / _STAGES / info.folder)
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
            record = _read_stage(folder)
            if record.name != name or canonical_json(record.key) != canonical_json(key):
                raise _damaged(folder / _STAGE, folder, "does not belong to this stage")
            with disk_errors(folder, "read"):
                damage = record.damage(folder)
            if damage is None:
                with contextlib.suppress(OSError):
                    os.utime(folder / _STAGE)  # when it was last used
                return Stage(self, folder, record)
            _log.warning("%s: %s; the stage is begun anew", folder, damage)
            _remove(folder)
        record = _StageRecord(name, key)
        new = folder.with_name(f".new-{folder.name}")
        try:
            with disk_errors(folder, "created"):
                new.mkdir(exist_ok=True)
                _write_json(new / _STAGE, record.as_json())
                new.rename(folder)
                _sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return Stage(self, folder, record)


class Stage:
    """One folder of results that depend on exactly one key: arrays, JSON files, and how much of the work is finished.

    Attributes:
        name, key: As given to `Workspace.stage`.
        folder: Where its files are; other files put there go with it.
        discarded: True once it was removed; `Workspace.stage` then gives a new one.
    """

    def __init__(self, workspace: Workspace, folder: Path, record: _StageRecord) -> None:
        self.name = record.name
        self.key: Mapping[str, Any] = record.key
        self.folder = folder
        self.discarded = False
        self._workspace = workspace
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
        _check_name(name)
        shape = check_shape(shape, dtype)
        with self._mutex:
            self._check_open()
            recorded = self._record.arrays.get(name)
            if recorded is not None and recorded != (shape, dtype):
                raise WorkspaceError(
                    f"{self.folder / name}.bin is {recorded[0]} of {DTYPE_NAMES[recorded[1]]}, and {shape} of "
                    f"{DTYPE_NAMES[dtype]} is asked for; delete the folder {self.folder} and run the same command again"
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
                    self._save(arrays={**self._record.arrays, name: (shape, dtype)})
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
            return self.array(name, *self._record.arrays[name])

    def read_json(self, name: str, default: Any = None) -> Any:
        """What `write_json` wrote under `name`, or `default` if it wrote nothing.

        Raises:
            WorkspaceError: The file is damaged.
        """
        path = self._json_path(name)
        with self._mutex:
            self._check_open()
            return _read_json(path, self.folder) if os.path.lexists(path) else default

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` (JSON values) as ``{name}.json``, whole or not at all, and onto the disk.

        Allowed in a complete stage too.

        Raises:
            ResourceError, WorkspaceError: The disk is full, or fails; the former value stays.
        """
        path = self._json_path(name)
        with self._mutex:
            self._check_open()
            _write_json(path, value)

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
            _remove(self.folder)
            self.discarded = True

    def __repr__(self) -> str:
        return f"Stage({self.folder.name!r}, done={self.done}, complete={self.complete})"

    def _json_path(self, name: str) -> Path:
        _check_name(name)
        if name == "stage":
            raise ValueError("stage.json is the stage's own record; use another name")
        return self.folder / f"{name}.json"

    def _check_open(self) -> None:
        self._workspace._check_open()
        if self.discarded:
            raise ValueError(f"the stage {self.folder} was discarded; ask the workspace for a new one")

    def _flush(self) -> None:
        for array in self._arrays.values():
            if not array._file.closed:  # a closed one was flushed then
                array.flush()

    def _save(self, **changes: Any) -> None:
        record = _StageRecord(**{**vars(self._record), **changes})
        _write_json(self.folder / _STAGE, record.as_json())
        self._record = record

    def _release(self) -> None:
        """No more writing; who holds an array may go on reading it, even from a file that is removed."""
        with self._mutex:
            for array in self._arrays.values():
                array._file.writable = False
            self._arrays.clear()


def cache_folder() -> Path:
    """Where adaflow keeps things: ``$ADAFLOW_CACHE``, else ``adaflow`` in the user's cache directory."""
    if chosen := os.environ.get("ADAFLOW_CACHE"):
        return Path(os.path.abspath(Path(chosen).expanduser()))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "adaflow"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "adaflow"


def default_root(fingerprint: str) -> Path:
    """The workspace folder for a video: ``cache_folder() / "workspaces"`` and 16 hex digits.

    Args:
        fingerprint: Of the video's content; of a hex digest, the first 16 digits are taken as they are.
    """
    known = re.match(r"[0-9a-f]{16,}$", fingerprint)
    return (
        cache_folder() / "workspaces" / (known[0] if known else hashlib.sha256(fingerprint.encode()).hexdigest())[:16]
    )


def workspace_info(root: Path) -> WorkspaceInfo:
    """What is at `root`, without taking its lock and without raising: a broken one says so in `problem`."""
    root = Path(root)
    manifest: dict[str, Any] = {"describe": "", "identity": {}, "created": "", "version": ""}
    problem = None
    try:
        manifest = _read_manifest(root)
    except WorkspaceError as error:
        problem = str(error)
    stages = tuple(_stage_infos(root))
    times = [_modified(root / _LOCK), _modified(root / _MANIFEST), *(stage.last_used for stage in stages)]
    return WorkspaceInfo(
        root=root,
        bytes=_bytes_used(root),
        last_used=max(times) or _modified(root),
        in_use_by=_Lock.holder(root),
        stages=stages,
        problem=problem,
        **{name: manifest[name] for name in ("describe", "identity", "created", "version")},
    )


def list_workspaces(cache: Path | None = None) -> list[WorkspaceInfo]:
    """All workspaces under a cache folder (default: `cache_folder`), the last used first."""
    infos = [workspace_info(root) for root in _workspace_folders(cache)]
    return sorted(infos, key=lambda info: info.last_used, reverse=True)


def prune_workspaces(cache: Path | None = None, max_bytes: int | None = None, older_than: float | None = None) -> int:
    """Remove whole workspaces, the least recently used first, never one that is in use.

    Args:
        cache: The cache folder; default: `cache_folder`.
        max_bytes: Remove until at most this many bytes are used in all, those in use counted.
        older_than: Remove those last used more than this many seconds ago.

    Returns:
        The bytes freed. With neither limit, nothing is removed.
    """
    for leftover in _workspaces(cache).glob(".trash-*"):  # of a kill while pruning
        shutil.rmtree(leftover, ignore_errors=True)
    infos = list_workspaces(cache)
    total, freed = sum(info.bytes for info in infos), 0
    for info in reversed(infos):
        old = older_than is not None and time.time() - info.last_used > older_than
        if (old or (max_bytes is not None and total - freed > max_bytes)) and _remove_workspace(info.root):
            freed += info.bytes
    return freed


def canonical_json(value: Mapping[str, Any]) -> str:
    """The one text of these JSON values: sorted names, no spaces. Raises TypeError, ValueError for others (NaN too)."""
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


class _Lock:
    """An exclusive flock on ``root/lock``, which holds the PID and host of its owner for others to name."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()

    @classmethod
    def take(cls, root: Path) -> _Lock:
        path = root / _LOCK
        while True:
            with disk_errors(path, "locked"):
                root.mkdir(parents=True, exist_ok=True)
                lock = cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
                try:
                    fcntl.flock(lock._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise WorkspaceError(_busy(root)) from None
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock._fd), os.stat(path)):
                        break  # else the workspace was pruned just before: this is the lock of what is no more
        with contextlib.suppress(OSError):  # a full disk must not keep a workspace from being opened and pruned
            os.utime(path)  # when it was last used
            os.ftruncate(lock._fd, 0)
            os.pwrite(lock._fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        return lock

    def release(self) -> None:
        if self._fd >= 0 and self._pid == os.getpid():  # not in a child made by os.fork, while the parent goes on
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self._close()

    @staticmethod
    def owner(root: Path) -> tuple[int, str] | None:
        """The PID and host written in the lock, which may be those of a process that was killed."""
        with contextlib.suppress(OSError, ValueError):
            pid, host = (root / _LOCK).read_text().split()
            return int(pid), host
        return None

    @classmethod
    def holder(cls, root: Path) -> int | None:
        owner = cls.owner(root)
        if owner is None or owner[1] != socket.gethostname():
            return None
        try:
            os.kill(owner[0], 0)
        except (ProcessLookupError, OverflowError):
            return None
        except OSError:
            pass  # there, but somebody else's
        return owner[0]


def _busy(root: Path) -> str:
    owner = _Lock.owner(root)
    if owner is None:
        return f"{root} is in use by another process; wait until that has ended, or use another workspace"
    pid, host = owner
    if host == socket.gethostname() and pid == os.getpid():
        return f"{root} is already open in this process (PID {pid}); close it first, or use another workspace"
    where = "" if host == socket.gethostname() else f" on {host}"
    return (
        f"{root} is in use by another process (PID {pid}{where}); "
        f"wait until that has ended, stop it (kill {pid}), or use another workspace"
    )


@dataclass(frozen=True)
class _StageRecord:
    """The content of ``stage.json``."""

    name: str
    key: dict[str, Any]
    state: Literal["begun", "complete"] = "begun"
    done: int = 0
    arrays: dict[str, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        arrays = {name: {"shape": shape, "dtype": DTYPE_NAMES[dtype]} for name, (shape, dtype) in self.arrays.items()}
        return {**vars(self), "arrays": arrays}

    @classmethod
    def from_json(cls, value: Any) -> _StageRecord:
        """Raises KeyError, TypeError or ValueError if it is not one."""
        name, key, state, done = (value[field] for field in ("name", "key", "state", "done"))
        if not (isinstance(name, str) and isinstance(key, dict) and isinstance(value["arrays"], dict)):
            raise TypeError("name, key or arrays")
        if state not in ("begun", "complete") or type(done) is not int or done < 0:
            raise ValueError("state or done")
        arrays = {}
        for array, entry in value["arrays"].items():
            _check_name(array)
            dtype = DTYPES[entry["dtype"]]
            arrays[array] = (check_shape(entry["shape"], dtype), dtype)
        return cls(name, key, state, done, arrays)

    def damage(self, folder: Path) -> str | None:
        """What is wrong with the array files, if anything."""
        for name, (shape, dtype) in self.arrays.items():
            try:
                size = (folder / f"{name}.bin").stat().st_size
            except FileNotFoundError:
                return f"{name}.bin is missing"
            expected = math.prod(shape) * dtype.itemsize
            if size != expected:
                return f"{name}.bin has {size:,} bytes instead of {expected:,}"
        return None


def _refuse_foreign(root: Path) -> None:
    """Refuse a folder with other people's files; one in which making a workspace was killed is fine."""
    with disk_errors(root, "read"):
        names = os.listdir(root)
    if names and _MANIFEST not in names and not set(names) <= {_LOCK, f".{_MANIFEST}.new"}:
        raise WorkspaceError(
            f"{root} is not empty and is no workspace; choose a folder that is empty or does not exist"
        )


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / _MANIFEST
    manifest = _read_json(path, root)
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is not int:
        raise _damaged(path, root, "is damaged (it has no format)")
    if version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise WorkspaceError(
            f"{root} was written by {age} version of adaflow (format {version}, and this one reads {FORMAT}); "
            f"use {'a newer' if version > FORMAT else 'that'} version, another workspace, or delete the folder {root}"
        )
    expected = {"identity": dict, "created": str, "version": str, "describe": str}
    for name, kind in expected.items():
        if not isinstance(manifest.get(name), kind):
            raise _damaged(path, root, f"is damaged ({name} is missing)")
    return dict(manifest)


def _read_stage(folder: Path) -> _StageRecord:
    value = _read_json(folder / _STAGE, folder)
    try:
        return _StageRecord.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / _STAGE, folder, "is damaged (it is not the record of a stage)") from error


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


def _stage_infos(root: Path) -> list[StageInfo]:
    try:
        folders = sorted(path for path in (root / _STAGES).iterdir() if path.name[0] != "." and os.path.isdir(path))
    except OSError:
        return []
    return [_stage_info(folder) for folder in folders]


def _stage_info(folder: Path) -> StageInfo:
    used, modified = _bytes_used(folder), _modified(folder / _STAGE) or _modified(folder)
    try:
        record = _read_stage(folder)
    except WorkspaceError as error:
        return StageInfo(
            name=folder.name.rpartition("-")[0],
            folder=folder.name,
            state="broken",
            bytes=used,
            last_used=modified,
            problem=str(error),
        )
    try:
        damage = record.damage(folder)
    except OSError as error:
        damage = f"its arrays cannot be looked at ({error.strerror})"
    return StageInfo(
        name=record.name,
        folder=folder.name,
        key=record.key,
        state=record.state if damage is None else "broken",
        done=record.done,
        bytes=used,
        last_used=modified,
        problem=damage and f"{folder}: {damage}; the stage is begun anew when it is needed",
    )


def _workspaces(cache: Path | None) -> Path:
    return (cache_folder() if cache is None else Path(cache)) / "workspaces"


def _workspace_folders(cache: Path | None) -> list[Path]:
    try:
        paths = list(_workspaces(cache).iterdir())
    except OSError:
        return []
    ours = (path for path in paths if os.path.exists(path / _MANIFEST) or re.fullmatch("[0-9a-f]{16}", path.name))
    return sorted(path for path in ours if path.name[0] != "." and os.path.isdir(path))


def _remove_workspace(root: Path) -> bool:
    """Whether it could be removed; not if it is in use, a link to elsewhere, or not ours to remove."""
    if root.is_symlink() or not root.is_dir():
        return False
    try:
        lock = _Lock.take(root)
    except (WorkspaceError, ResourceError):
        return False
    try:
        _remove(root)
    except WorkspaceError as error:
        _log.warning("%s", error)
        return False
    finally:
        lock.release()
    return True


def _remove(folder: Path) -> None:
    """Remove a folder; renamed first, so that a kill leaves no half of it under its name."""
    trash = folder.with_name(f".trash-{secrets.token_hex(8)}")
    with disk_errors(folder, "removed"):
        folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    if os.path.exists(trash):
        _log.warning("%s could not be removed altogether", trash)


def _read_json(path: Path, folder: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _damaged(path, folder, "is missing") from error
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be read ({error.strerror}); check the rights to it and the disk"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, folder, "is damaged (it is not JSON)") from error


def _write_json(path: Path, value: Any) -> None:
    """Replace the file as a whole, durably; on failure the former one stays."""
    data = json.dumps(value, indent=1).encode() + b"\n"
    new = path.with_name(f".{path.name}.new")
    try:
        with disk_errors(path, "written", needed=len(data)):
            with open(new, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Make renames in the folder durable, where the file system knows how."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def _damaged(path: Path, folder: Path, what: str) -> WorkspaceError:
    return WorkspaceError(f"{path} {what}; delete the folder {folder} and run the same command again")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a name within a workspace has only letters, digits and _.-, not {name!r}")


def _bytes_used(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _version() -> str:
    try:
        return importlib.metadata.version("adaflow")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
