"""The keyframes' attention outputs where a GPU has no room for them: on the host, streamed; and on disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .attention import MemoryRecord
from .budget import CLIPS_NEAR
from .diskarray import DiskArray


class DiskRecord:
    """An `AttentionRecord` in a folder: one array ``[M, branches, N, C]`` a layer, read one keyframe at a time.

    Holds nothing in memory; SD 2.1 at 384x672 in fp16 takes 68 MB of disk a keyframe.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, DiskArray] = {}

    def begin(self) -> None:
        """A new step: what is held may be overwritten."""

    def put(self, layer: str, output: Tensor, first: int = 0, total: int = 0) -> None:
        """See `AttentionRecord`."""
        rows = output.transpose(0, 1).cpu()
        shape = (total or len(rows), *rows.shape[1:])
        array = self._arrays.get(layer)
        if array is None or array.shape != shape:
            if array is not None:
                array.close()
            array = DiskArray.create(self._folder / f"{layer}-{shape[1]}.bin", shape, rows.dtype)
            self._arrays[layer] = array
        array.write(first, rows)

    def get(self, layer: str, clip: int, branches: slice) -> Tensor:
        """See `AttentionRecord`."""
        return self._arrays[layer].read(clip, clip + 1)[0, branches]

    def close(self) -> None:
        """Close the files; what they hold is worth nothing after the edit."""
        for array in self._arrays.values():
            array.close()


class StreamedRecord:
    """An `AttentionRecord` in page-locked memory of the host, of which the clips at work lie on the GPU.

    Outputs go to the host while the key pass goes on; a clip's outputs in all layers come to the GPU at once, those of
    the next clip while the one before is at work, on a stream of their own.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._outputs: dict[str, Tensor] = {}
        self._of_step: set[str] = set()  # layers put since the step began
        self._locked: list[Tensor] = []
        self._near: dict[int, tuple[dict[str, Tensor], torch.cuda.Event]] = {}

    def begin(self) -> None:
        """A new step: what is held may be overwritten, once it is no longer being read."""
        torch.cuda.synchronize(self.device)
        self._near.clear()
        self._of_step.clear()

    def put(self, layer: str, output: Tensor, first: int = 0, total: int = 0) -> None:
        """See `AttentionRecord`."""
        self._of_step.add(layer)
        shape = (output.shape[0], total or output.shape[1], *output.shape[2:])
        kept = self._outputs.get(layer)
        if kept is None or kept.shape != shape:
            kept = self._outputs[layer] = self._room(layer, shape, output.dtype)
        for branch, rows in enumerate(output.contiguous()):
            kept[branch, first : first + len(rows)].copy_(rows, non_blocking=True)

    def get(self, layer: str, clip: int, branches: slice) -> Tensor:
        """See `AttentionRecord`."""
        here = self._bring(clip)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(here[1])
        if clip + 1 < next(iter(self._outputs.values())).shape[1]:
            self._bring(clip + 1)
        found = here[0][layer]
        found.record_stream(current)
        return found[branches]

    def close(self) -> None:
        """Unlock the memory."""
        torch.cuda.synchronize(self.device)
        for memory in self._locked:
            torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
        self._locked.clear()

    def _bring(self, clip: int) -> tuple[dict[str, Tensor], torch.cuda.Event]:
        if clip not in self._near:
            while len(self._near) >= CLIPS_NEAR:
                del self._near[next(iter(self._near))]
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # until the outputs have arrived
            with torch.cuda.stream(self._stream):
                found = {}
                for layer in sorted(self._of_step):
                    kept = self._outputs[layer]
                    found[layer] = torch.empty(kept[:, clip].shape, dtype=kept.dtype, device=self.device)
                    for branch in range(len(kept)):
                        found[layer][branch].copy_(kept[branch, clip], non_blocking=True)
                event = torch.cuda.Event()
                event.record(self._stream)
            self._near[clip] = found, event
        return self._near[clip]

    def _room(self, layer: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked memory of just this size (torch's own is a power of two); what the layer had is used again."""
        size = math.prod(shape) * dtype.itemsize
        former = [m for m in self._locked if m.data_ptr() == getattr(self._outputs.get(layer), "data_ptr", int)()]
        memory = former[0] if former and former[0].nbytes >= size else torch.empty(size, dtype=torch.uint8)
        if not any(memory is m for m in self._locked):
            code = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
            if int(code) == 0:  # else it stays pageable, and copies wait
                self._locked.append(memory)
        return memory[:size].view(dtype).view(shape)


@contextmanager
def attention_record(
    where: Literal["memory", "streamed", "device", "disk"], device: torch.device, folder: Path
) -> Iterator[MemoryRecord | StreamedRecord | DiskRecord]:
    """A record that is held there; `folder` is where one on disk lies, and is cleaned up."""
    if where == "streamed" and device.type == "cuda":
        streamed = StreamedRecord(device)
        try:
            yield streamed
        finally:
            streamed.close()
        return
    if where != "disk":
        yield MemoryRecord(device if where == "device" else torch.device("cpu"))
        return
    place = folder / "record"
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    place.mkdir()
    record = DiskRecord(place)
    try:
        yield record
    finally:
        record.close()
        shutil.rmtree(place, ignore_errors=True)
