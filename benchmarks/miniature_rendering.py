"""How fast training samples are rendered: by one process, and by one for each core.

    python benchmarks/miniature_rendering.py [--workers 1 16] [--seconds 30]

Each panorama is painted when it is first needed, so the rate rises at first: it is given for each five seconds since
every process delivered. Writes ``benchmarks/results/miniature-rendering.json``.
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

from adaflow.miniature.data import batches

RESULTS = Path(__file__).parent / "results" / "miniature-rendering.json"
WINDOW = 5.0  # seconds


def rates(workers: int, seconds: float, batch: int = 64) -> list[float]:
    """Samples a second that arrive in each window, once every worker has delivered."""
    source = batches(10**8, batch, workers)
    for _ in range(max(1, workers)):
        next(source)
    found = []
    while len(found) * WINDOW < seconds:
        started, done = time.monotonic(), 0
        while time.monotonic() - started < WINDOW:
            done += len(next(source)["image"])
        found.append(round(done / (time.monotonic() - started), 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "samples_a_second": {str(n): rates(n, given.seconds) for n in dict.fromkeys(given.workers)},
    }
    print(json.dumps(report))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
