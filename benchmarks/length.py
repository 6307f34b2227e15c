"""Memory and disk against the number of frames and of clips, on the miniature at 128x224.

    python benchmarks/length.py                     # frames 250, 500, 1000 at equal M; M 15, 30, 60 at equal frames
    python benchmarks/length.py --one 1000 60 4     # one case: frames, clips, steps
    python benchmarks/length.py --one 1000 60 4 --plain-heap   # the heap as a program has it that uses the API

The film is rendered, inspected and edited by a process each, so that what one leaves behind in its heap is not measured
in the next; with the heap as the command line has it (`adaflow.heap`). Clips are cut by length alone, so that M is what
is asked for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import PeakMemory, StageClock, child, write

from adaflow import AdaFlowPipeline, EditConfig, heap
from adaflow.miniature.world import Film, video
from adaflow.video import write_video


def film_of(frames: int) -> Film:
    return video("pan-5", frames)


def config_of(frames: int, clips: int, steps: int) -> EditConfig:
    return EditConfig.from_fields(
        {
            "steps": steps,
            "kind": "colour",
            "source_prompt": film_of(frames).caption,
            "keyframes.mean_threshold": -1.0,
            "keyframes.window_threshold": -1.0,
            "keyframes.longest_clip": -(-frames // clips),
        }
    )


def rendered(folder: Path, frames: int, clips: int, steps: int) -> dict[str, Any]:
    write_video(folder / "source.mp4", film_of(frames), fps=12)
    return {}


def inspected(folder: Path, frames: int, clips: int, steps: int) -> dict[str, Any]:
    pipe = AdaFlowPipeline.from_pretrained("miniature")
    config = config_of(frames, clips, steps)
    found = pipe.inspect(folder / "source.mp4", config=config, workspace=folder / "w").estimate
    return {
        "estimated_bytes": found.host_bytes,
        "estimated_disk_bytes": found.disk_bytes,
        "estimated_seconds": round(found.total_seconds, 1),
        "estimated_by_stage": {k: round(v, 1) for k, v in found.seconds.items()},
    }


def edited(folder: Path, frames: int, clips: int, steps: int) -> dict[str, Any]:
    prompt, config = film_of(frames).edit(colour="red").caption, config_of(frames, clips, steps)
    pipe = AdaFlowPipeline.from_pretrained("miniature")
    clock, start = StageClock(), time.perf_counter()
    with PeakMemory() as peak:
        result = pipe(folder / "source.mp4", prompt, config=config, workspace=folder / "w", on_progress=clock)
        result.save(folder / "out.mp4", on_progress=clock)
    disk = sum(f.stat().st_blocks * 512 for f in (folder / "w").rglob("*") if f.is_file())
    return {
        "frames": frames,
        "clips": len(result.partition.clips),
        "steps": steps,
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_by_stage": {k: round(v, 1) for k, v in clock.seconds.items()},
        "peak_bytes": peak.bytes,
        "disk_bytes": disk,
    }


PARTS: dict[str, Callable[[Path, int, int, int], dict[str, Any]]] = {
    "rendered": rendered,
    "inspected": inspected,
    "edited": edited,
}


def case(frames: int, clips: int, steps: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """One case, its parts by processes of their own."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            found |= child(__file__, "--part", part, folder, "--one", str(frames), str(clips), str(steps), *more)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, type=int)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--plain-heap", action="store_true", help="leave the heap as it is")
    arguments = parser.parse_args()
    if arguments.part:
        name, folder = arguments.part
        if not arguments.plain_heap:
            heap.one_for_all_threads()
            heap.keep_no_shapes()
        print(json.dumps(PARTS[name](Path(folder), *arguments.one)))
        return
    plain = ["--plain-heap"] if arguments.plain_heap else []
    if arguments.one:
        print(json.dumps(case(*arguments.one, plain)))
        return
    grid = [(250, 20), (500, 20), (1000, 20), (1000, 15), (1000, 30), (1000, 60)]
    cases = []
    for frames, clips in grid:
        cases.append(case(frames, clips, arguments.steps, plain))
        print(json.dumps(cases[-1]), flush=True)
    by_clips = [(c["clips"], c["peak_bytes"]) for c in cases if c["frames"] == 1000]
    slope = np.polyfit(*np.array(by_clips, dtype=float).T, 1)[0]
    write("length", {"cases": cases, "bytes_per_clip": round(slope)})


if __name__ == "__main__":
    main()
