"""Typed arrays on disk, read and written by `pread` and `pwrite` in blocks.

Nothing is memory-mapped: writing to a mapped page of a full disk is a bus error, and mapped pages count as this
process's memory. Space is reserved when an array is made, so a disk too small is found before any work is done.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .disk import ITEM_BYTES, allocate, disk_errors, sizes_of
from .errors import WorkspaceError

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEM_BYTES}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

BLOCK = 16 << 20  # bytes a system call moves, and about what a cast holds at once


class DiskArray:
    """A typed array on disk, rows along axis 0, for any number of threads; only the rows asked for are in memory.

    Made by `create` or `open` (or `Stage.array`), or as a view of one row by `sub`. Reads and writes may overlap in
    time; a read that overlaps a write of the same rows sees any mixture of old and new.

    Attributes:
        path: The file, which holds the elements in C order in the machine's byte order, and nothing else.
        shape: Of the array, or of the view.
        dtype: One of float32, float16, bfloat16, uint8, int16, int32, int64.
    """

    def __init__(self, file: _File, shape: tuple[int, ...], dtype: torch.dtype, offset: int, is_view: bool) -> None:
        self.shape = shape
        self.dtype = dtype
        self._file = file
        self._offset = offset
        self._is_view = is_view
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize

    @classmethod
    def create(cls, path: Path, shape: Sequence[int], dtype: torch.dtype) -> DiskArray:
        """Make the file with all its space reserved, replacing one that is there; it reads as zeros.

        Raises:
            ResourceError: The disk has not the room; nothing is left behind.
            WorkspaceError: The file cannot be made for another reason.
        """
        shape = check_shape(shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        new = path.with_name(f".{path.name}.new")
        with disk_errors(path, "created", needed=size):
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                allocate(fd, size)
                os.fsync(fd)
                os.replace(new, path)  # under its own name a file always has its whole size
            except BaseException:
                os.close(fd)
                with contextlib.suppress(OSError):
                    new.unlink()
                raise
        return cls(_File(path, fd, writable=True), shape, dtype, 0, is_view=False)

    @classmethod
    def open(cls, path: Path, shape: Sequence[int], dtype: torch.dtype, *, writable: bool = True) -> DiskArray:
        """Open the file of an array of this shape and type.

        Raises:
            WorkspaceError: The file is not there, cannot be opened or has another size.
        """
        shape = check_shape(shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        with disk_errors(path, "opened"):
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        found = os.fstat(fd).st_size
        if found != size:
            os.close(fd)
            raise WorkspaceError(
                f"{path} has {found:,} bytes where {size:,} are expected; "
                f"delete the folder {path.parent} and run the same command again"
            )
        return cls(_File(path, fd, writable), shape, dtype, 0, is_view=False)

    def reopened(self) -> DiskArray:
        """The same array, of the whole file, for reading by a handle of its own."""
        return DiskArray.open(self.path, self.shape, self.dtype, writable=False)

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DiskArray({str(self.path)!r}, shape={self.shape}, dtype={DTYPE_NAMES[self.dtype]})"

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows ``[start, stop)`` as a new contiguous CPU tensor ``(stop - start, *shape[1:])``; to the end by default.

        Raises:
            IndexError: Not ``0 <= start <= stop <= len(self)``; unlike a slice, nothing is cut short in silence.
            WorkspaceError: The disk fails, or the file was cut short by someone else.
        """
        stop = len(self) if stop is None else stop
        self._check_rows(start, stop)
        out = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        with self._file.use() as fd:
            self._read_into(fd, start, out)
        return out

    def rows(self, indices: Iterable[Any]) -> Tensor:
        """The rows at `indices` (ints in any order, repeats allowed, or an integer tensor), as ``(len, *shape[1:])``.

        Consecutive indices are read together. Raises as `read` does.
        """
        values = indices.tolist() if hasattr(indices, "tolist") else list(indices)
        if any(isinstance(value, bool) for value in values):
            raise TypeError("rows are chosen by their indices, not by a mask")
        wanted = [operator.index(value) for value in values]
        for index in wanted:
            self._check_rows(index, index + 1)
        out = torch.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        with self._file.use() as fd:
            first = 0
            for after in range(1, len(wanted) + 1):
                if after == len(wanted) or wanted[after] != wanted[after - 1] + 1:
                    self._read_into(fd, wanted[first], out[first:after])
                    first = after
        return out

    def write(self, start: int, rows: Tensor) -> None:
        """Write `rows` ``(k, *shape[1:])``, from any device, as rows ``[start, start + k)``, cast to `dtype`.

        Values beyond a float type's range become infinite, as ``Tensor.to`` has it. The rows are in the file on
        return, and survive a kill of the process; `flush` makes them survive a loss of power.

        Raises:
            IndexError, ValueError, TypeError: Rows that do not fit: their place, their shape; a cast from floats to
                integers (round first), or integers out of the type's range; or the array is closed or read-only.
            ResourceError: The disk is full, or the file would pass a limit.
            WorkspaceError: The disk fails otherwise.
        """
        if tuple(rows.shape[1:]) != self.shape[1:] or rows.ndim != len(self.shape):
            raise ValueError(f"rows of {self.path} are {self.shape[1:]}, and what is written is {tuple(rows.shape)}")
        self._check_rows(start, start + len(rows))
        if not self._file.writable:
            raise ValueError(f"{self.path} is read-only: its stage is complete or discarded, or its workspace closed")
        if not torch.can_cast(rows.dtype, self.dtype):
            raise TypeError(f"{rows.dtype} is not cast to the {self.dtype} of {self.path}; round it first")
        at_once = max(1, BLOCK // max(1, self._row_bytes))
        with self._file.use() as fd:
            for done, block in enumerate(torch.split(rows.detach(), at_once)):
                self._check_range(block)
                data = _bytes_of(block.to(self.dtype).to("cpu").contiguous())
                self._file.write(fd, self._offset + (start + done * at_once) * self._row_bytes, data)

    def sub(self, index: int) -> DiskArray:
        """A view of row `index` as an array of its own, rows along the next axis; same file, same handle."""
        if len(self.shape) < 2:
            raise ValueError(f"{self!r} has one axis: its rows have no rows")
        self._check_rows(index, index + 1)
        return DiskArray(self._file, self.shape[1:], self.dtype, self._offset + index * self._row_bytes, is_view=True)

    def flush(self) -> None:
        """Bring everything written to the file so far onto the disk itself (`fdatasync`); cheap if nothing was.

        Raises:
            ResourceError, WorkspaceError: The disk is full, or fails; every later flush then fails as well, because
                the system forgets which rows were lost.
        """
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file, once reads and writes under way are done; of a view, nothing. Again: nothing."""
        if not self._is_view and not self._file.closed:
            self._file.flush()
            self._file.close()

    def _read_into(self, fd: int, start: int, out: Tensor) -> None:
        self._file.read(fd, self._offset + start * self._row_bytes, _bytes_of(out))

    def _check_rows(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows [{start}, {stop}) of {self.path}, which has {len(self)}")

    def _check_range(self, block: Tensor) -> None:
        if self.dtype.is_floating_point or block.dtype == self.dtype or not block.numel():
            return
        limits = torch.iinfo(self.dtype)
        low, high = (int(value) for value in block.aminmax())
        if low < limits.min or high > limits.max:
            raise ValueError(f"values from {low} to {high} do not fit the {self.dtype} of {self.path}")


class _File:
    """A file descriptor shared by an array and its views; closed only when no thread is inside a call."""

    def __init__(self, path: Path, fd: int, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self.closed = False
        self._fd = fd
        self._users = 0
        self._unsynced = False
        self._lost: Exception | None = None
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    @contextlib.contextmanager
    def use(self) -> Iterator[int]:
        with self._lock:
            if self.closed:
                raise ValueError(f"{self.path} is closed")
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1
                if self.closed:
                    self._release()

    def read(self, fd: int, offset: int, out: memoryview) -> None:
        at = 0
        with disk_errors(self.path, "read"):
            while at < len(out):
                got = os.preadv(fd, [out[at : at + BLOCK]], offset + at)
                if not got:
                    folder = self.path.parent
                    raise WorkspaceError(
                        f"{self.path} was cut short; delete the folder {folder} and run the same command again"
                    )
                at += got

    def write(self, fd: int, offset: int, data: memoryview) -> None:
        at = 0
        with disk_errors(self.path, "written", needed=len(data)):
            try:
                while at < len(data):
                    at += os.pwrite(fd, data[at : at + BLOCK], offset + at)
            finally:
                self._unsynced = True

    def flush(self) -> None:
        with self._flushing:  # a second caller waits until the rows it wrote are on the disk too
            if self._lost is not None:
                raise self._lost
            if not self._unsynced:
                return
            with self.use() as fd:
                self._unsynced = False
                try:
                    with disk_errors(self.path, "written"):
                        getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no fdatasync
                except Exception as error:
                    self._lost = error
                    raise

    def close(self) -> None:
        with self._lock:
            self.closed = True
            self._release()

    def _release(self) -> None:
        if not self._users and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor (numpy has no bfloat16, so the elements are taken as bytes)."""
    if not tensor.numel():
        return memoryview(b"")
    flat = tensor.as_strided((tensor.numel(),), (1,))  # an axis of one element may have any stride
    return flat.view(torch.uint8).numpy().data


def check_shape(shape: Sequence[int], dtype: torch.dtype) -> tuple[int, ...]:
    """`shape` as a tuple of ints. Raises TypeError or ValueError for what no `DiskArray` can be."""
    if dtype not in DTYPE_NAMES:
        raise TypeError(f"{dtype} is not among the types kept on disk: {', '.join(DTYPES)}")
    return sizes_of(shape)
