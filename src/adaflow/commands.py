"""What the commands do: read, call the pipeline, show. No logic of the method lives here."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from .cards import default_model, find_card
from .config import EditConfig
from .console import err, print_json
from .disk import disk_errors, format_bytes
from .errors import ConfigError
from .estimate import Estimate
from .evidence import evidence
from .meter import clock, meter_for
from .peers import find
from .pipeline import AdaFlowPipeline
from .prompts import check_prompt
from .report_place import ReportPlace, check_file
from .result import Inspection
from .spent import StageClock
from .video import check_output, open_source
from .workspace import cache_folder

if TYPE_CHECKING:
    from .comparison import Layout


def edit_video(
    video: Path,
    prompt: str,
    out: Path | None,
    model: str | None,
    config: EditConfig,
    workspace: Path | None,
    report: Path | None,
    print_config: bool,
    as_json: bool,
    progress: str = "bar",
    compare: str | None = None,
    no_report: bool = False,
    mask: Path | None = None,
) -> None:
    """`adaflow edit`."""
    display = meter_for(progress, err)
    out = out or video.with_name(f"{video.stem}.edited.mp4")
    if compare not in (None, "side", "slider"):
        raise ConfigError(f"--compare is {compare!r}; choose side or slider")
    both = out.with_name(f"{out.stem}.{compare}.mp4") if compare else None
    if not print_config:
        check_output(out, video, audio=config.output.audio or "copy")
        if both:
            check_output(both, video, audio="none")
    place = ReportPlace.choose(report, no_report or print_config, out.with_name(f"{out.stem}.report.html"), "edit")
    peer = find(config.method)
    pipe = load(model)
    settings = pipe.resolve(config, masked=mask is not None)
    if print_config:
        if as_json:
            print_json(settings.set_fields())
        else:
            print(settings.to_yaml(), end="")
        return
    check_prompt(prompt, pipe.backbone)
    started = time.perf_counter()
    shown = None
    with display as meter, StageClock(meter) as spent:
        if peer is None:
            found = pipe.inspect(
                video, mask=mask, config=config, workspace=workspace, on_progress=spent, on_rough=meter.rough
            )
            meter.expect(found.estimate)
            # now, while the features are there: `--output.keep` may have them removed
            shown = place.attempt(lambda _: evidence(pipe, video, config=config, workspace=workspace))
        result = pipe(video, prompt, mask=mask, config=config, workspace=workspace, on_progress=spent)
        result.save(out, on_progress=spent)
    seconds = time.perf_counter() - started
    if both:
        from .comparison import write_comparison

        write_comparison(both, open_source(video), result, cast("Layout", compare))

    def draw(file: Path) -> Path:
        from .reports import edit_report

        return edit_report(file, video, result, evidence=shown, spent=spent)

    page = place.attempt(draw)
    if as_json:
        clips = [[c.start, c.stop] for c in result.partition.clips]
        written = {"output": str(out), "report": page and str(page)} | ({"comparison": str(both)} if both else {})
        print_json(result.record | written | {"clips": clips, "seconds": round(seconds, 2)})
    else:
        print(*filter(None, (out, both, page)), sep="\n")
    place.settle(f"the edit {out} is done")


def inspect_video(
    video: Path,
    model: str | None,
    config: EditConfig,
    workspace: Path | None,
    report: Path | None,
    as_json: bool,
    progress: str = "bar",
    no_report: bool = False,
) -> None:
    """`adaflow inspect`."""
    display = meter_for(progress, err)
    place = ReportPlace.choose(report, no_report, video.with_name(f"{video.stem}.report.html"), "inspect")
    pipe = load(model)
    with display as meter, StageClock(meter) as spent:
        found = pipe.inspect(video, config=config, workspace=workspace, on_progress=spent, on_rough=meter.rough)

    def draw(file: Path) -> Path:
        from .reports import inspection_report

        shown = evidence(pipe, video, config=config, workspace=workspace)
        return inspection_report(file, video, found, config=pipe.resolve(config), evidence=shown, spent=spent)

    if as_json:
        page = place.attempt(draw)
        print_json(found.to_json() | {"report": page and str(page)})
    else:
        _print_findings(found)
        if page := place.attempt(draw):  # what was found is read meanwhile
            print(f"figures: {page}")
    place.settle("the look at the video is done")


def _print_findings(found: Inspection) -> None:
    lengths = sorted(len(c) for c in found.partition.clips)
    h, w = found.geometry.content
    print(f"{found.source.frames} frames, edited at {w}x{h}")
    print(f"clips: {len(lengths)}, of {lengths[0]} to {lengths[-1]} frames (median {lengths[len(lengths) // 2]})")
    print("they start at " + ", ".join(str(s) for s in found.partition.starts))
    print(f"an edit will take {in_words(found.estimate)}")


def preview_video(
    video: Path,
    prompt: str,
    out: Path | None,
    model: str | None,
    config: EditConfig,
    workspace: Path | None,
    progress: str = "bar",
    mask: Path | None = None,
) -> None:
    """`adaflow preview`."""
    from .figures import png, side_by_side

    display = meter_for(progress, err)
    out = out or video.with_name(f"{video.stem}.preview.png")
    check_file(out, ".png")
    pipe = load(model)
    with display as meter:
        found = pipe.preview(video, prompt, mask=mask, config=config, workspace=workspace, on_progress=meter)
    picture = png(side_by_side(found.source, found.edited))
    part = out.with_name(f".{out.name}.part")
    try:
        with disk_errors(out, "written", needed=len(picture)):
            part.write_bytes(picture)
            part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    err.print(f"keyframes edited together: {len(found.keys)}; the whole edit will join {found.clips}, and may differ")
    print(out)


def load(model: str | None) -> AdaFlowPipeline:
    """The model, with one line where it is the embedded one that nobody asked for."""
    name = model or default_model()
    if model is None and find_card(name).embedded:
        err.print(
            "using the embedded miniature, which understands only its own rendered world; for real footage: "
            "adaflow models get sd21"
        )
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    return AdaFlowPipeline.from_pretrained(name)


def in_words(estimate: Estimate) -> str:
    """An estimate as a person would say it."""
    free = shutil.disk_usage(cache_folder().anchor).free
    return (
        f"about {clock(estimate.total_seconds)}, {format_bytes(estimate.host_bytes)} of memory and "
        f"{format_bytes(estimate.disk_bytes)} of disk ({format_bytes(free)} free)"
    )
