"""How long the studio takes to divide a video anew while a threshold is moved, at the miniature's and at SD's shapes.

    python benchmarks/studio_timeline.py [--frames 1000] [--out benchmarks/results/studio-timeline.json]

Features are random walks from a shot's first frame, in the shape of the stored small copy; a division with few clips
and one with many are timed, on one thread, the drawing of the page's picture included.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from adaflow.config import KeyframeConfig
from adaflow.studio import drawing
from adaflow.studio.queue import Video
from adaflow.studio.timeline import DEPTH, TOKENS, Sketch

SHAPES = {"miniature": (16, 28, 64), "SD 2.1 at 384x672": (48, 84, 640)}
ABOUT = {"frames": 0, "tiles": 96, "tile": [72, 126], "width": 672, "height": 384}

REPEATS = 5


def sketch(shape: tuple[int, int, int], frames: int) -> Sketch:
    """A small copy as `make_sketch` leaves it for features of that shape."""
    height, width, depth = shape
    square = 1
    while -(-height // square) * -(-width // square) > TOKENS:
        square += 1
    generator = torch.Generator().manual_seed(0)
    size = -(-height // square), -(-width // square), min(depth, DEPTH)
    base, walk, rows = torch.randn(size, generator=generator), torch.zeros(size), []
    for i in range(frames):
        if i % 100 == 0:
            base, walk = torch.randn(size, generator=generator), torch.zeros(size)
        walk += 0.05 * torch.randn(size, generator=generator)
        rows.append((base + walk).half())
    return Sketch(torch.stack(rows), square, (height, width), (0.0, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name, shape in SHAPES.items():
        made = sketch(shape, arguments.frames)
        video = Video("0" * 16, "video", 0.0, ABOUT | {"frames": arguments.frames})
        for mean in (0.5, 0.97):
            config = KeyframeConfig(mean_threshold=mean, window_threshold=0.0, both_directions=True)
            seconds = []
            for _ in range(REPEATS):
                begin = time.perf_counter()
                clips, scores = made.divide(config)
                drawing.timeline(video, clips, scores.tolist(), config, "")
                seconds.append(round(time.perf_counter() - begin, 2))
            row = {"shape": name, "copy": list(made.features.shape), "clips": len(clips)}
            found.append(row | {"fastest": min(seconds), "slowest": max(seconds)})
            print(found[-1])
    if arguments.out:
        arguments.out.write_text(json.dumps({"threads": 1, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
