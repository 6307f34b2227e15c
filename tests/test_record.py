"""The attention record on disk is the one in memory, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_pipeline

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.attention import MemoryRecord
from adaflow.record import DiskRecord, attention_record


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_disk_holds_what_memory_holds(tmp_path: Path, dtype: torch.dtype) -> None:
    """Whatever was put last, with three branches or two, is what any stretch of branches of any clip gives back."""
    disk, memory = DiskRecord(tmp_path), MemoryRecord(torch.device("cpu"))
    for branches in (3, 3, 2):
        outputs = {layer: torch.randn(branches, 4, 6, 5).to(dtype) for layer in ("up.a", "down.b")}
        for layer, output in outputs.items():
            disk.put(layer, output)
            memory.put(layer, output)
        for layer in outputs:
            for clip in range(4):
                for part in (slice(0, 1), slice(branches - 2, branches)):
                    assert torch.equal(disk.get(layer, clip, part), memory.get(layer, clip, part))
    disk.close()


def test_an_edit_with_the_record_on_disk_is_the_same(tmp_path: Path) -> None:
    """`run.record` says where, not what; and the folder of the record is gone afterwards."""
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline())
    frames = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), dtype=np.uint8)
    results = []
    for record in ("memory", "streamed", "disk"):
        settings = {"steps": 2, "keyframes.longest_clip": 2, "slimming.budget": 2, "run.record": record}
        out = pipe(frames, "a red car", config=EditConfig.from_fields(settings), workspace=tmp_path / record)
        results.append(np.asarray(out.frames))
        assert not list((tmp_path / record).rglob("record"))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    """A record's folder that is already there is replaced."""
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "stale.bin").write_bytes(b"x")
    with attention_record("disk", torch.device("cpu"), tmp_path) as record:
        record.put("a", torch.ones(2, 1, 3, 4))
        assert torch.equal(record.get("a", 0, slice(0, 2)), torch.ones(2, 3, 4))
        assert not (tmp_path / "record" / "stale.bin").exists()
    assert not (tmp_path / "record").exists()
