"""The keyframes' attention outputs on disk, for videos with more clips than memory has room for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .attention import AttentionRecord, MemoryRecord
from .config import ResolvedConfig
from .diskarray import DiskArray


class DiskRecord:
    """An `AttentionRecord` in a folder: one array ``[M, branches, N, C]`` a layer, read one keyframe at a time.

    Holds nothing in memory; SD 2.1 at 384x672 in fp16 takes 68 MB of disk a keyframe.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, DiskArray] = {}

    def put(self, layer: str, output: Tensor) -> None:
        """See `AttentionRecord`."""
        rows = output.transpose(0, 1).cpu()
        array = self._arrays.get(layer)
        if array is None or array.shape != tuple(rows.shape):
            if array is not None:
                array.close()
            array = DiskArray.create(self._folder / f"{layer}-{rows.shape[1]}.bin", rows.shape, rows.dtype)
            self._arrays[layer] = array
        array.write(0, rows)

    def get(self, layer: str, clip: int, branches: slice) -> Tensor:
        """See `AttentionRecord`."""
        return self._arrays[layer].read(clip, clip + 1)[0, branches]

    def close(self) -> None:
        """Close the files; what they hold is worth nothing after the edit."""
        for array in self._arrays.values():
            array.close()


@contextmanager
def attention_record(config: ResolvedConfig, device: torch.device, folder: Path) -> Iterator[AttentionRecord]:
    """The record that the settings ask for; `folder` is where one on disk lies, and is cleaned up."""
    if config.run.record != "disk":
        yield MemoryRecord(device if config.run.record == "device" else torch.device("cpu"))
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
