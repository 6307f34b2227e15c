"""A job as the command that does it: `adaflow inspect`, `preview` or `edit`, with its settings in a file."""

from __future__ import annotations

import sys
from pathlib import Path

from ..config import EditConfig
from .place import Place
from .queue import Job

START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the server was started with it ignored
from adaflow.cli import main
main()
"""
"""The CLI as a process: Ctrl+C stops it at the unit of work at hand, whoever started the server."""


def command_of(job: Job, place: Place) -> list[str]:
    """The command line; every path in it is the server's own, and the prompt comes after everything else."""
    words = [job.kind, "--progress", "json", "--config", str(place.job(job.id) / "config.yaml")]
    if job.model:
        words += ["--model", job.model]
    if job.kind == "edit":
        words += ["--json", "--report", str(figures_of(job, place)), "--out", str(output_of(job, place))]
    elif job.kind == "inspect":
        words += ["--json", "--report", str(figures_of(job, place))]
    else:
        words += ["--out", str(output_of(job, place))]
    words += ["--", str(place.video(job.video) / "video")]
    return [sys.executable, "-c", START, *words, *([] if job.kind == "inspect" else [job.prompt])]


def output_of(job: Job, place: Place) -> Path:
    """Where a preview or an edit goes."""
    return place.job(job.id) / ("preview.png" if job.kind == "preview" else "edited.mp4")


def figures_of(job: Job, place: Place) -> Path:
    """Where the page of figures of a look or an edit goes."""
    return place.job(job.id) / "figures.html"


def write_settings(job: Job, place: Place) -> None:
    """The job's folder, with its settings as the CLI reads them."""
    folder = place.job(job.id)
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "config.yaml").write_text(EditConfig.from_fields(job.settings).to_yaml(), encoding="utf-8")
