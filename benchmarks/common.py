"""What the benchmarks share: who ran, how memory is watched, where figures go."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from adaflow.longv_eval.cost import PeakMemory, anonymous_bytes
from adaflow.result import versions

__all__ = ["RESULTS", "PeakMemory", "StageClock", "anonymous_bytes", "child", "machine", "write"]

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The machine, the versions and the date that a figure belongs to."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = f"{names[0]} x {len(names)}" if names else cpu
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit.stdout.strip(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def write(name: str, figures: dict[str, Any]) -> None:
    """The figures as JSON beside the benchmarks, and on stdout."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


class StageClock:
    """A progress callback that adds up the seconds of each stage, and prints a line every so many of them."""

    def __init__(self, say_every: float | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._say_every = say_every
        self._last = self._said = time.perf_counter()

    def __call__(self, progress: Any) -> None:
        now = time.perf_counter()
        self.seconds[progress.stage] = self.seconds.get(progress.stage, 0.0) + now - self._last
        self._last = now
        if self._say_every and (now - self._said >= self._say_every or progress.done == progress.total):
            self._said = now
            done = f"{progress.stage} {progress.done} of {progress.total}"
            print(done, {k: round(v, 1) for k, v in self.seconds.items()}, flush=True)


def child(script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark's own script again as a fresh process, which prints one JSON document last."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])
