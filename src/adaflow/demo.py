"""`adaflow demo`: a rendered video, edited by the embedded model and shown beside its source."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from .comparison import write_comparison
from .config import EditConfig
from .errors import InputError
from .evidence import evidence
from .meter import Meter
from .pipeline import AdaFlowPipeline
from .reports import edit_report
from .spent import StageClock

DEMO_FILM = "cuts-20"
PROMPT_CHANGES = {"colour": "blue"}
FRAMES_PER_SECOND = 12


def run_demo(out: Path, frames: int) -> None:
    """Render, edit, and write `source.mp4`, `edited.mp4`, `side-by-side.mp4`, `slider.mp4` and
    `report.html` into the folder `out`.

    Raises:
        InputError: `out` is a file, or `frames` is too few to show anything.
    """
    from .commands import clock, load
    from .miniature.world import video
    from .video import open_source, write_video

    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder for the demo with --out")
    if frames < 2:
        raise InputError(f"--frames is {frames}; a video has at least 2")
    out.mkdir(parents=True, exist_ok=True)
    console, err = Console(highlight=False), Console(stderr=True, highlight=False)
    film = video(DEMO_FILM, frames)
    target = film.edit(**PROMPT_CHANGES)
    source = out / "source.mp4"
    write_video(source, iter(film), fps=FRAMES_PER_SECOND)
    err.print(f"source: {film.caption}\nprompt: {target.caption}", markup=False)
    pipe: AdaFlowPipeline = load("miniature")
    config = EditConfig.from_fields({"kind": "colour", "source_prompt": film.caption})
    started = time.perf_counter()
    workspace = out / "workspace"
    with Meter(err) as meter, StageClock(meter) as spent:
        result = pipe(source, target.caption, config=config, workspace=workspace, on_progress=spent)
        result.save(out / "edited.mp4", on_progress=spent)
    seconds = time.perf_counter() - started
    write_comparison(out / "side-by-side.mp4", open_source(source), result, "side")
    write_comparison(out / "slider.mp4", open_source(source), result, "slider")
    shown = evidence(pipe, source, config=config, workspace=workspace)
    page = edit_report(out / "report.html", source, result, evidence=shown, spent=spent)
    console.print(f"{len(result.frames)} frames edited in {clock(seconds)}; open {page}", markup=False, soft_wrap=True)
