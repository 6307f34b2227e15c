"""What a disk says, holds and has left: one sentence for each of its errors, room for a file, sizes for people.

Without torch, so that commands that only look at files start at once.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import ResourceError, WorkspaceError

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int16": 2, "int32": 4, "int64": 8}
"""Bytes of one element of every type that arrays on disk may have, by torch's name of it."""


def sizes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` as a tuple of ints. Raises TypeError or ValueError for what no array on disk can have."""
    sizes = tuple(operator.index(size) for size in shape)
    if not sizes or min(sizes) < 0:
        raise ValueError(f"a shape on disk has at least one axis and no negative size, not {sizes}")
    return sizes


def allocate(fd: int, size: int) -> None:
    """Give the empty file `size` bytes of zeros, reserved where the file system can. Raises OSError."""
    space = os.fstatvfs(fd)
    if size > space.f_bavail * space.f_frsize:  # before trying, which some file systems do by writing zeros
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if size and hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            return os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(fd, size)


@contextlib.contextmanager
def disk_errors(path: Path, doing: str, *, needed: int | None = None) -> Iterator[None]:
    """Turn what the disk says into one sentence: no room into ResourceError, anything else into WorkspaceError."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EBADF:
            raise  # our bug, not the disk's
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise WorkspaceError(
                f"{path} cannot be {doing} ({error.strerror or error}); check the disk and the rights to the folder"
            ) from error
        room = f" ({format_bytes(needed)} needed)" if needed else ""
        if error.errno == errno.EFBIG:
            cause, remedy = "the file would pass the largest size allowed", "raise the limit (ulimit -f)"
        elif error.errno == errno.EDQUOT:
            cause, remedy = "the disk quota is used up", "free some space"
        else:
            cause, remedy = f"the disk is full{_free_words(path)}", "free some space"
        raise ResourceError(
            f"{path} cannot be {doing}{room}: {cause}; {remedy} and run the same command again, which resumes"
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes this user may still write where `path` is, or will be."""
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _free_words(path: Path) -> str:
    with contextlib.suppress(OSError):
        return f", {format_bytes(free_bytes(path))} are free"
    return ""


def format_bytes(size: float) -> str:
    """A number of bytes for people, in decimal units as disks are sold: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.95 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
