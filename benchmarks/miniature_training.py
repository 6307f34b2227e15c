"""Draws the curves of the miniature's training, docs/images/miniature-training.svg, from what its slices recorded.

    python benchmarks/miniature_training.py [--curves FILE.json] [--out FILE.svg]

The file is the `training.json` that `python -m adaflow.miniature.train` leaves in its folder, or one with its `slices`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from common import RESULTS
from matplotlib.axes import Axes

matplotlib.rcParams["svg.hashsalt"] = "adaflow"  # the same file from the same figures
TITLES = {"vae": "autoencoder", "unet": "UNet and text encoder"}
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "miniature-training.svg"


def draw(axes: Axes, task: str, slices: list[dict[str, Any]]) -> None:
    """The losses of one part over all samples that it has seen, a colour a slice."""
    before = 0
    for number, part in enumerate(slices, 1):
        samples, losses = zip(*part["curve"], strict=True)
        minutes = f"{number}: {part['samples'] / 1000:,.0f} thousand, {part['minutes']:.1f} min"
        axes.plot([(before + n) / 1e6 for n in samples], losses, label=minutes, linewidth=1.2)
        before += part["samples"]
    axes.set(title=TITLES[task], xlabel="samples, millions", ylabel="training loss", yscale="log")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(title="slice", fontsize=8, title_fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, default=RESULTS / "miniature-gpu-training.json")
    parser.add_argument("--out", type=Path, default=IMAGE)
    given = parser.parse_args()
    slices = json.loads(given.curves.read_text(encoding="utf-8"))["slices"]
    tasks = [task for task in TITLES if any(part["task"] == task for part in slices)]
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.6 * len(tasks), 3.2), squeeze=False, layout="constrained")
    for panel, task in zip(axes[0], tasks, strict=True):
        draw(panel, task, [part for part in slices if part["task"] == task])
    figure.savefig(given.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
