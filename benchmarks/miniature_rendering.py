"""How fast training samples are rendered: one process, and as many as given.

    python benchmarks/miniature_rendering.py [--workers 16] [--seconds 20]

The panoramas are painted first, as they are in the first seconds of a training run. Writes
``benchmarks/results/miniature_rendering.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path

import torch

from adaflow.miniature.data import Scenes, batches
from adaflow.miniature.panorama import panorama
from adaflow.miniature.scene import MORE_PLACES, PLACES
from adaflow.miniature.vocabulary import BACKGROUNDS

RESULTS = Path(__file__).parent / "results" / "miniature_rendering.json"


def rate(workers: int, seconds: float, batch: int = 64) -> float:
    """Samples a second that arrive, once every worker has delivered."""
    source = batches(Scenes(first=10**8), batch, workers)
    for _ in range(4 * max(1, workers)):
        next(source)
    started, done = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        done += len(next(source)["image"])
    return round(done / (time.monotonic() - started), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    started = time.monotonic()
    for place in (*PLACES["train"], *MORE_PLACES):
        for background in BACKGROUNDS:
            panorama(background, place)  # kept, and inherited by the workers
    painting = time.monotonic() - started
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "seconds_to_paint_all_panoramas": round(painting, 1),
        "samples_a_second": {str(n): rate(n, given.seconds) for n in dict.fromkeys((1, given.workers))},
    }
    print(json.dumps(report))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
