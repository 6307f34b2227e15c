"""The cache folder and the workspaces in it: where they are, what they hold, and removing them."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ResourceError, WorkspaceError
from .lock import LOCK, Lock
from .store import MANIFEST, StageInfo, bytes_used, last_modified, read_manifest, remove, stage_infos

_log = logging.getLogger(__name__)


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
        manifest = read_manifest(root)
    except WorkspaceError as error:
        problem = str(error)
    stages = tuple(stage_infos(root))
    times = [last_modified(root / LOCK), last_modified(root / MANIFEST), *(stage.last_used for stage in stages)]
    return WorkspaceInfo(
        root=root,
        bytes=bytes_used(root),
        last_used=max(times) or last_modified(root),
        in_use_by=Lock.holder(root),
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
        if (old or (max_bytes is not None and total - freed > max_bytes)) and remove_workspace(info.root):
            freed += info.bytes
    return freed


def _workspaces(cache: Path | None) -> Path:
    return (cache_folder() if cache is None else Path(cache)) / "workspaces"


def _workspace_folders(cache: Path | None) -> list[Path]:
    try:
        paths = list(_workspaces(cache).iterdir())
    except OSError:
        return []
    ours = (path for path in paths if os.path.exists(path / MANIFEST) or re.fullmatch("[0-9a-f]{16}", path.name))
    return sorted(path for path in ours if path.name[0] != "." and os.path.isdir(path))


def remove_workspace(root: Path) -> bool:
    """Whether it was there and could be removed; not if it is in use, a link to elsewhere, or not ours to remove."""
    if root.is_symlink() or not root.is_dir():
        return False
    try:
        lock = Lock.take(root)
    except (WorkspaceError, ResourceError):
        return False
    try:
        remove(root)
    except WorkspaceError as error:
        _log.warning("%s", error)
        return False
    finally:
        lock.release()
    return True
