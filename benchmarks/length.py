"""Memory and disk against the number of frames and of clips, on the miniature at 128x224.

    python benchmarks/length.py                     # frames 250, 500, 1000 at equal M; M 15, 30, 60 at equal frames
    python benchmarks/length.py --one 1000 60 4     # one case: frames, clips, steps

Every case is a process of its own. Clips are cut by length alone, so that M is what is asked for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import PeakMemory, StageClock, child, write

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.miniature.world import video


def case(frames: int, clips: int, steps: int) -> dict[str, object]:
    film = video("pan-5", frames)
    pixels = np.stack(list(film))
    config = EditConfig.from_fields(
        {
            "steps": steps,
            "kind": "colour",
            "source_prompt": film.caption,
            "keyframes.mean_threshold": -1.0,
            "keyframes.window_threshold": -1.0,
            "keyframes.longest_clip": -(-frames // clips),
        }
    )
    pipe = AdaFlowPipeline.from_pretrained("miniature")
    clock, start = StageClock(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        from adaflow.video import write_video

        write_video(source, pixels, fps=12)
        del pixels
        found = pipe.inspect(source, config=config, workspace=Path(folder) / "w")
        with PeakMemory() as peak:
            result = pipe(
                source, film.edit(colour="red").caption, config=config, workspace=Path(folder) / "w", on_progress=clock
            )
            result.save(Path(folder) / "out.mp4", on_progress=clock)
        disk = sum(f.stat().st_blocks * 512 for f in (Path(folder) / "w").rglob("*") if f.is_file())
    return {
        "frames": frames,
        "clips": len(result.partition.clips),
        "steps": steps,
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_by_stage": {k: round(v, 1) for k, v in clock.seconds.items()},
        "peak_bytes": peak.bytes,
        "estimated_bytes": found.estimate.host_bytes,
        "disk_bytes": disk,
        "estimated_disk_bytes": found.estimate.disk_bytes,
        "estimated_seconds": round(found.estimate.total_seconds, 1),
        "estimated_by_stage": {k: round(v, 1) for k, v in found.estimate.seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3, type=int)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(case(*arguments.one)))
        return
    steps = str(arguments.steps)
    grid = [(250, 20), (500, 20), (1000, 20), (1000, 15), (1000, 30), (1000, 60)]
    cases = [child(__file__, "--one", str(n), str(m), steps) for n, m in grid]
    by_clips = [(c["clips"], c["peak_bytes"]) for c in cases if c["frames"] == 1000]
    slope = np.polyfit(*np.array(by_clips, dtype=float).T, 1)[0]
    write("length", {"cases": cases, "bytes_per_clip": round(slope)})


if __name__ == "__main__":
    main()
