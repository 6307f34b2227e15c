"""The files of a workspace as they lie on the disk: manifest, records of stages, JSON replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .disk import ITEM_BYTES, disk_errors, sizes_of
from .errors import WorkspaceError

FORMAT = 1  # of the files below; another number is refused

MANIFEST, STAGES, STAGE = "manifest.json", "stages", "stage.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_log = logging.getLogger(__name__)

State = Literal["begun", "complete", "broken"]


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


@dataclass(frozen=True)
class StageRecord:
    """The content of ``stage.json``."""

    name: str
    key: dict[str, Any]
    state: Literal["begun", "complete"] = "begun"
    done: int = 0
    arrays: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)  # shape, and one of ITEM_BYTES

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        arrays = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in self.arrays.items()}
        return {**vars(self), "arrays": arrays}

    @classmethod
    def from_json(cls, value: Any) -> StageRecord:
        """Raises KeyError, TypeError or ValueError if it is not one."""
        name, key, state, done = (value[field] for field in ("name", "key", "state", "done"))
        if not (isinstance(name, str) and isinstance(key, dict) and isinstance(value["arrays"], dict)):
            raise TypeError("name, key or arrays")
        if state not in ("begun", "complete") or type(done) is not int or done < 0:
            raise ValueError("state or done")
        arrays = {}
        for array, entry in value["arrays"].items():
            check_name(array)
            if entry["dtype"] not in ITEM_BYTES:
                raise ValueError("dtype")
            arrays[array] = (sizes_of(entry["shape"]), entry["dtype"])
        return cls(name, key, state, done, arrays)

    def damage(self, folder: Path) -> str | None:
        """What is wrong with the array files, if anything."""
        for name, (shape, dtype) in self.arrays.items():
            try:
                size = (folder / f"{name}.bin").stat().st_size
            except FileNotFoundError:
                return f"{name}.bin is missing"
            expected = math.prod(shape) * ITEM_BYTES[dtype]
            if size != expected:
                return f"{name}.bin has {size:,} bytes instead of {expected:,}"
        return None


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a workspace, with all its fields; WorkspaceError if it is damaged or of another format."""
    path = root / MANIFEST
    manifest = read_json(path, root)
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is not int:
        raise damaged(path, root, "is damaged (it has no format)")
    if version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise WorkspaceError(
            f"{root} was written by {age} version of adaflow (format {version}, and this one reads {FORMAT}); "
            f"use {'a newer' if version > FORMAT else 'that'} version, another workspace, or delete the folder {root}"
        )
    expected = {"identity": dict, "created": str, "version": str, "describe": str}
    for name, kind in expected.items():
        if not isinstance(manifest.get(name), kind):
            raise damaged(path, root, f"is damaged ({name} is missing)")
    return dict(manifest)


def read_stage(folder: Path) -> StageRecord:
    """The record of the stage in `folder`; WorkspaceError if it is damaged."""
    value = read_json(folder / STAGE, folder)
    try:
        return StageRecord.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / STAGE, folder, "is damaged (it is not the record of a stage)") from error


def stage_infos(root: Path) -> list[StageInfo]:
    """All stages of the workspace at `root`, by folder name; a damaged one has state ``broken``."""
    try:
        folders = sorted(path for path in (root / STAGES).iterdir() if path.name[0] != "." and os.path.isdir(path))
    except OSError:
        return []
    return [_stage_info(folder) for folder in folders]


def _stage_info(folder: Path) -> StageInfo:
    used, modified = bytes_used(folder), last_modified(folder / STAGE) or last_modified(folder)
    try:
        record = read_stage(folder)
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


def read_json(path: Path, folder: Path) -> Any:
    """What the file says; WorkspaceError if it is damaged, which advises to delete `folder`."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise damaged(path, folder, "is missing") from error
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be read ({error.strerror}); check the rights to it and the disk"
        ) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, folder, "is damaged (it is not JSON)") from error


def write_json(path: Path, value: Any) -> None:
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
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def canonical_json(value: Mapping[str, Any]) -> str:
    """The one text of these JSON values: sorted names, no spaces. Raises TypeError, ValueError for others (NaN too)."""
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def remove(folder: Path) -> None:
    """Remove a folder; renamed first, so that a kill leaves no half of it under its name."""
    trash = folder.with_name(f".trash-{secrets.token_hex(8)}")
    with disk_errors(folder, "removed"):
        folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    if os.path.exists(trash):
        _log.warning("%s could not be removed altogether", trash)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder durable, where the file system knows how."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def damaged(path: Path, folder: Path, what: str) -> WorkspaceError:
    """The error for a file that is of no use, with the way out."""
    return WorkspaceError(f"{path} {what}; delete the folder {folder} and run the same command again")


def check_name(name: str) -> None:
    """Refuse, as our bug, what is no name of a stage, an array or a JSON file."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a name within a workspace has only letters, digits and _.-, not {name!r}")


def bytes_used(folder: Path) -> int:
    """Allocated on disk by all files in it."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def last_modified(path: Path) -> float:
    """Seconds since the epoch; 0 for what is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
