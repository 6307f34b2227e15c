"""The lock of a workspace: one process at a time, let go by the system if that process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from .disk import disk_errors
from .errors import WorkspaceError

LOCK = "lock"  # the file's name in the workspace


class Lock:
    """An exclusive flock on ``root/lock``, which holds the PID and host of its owner for others to name."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()

    @classmethod
    def take(cls, root: Path) -> Lock:
        """Lock `root` for this process; WorkspaceError if another one has it, or this one already."""
        path = root / LOCK
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
        """Let go of it. Again: nothing."""
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
            pid, host = (root / LOCK).read_text().split()
            return int(pid), host
        return None

    @classmethod
    def holder(cls, root: Path) -> int | None:
        """The PID of a process on this machine that seems to hold it; a guess, since only the flock knows."""
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
    owner = Lock.owner(root)
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
