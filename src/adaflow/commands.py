"""What the commands do: read, call the pipeline, show. No logic of the method lives here."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from .cards import cards, default_model, find_card
from .config import EditConfig
from .diskarray import format_bytes
from .errors import InputError, MissingError
from .estimate import Estimate
from .meter import Meter
from .pipeline import AdaFlowPipeline
from .video import check_output
from .workspace import cache_folder, list_workspaces, prune_workspaces, workspace_info

out_console = Console(highlight=False)
err = Console(stderr=True, highlight=False)


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
) -> None:
    """`adaflow edit`."""
    out = out or video.with_name(f"{video.stem}.edited.mp4")
    if not print_config:
        check_output(out, video)
    pipe = load(model)
    if print_config:
        out_console.print(pipe.resolve(config).to_yaml(), end="", markup=False, soft_wrap=True)
        return
    started = time.perf_counter()
    with Meter(err) as meter:
        found = pipe.inspect(video, config=config, workspace=workspace, on_progress=meter, on_rough=meter.rough)
        meter.expect(found.estimate)
        result = pipe(video, prompt, config=config, workspace=workspace, on_progress=meter)
        result.save(out, on_progress=meter)
    seconds = time.perf_counter() - started
    if report:
        from .reports import edit_report

        edit_report(report, video, result)
    if as_json:
        clips = [[c.start, c.stop] for c in result.partition.clips]
        print_json(result.record | {"output": str(out), "clips": clips, "seconds": round(seconds, 2)})
    else:
        out_console.print(str(out), markup=False, soft_wrap=True)


def inspect_video(
    video: Path, model: str | None, config: EditConfig, workspace: Path | None, report: Path | None, as_json: bool
) -> None:
    """`adaflow inspect`."""
    pipe = load(model)
    with Meter(err) as meter:
        found = pipe.inspect(video, config=config, workspace=workspace, on_progress=meter, on_rough=meter.rough)
    if report:
        from .reports import inspection_report

        inspection_report(report, video, found)
    if as_json:
        print_json(found.to_json())
        return
    lengths = sorted(len(c) for c in found.partition.clips)
    h, w = found.geometry.content
    out_console.print(f"{found.source.frames} frames, edited at {w}x{h}")
    out_console.print(
        f"{len(lengths)} clips of {lengths[0]} to {lengths[-1]} frames (median {lengths[len(lengths) // 2]})"
    )
    out_console.print("clips start at " + ", ".join(str(s) for s in found.partition.starts), soft_wrap=True)
    out_console.print(f"an edit will take {in_words(found.estimate)}")


def preview_video(
    video: Path, prompt: str, out: Path | None, model: str | None, config: EditConfig, workspace: Path | None
) -> None:
    """`adaflow preview`."""
    from .figures import side_by_side

    out = out or video.with_name(f"{video.stem}.preview.png")
    if out.suffix.lower() != ".png":
        raise InputError(f"{out} must end in .png: the preview is one picture")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist; make it first")
    pipe = load(model)
    with Meter(err) as meter:
        found = pipe.preview(video, prompt, config=config, workspace=workspace, on_progress=meter)
    figure = side_by_side(found.source, found.edited)
    part = out.with_name(f".{out.name}.part")
    figure.save(part, format="png")
    part.replace(out)
    err.print(f"{len(found.keys)} keyframes edited together; the whole edit will join {found.clips}, and may differ")
    out_console.print(str(out), markup=False, soft_wrap=True)


def list_models(as_json: bool) -> None:
    """`adaflow models list`."""
    rows = [
        {
            "name": c.name,
            "title": c.title,
            "from": c.hub or "in this package",
            "here": c.embedded or bool(_cached(c.hub)),
        }
        for c in cards().values()
    ]
    if as_json:
        print_json({"models": rows, "default": default_model()})
        return
    table = Table("name", "what", "from", "here")
    for row in rows:
        table.add_row(str(row["name"]), str(row["title"]), str(row["from"]), "yes" if row["here"] else "no")
    out_console.print(table)


def get_model(name: str) -> None:
    """`adaflow models get`."""
    from huggingface_hub import snapshot_download

    card = find_card(name)
    if card.embedded:
        out_console.print(f"{name} is part of this package; there is nothing to fetch")
        return
    if not card.hub and "/" not in name:
        raise MissingError(f"there is no model {name!r}; see: adaflow models list")
    patterns = ["*.json", "*.txt", "*.model", "unet/diffusion_pytorch_model*.safetensors"]
    patterns += ["vae/diffusion_pytorch_model*.safetensors", "text_encoder/model*.safetensors"]
    try:
        folder = snapshot_download(
            card.hub or name, revision=card.revision, allow_patterns=patterns, ignore_patterns=["*fp16*", "*non_ema*"]
        )
    except Exception as error:  # the hub client has no common base for network, cache and permission errors
        reason = " ".join(str(error).split())[:200]
        raise MissingError(
            f"{card.hub or name} could not be fetched ({reason}); check the network and the name"
        ) from error
    out_console.print(folder, markup=False, soft_wrap=True)


def list_all_workspaces(as_json: bool) -> None:
    """`adaflow workspace list`."""
    infos = list_workspaces()
    if as_json:
        print_json({"workspaces": [{"folder": str(i.root), "bytes": i.bytes, "last_used": i.last_used} for i in infos]})
        return
    table = Table("folder", "of", "size")
    for info in infos:
        table.add_row(str(info.root), info.describe, format_bytes(info.bytes))
    out_console.print(table if infos else f"no workspaces in {cache_folder()}")


def show_workspace(folder: Path, as_json: bool) -> None:
    """`adaflow workspace show`."""
    info = workspace_info(folder)
    stages = [{"stage": s.name, "state": s.state, "bytes": s.bytes} for s in info.stages]
    if as_json:
        print_json({"folder": str(info.root), "of": info.describe, "bytes": info.bytes, "stages": stages})
        return
    table = Table("stage", "state", "size")
    for stage in info.stages:
        table.add_row(stage.name, stage.state, format_bytes(stage.bytes))
    out_console.print(table)


def prune_all(max_gb: float) -> None:
    """`adaflow workspace prune`."""
    if max_gb < 0:
        raise InputError("--max-gb must not be negative")
    freed = prune_workspaces(max_bytes=int(max_gb * 1e9))
    out_console.print(f"freed {format_bytes(freed)}")


def load(model: str | None) -> AdaFlowPipeline:
    """The model, with one line where it is the embedded one that nobody asked for."""
    name = model or default_model()
    if model is None and find_card(name).embedded:
        err.print(
            "using the embedded miniature, which understands only its own rendered world; for real footage: "
            "adaflow models get sd21",
            soft_wrap=True,
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


def clock(seconds: float) -> str:
    """Seconds as 42 s, 3 min 20 s, or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def print_json(document: Any) -> None:
    """One JSON document on stdout, and nothing else."""
    print(json.dumps(document, indent=2, sort_keys=True))


def _cached(hub: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return hub is not None and isinstance(try_to_load_from_cache(hub, "model_index.json"), str)
