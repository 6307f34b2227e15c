"""The paths that only a GPU takes; without one all of them are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_pipeline

from adaflow import AdaFlowPipeline, EditConfig, EditResult
from adaflow.attention import MemoryRecord
from adaflow.progress import Progress
from adaflow.record import StreamedRecord

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
SETTINGS = {"steps": 4, "keyframes.longest_clip": 2, "slimming.budget": 2}


@pytest.fixture(autouse=True)
def same_products() -> Iterator[None]:
    """Products of fp32 in fp32, as on a CPU; and no limit on memory left behind."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def edited(device: str, folder: Path, frames: np.ndarray = FRAMES, channels: int = 16, **settings: Any) -> EditResult:
    """A small edit; settings have dots written as double underscores."""
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline(channels=channels).to(device))
    fields = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    return pipe(frames, "a red car", config=EditConfig.from_fields(fields), workspace=folder)


def pixels(result: EditResult) -> np.ndarray:
    return np.asarray(result.frames).astype(np.int16)


@pytest.mark.parametrize("changes", [0.0, 0.7])
@pytest.mark.parametrize("preset", ["default", "fast", "paper", "released"])
def test_a_gpu_edits_as_the_cpu_does(tmp_path: Path, preset: str, changes: float) -> None:
    """The same draws on both, so that what differs is rounding alone."""
    settings = {"preset": preset, "propagation__changes": changes}
    cpu, gpu = (pixels(edited(device, tmp_path / device, **settings)) for device in ("cpu", "cuda"))
    assert np.abs(cpu - gpu).mean() < 0.05
    assert np.abs(cpu - gpu).max() <= 3


def test_wherever_the_record_lies_the_edit_is_the_same(tmp_path: Path) -> None:
    """On the device, streamed from page-locked memory, in pageable memory, on disk: the same numbers are carried."""
    found = [pixels(edited("cuda", tmp_path / r, run__record=r)) for r in ("device", "streamed", "memory", "disk")]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_a_streamed_record_gives_back_what_was_put() -> None:
    """In any order, over steps with three branches and with two, put whole and in parts."""
    device = torch.device("cuda")
    streamed, held = StreamedRecord(device), MemoryRecord(device)
    generator = torch.Generator(device).manual_seed(0)
    for branches in (3, 3, 2):
        streamed.begin()
        for layer in ("down", "up"):
            output = torch.randn(branches, 7, 50, 64, generator=generator, device=device).half()
            held.put(layer, output)
            for first in (0, 3, 6):
                streamed.put(layer, output[:, first : first + 3], first, 7)
        for clip in (0, 1, 2, 1, 6, 3, 4, 5, 0):
            for layer in ("up", "down"):
                part = slice(branches - 2, branches)
                assert torch.equal(streamed.get(layer, clip, part), held.get(layer, clip, part))
    streamed.close()


@pytest.mark.parametrize("keys", [1, 2, 4])
def test_keyframes_in_chunks_are_edited_as_all_at_once(tmp_path: Path, keys: int) -> None:
    whole, parts = (pixels(edited("cuda", tmp_path / str(k), run__keys=k)) for k in (0, keys))
    assert np.abs(whole - parts).max() <= 2


def test_a_stopped_edit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline().to("cuda"))
    config = EditConfig.from_fields(SETTINGS)
    whole = pixels(pipe(FRAMES, "a red car", config=config, workspace=tmp_path / "whole"))

    def stop(now: Progress) -> None:
        if now.stage == "edit" and now.done > 1.5 * len(FRAMES):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(FRAMES, "a red car", config=config, workspace=tmp_path / "stopped", on_progress=stop)
    assert np.array_equal(whole, pixels(pipe(FRAMES, "a red car", config=config, workspace=tmp_path / "stopped")))


def test_a_card_that_is_fuller_than_it_says_makes_calls_smaller(tmp_path: Path) -> None:
    """The plan is made for the card's free memory; a cap of the process that the plan cannot see runs it out of it."""
    frames = np.random.default_rng(1).integers(0, 256, (24, 256, 256, 3), dtype=np.uint8)
    larger = {"frames": frames, "channels": 64, "keyframes__longest_clip": 4}
    torch.cuda.reset_peak_memory_stats()
    at_ease = edited("cuda", tmp_path / "at-ease", **larger)
    peak = torch.cuda.max_memory_allocated()
    assert at_ease.record["plan"]["shrunk"] == 0
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.5 * peak / torch.cuda.get_device_properties(0).total_memory)
    pressed = edited("cuda", tmp_path / "pressed", **larger)
    assert pressed.record["plan"]["shrunk"] > 0
    assert np.abs(pixels(at_ease) - pixels(pressed)).mean() < 0.1


def test_the_miniature_in_half_precision(tmp_path: Path) -> None:
    """fp16 on the GPU and fp32 on the CPU are the same edit to the eye."""
    frames = np.asarray(FRAMES[:6]).repeat(4, 1).repeat(4, 2)
    config = EditConfig.from_fields({"steps": 4, "keyframes.longest_clip": 3})
    found = [
        pixels(AdaFlowPipeline.from_pretrained("miniature", device=d)(frames, "a red car", config=config, workspace=w))
        for d, w in (("cpu", tmp_path / "a"), ("cuda", tmp_path / "b"))
    ]
    assert np.square(found[0] - found[1]).mean() < 4  # 42 dB
