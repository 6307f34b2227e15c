"""What an edit costs: counted for every setting without running it, and measured on whatever device is there.

    python benchmarks/performance.py --list                  # the named lists of cases
    python benchmarks/performance.py count                   # operations and bytes by stage of all presets and options
    python benchmarks/performance.py miniature               # measured: the miniature with its own weights
    python benchmarks/performance.py sd-m --limit 540        # SD 2.1's shape with random weights, against M
    python benchmarks/performance.py --frames 10000 --clips 600 --edit-steps 2 --channels 64 --settings fast

Every case leaves a JSON file under `--out`, also one that was stopped or failed; `render_performance.py` makes
docs/performance.md of them. With `--workspace` a case that `--limit` stopped goes on where it was, and its seconds
are added to. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from common import RESULTS, anonymous_bytes, machine
from performance_cases import MINIATURE_SIZE, NAMED, SD_SIZE, Case
from performance_count import STAGES, Count, equal_clips, on_meta
from performance_measure import (
    PEAKS,
    Generated,
    OutOfTime,
    PartClock,
    TimedEditor,
    Watch,
    disk_by_stage,
    noise_film,
    still_film,
)
from sd_shape import stable_diffusion_21

from adaflow import AdaFlowPipeline, EditConfig, stages
from adaflow.backbone import Backbone, best_device, best_dtype
from adaflow.borders import match_borders
from adaflow.cards import ModelCard
from adaflow.config import ResolvedConfig
from adaflow.editing import Prepared, edit
from adaflow.errors import AdaFlowError
from adaflow.estimate import measure
from adaflow.keyframes import Partition, schedule
from adaflow.miniature.world import video
from adaflow.prompts import branch_prompts
from adaflow.run import Run
from adaflow.steps import Step

OUT = RESULTS / "performance"
SD_WORDS = 77
SD_CARD = ModelCard(name="sd21-shape", size=SD_SIZE)
PROMPT = "a red car in the snow"
MISMATCH = 8
"""How much slower than the networks' fp16 the products of matching in fp32 run on a GPU, for forecasts alone."""


@dataclass(frozen=True)
class Bench:
    """One call of the benchmark: where results and workspaces go, until when it may run, and what is noted."""

    out: Path
    workspace: Path | None = None
    stop: float = float("inf")
    note: str = ""

    def left(self) -> float:
        """Seconds until the limit."""
        return self.stop - time.monotonic()


@lru_cache(maxsize=2)
def pipeline(model: str) -> AdaFlowPipeline:
    """The model on the device at hand: with random weights, or the miniature as it is."""
    if model == "miniature":
        return AdaFlowPipeline.from_pretrained("miniature")
    device = best_device()
    return AdaFlowPipeline.from_pipe(stable_diffusion_21(device, best_dtype(device)), SD_CARD)


@lru_cache(maxsize=2)
def bare(model: str) -> Backbone:
    """The model on the meta device, for counting; of the type that it would be run in."""
    if model == "miniature":
        return on_meta(Backbone.load("miniature", device="cpu"))
    return Backbone(stable_diffusion_21(torch.device("meta"), torch.float16), SD_CARD)


def resolved(case: Case, backbone: Backbone) -> ResolvedConfig:
    """The complete settings of a case."""
    pipe = object.__new__(AdaFlowPipeline)  # no weights, so no fingerprint
    pipe.backbone = backbone
    return pipe.resolve(EditConfig.from_fields(case.fields()))


def count_of(case: Case, clips: Partition | None = None, drawn: torch.Tensor | None = None, words: int = 0) -> Count:
    """The count of a case: for equal clips, or those that a run found."""
    backbone = bare(case.model)
    h, w = (side // backbone.vae_factor for side in case.size)
    clips = clips or equal_clips(case.frames, max(1, case.clips or -(-case.frames // 400)))
    return Count(backbone, resolved(case, backbone), clips, (h, w), drawn, words, met(backbone))


@lru_cache(maxsize=4)
def met(backbone: Backbone) -> dict[Any, int]:
    """Operations by kind of call of this model, as far as met."""
    return {}


def counted(case: Case) -> dict[str, Any]:
    """A case of kind "count"; SD 2.1 with its own tokenizer's 77 words."""
    count = count_of(case, words=SD_WORDS if case.model == "sd21" else 0)
    flops = count.flops()
    total = sum(flops[stage] for stage in STAGES)
    published = count.published_flops() if case.settings in ("released", "paper") else None
    return {
        "case": asdict(case),
        "settings": case.fields(),
        "flops": flops,
        "total_flops": total,
        "flops_per_frame": total / case.frames,
        **({"published_script_flops": published} if published else {}),
        **({"published_script_total": sum(published[s] for s in STAGES)} if published else {}),
        "flops_of_one": {
            "unet_row": count.row,
            "vae_encode": count.encode,
            "vae_decode": count.decode,
            "features": count.features,
            "match_of_a_pair": count.match,
        },
        "stored_bytes": count.stored(),
        "record_bytes": count.record_bytes * case.clips,
        "moved_bytes": count.moved(48),
    }


# -- runs ------------------------------------------------------------------------------------------------------------


def film(case: Case) -> tuple[Generated, dict[str, Any], str]:
    """The frames of a case, the fields that go with them, and the prompt."""
    if case.kind == "hour":
        return still_film(case.frames, max(8, case.frames // 18)), {}, PROMPT
    if case.model == "sd21":
        return noise_film(case.frames, case.size), {}, PROMPT
    shown = video("pan-5", case.frames)
    source = Generated(case.frames, shown.frame, "pan-5")
    return source, {"source_prompt": shown.caption}, shown.edit(colour="red").caption


def cut_by_length(case: Case) -> dict[str, Any]:
    """Fields by which a video is cut by length alone, into about as many clips as the case has."""
    h, w = case.size
    fields: dict[str, Any] = {"height": h, "width": w}
    if case.clips:
        fields |= {"keyframes.mean_threshold": -1.0, "keyframes.window_threshold": -1.0}
        fields["keyframes.longest_clip"] = -(-case.frames // case.clips)
    return fields


def run(case: Case, bench: Bench) -> dict[str, Any]:
    """Run one case and write its file; what fails is written down as well."""
    pipe = pipeline(case.model)
    device = pipe.backbone.device
    path = bench.out / f"{case.name}-{slug()}.json"
    before = resumed(path) if bench.workspace else {}
    figures: dict[str, Any] = {
        "machine": machine(),
        "note": bench.note,
        "case": asdict(case),
        "settings": case.fields(),
        "dtype": str(pipe.backbone.dtype).removeprefix("torch."),
        "state": "running",
    }

    def save(stages_now: dict[str, Any]) -> None:
        figures["stages"] = stages_now
        write(path, figures)

    folder = bench.workspace / case.name if bench.workspace else None
    temporary = None if folder else tempfile.TemporaryDirectory()
    root = folder or Path(temporary.name)  # type: ignore[union-attr]
    watch = Watch(case.name, device, deadline=bench.stop, save=save, before=before.get("stages"))
    clock = PartClock(pipe.backbone, before.get("parts"))
    warm_up(pipe, case)
    figures["host_bytes_before"] = anonymous_bytes()
    try:
        with watch, clock:
            figures |= RUNS[case.kind](case, pipe, root, watch, clock)
        figures["state"] = "done"
    except OutOfTime as error:
        figures["state"] = f"stopped at the limit: {error}"
    except (AdaFlowError, torch.OutOfMemoryError, MemoryError) as error:
        figures["state"] = f"failed: {' '.join(str(error).split())[:300]}"
    figures |= {"stages": watch.stages, "parts": clock.parts(), "seconds": watch.seconds}
    figures["host_peak_bytes"] = max((s.get("host_peak_bytes", 0) for s in watch.stages.values()), default=0)
    figures["device_peak_bytes"] = max((s.get("device_peak_bytes", 0) for s in watch.stages.values()), default=0)
    figures["disk_bytes_by_stage"] = disk_by_stage(root)
    if temporary:
        temporary.cleanup()
    if figures["state"] == "done" and case.kind != "steps":
        add_counts(case, figures)
    for part, flops in figures.pop("flops", {}).items():
        if part in figures["parts"]:
            figures["parts"][part]["flops"] = flops
    figures = rates(figures, device)
    write(path, figures)
    print(f"{case.name}: {figures['state']}, {figures['seconds']:.1f} s -> {path}", flush=True)
    return dict(json.loads(path.read_text()))


def edited(case: Case, pipe: AdaFlowPipeline, root: Path, watch: Watch, clock: PartClock) -> dict[str, Any]:
    """A whole edit, of which nothing is left out but the writing of a file."""
    source, fields, prompt = film(case)
    config = EditConfig.from_fields(cut_by_length(case) | fields | case.fields())
    result = pipe(source, prompt, config=config, workspace=root, on_progress=watch)  # type: ignore[arg-type]
    return {"partition": result.partition.starts, "schedule": result.schedule.tolist(), "plan": result.record["plan"]}


def hour(case: Case, pipe: AdaFlowPipeline, root: Path, watch: Watch, clock: PartClock) -> dict[str, Any]:
    """Every stage but decoding, on frames that nearly stand still: what length alone does."""
    source, fields, prompt = film(case)
    settings = pipe.resolve(EditConfig.from_fields(cut_by_length(case) | fields | case.fields()))
    with pipe.opened(source, settings, root, watch) as made:
        texts = branch_prompts(prompt, settings)
        latents = stages.encode(made)
        features = stages.extract_features(made, latents)
        clips, _, partitioned = stages.partition(made, features)
        trajectory = stages.invert(made, latents, texts[0])
        drawn, scheduled = stages.draw_keyframes(made, clips, features, partitioned)
        matches = stages.match_tokens(made, clips, drawn, features, scheduled)
        borders = match_borders(made, clips, drawn, features, scheduled)
        editor = TimedEditor(clock, pipe.backbone, settings, pipe.backbone.conditioning(*texts))
        prepared = Prepared(trajectory.existing("trajectory"), clips, drawn, matches, borders, features)
        edit(made, editor, made.stage("edit", {}, trajectory, scheduled), prepared)
        return {"partition": clips.starts, "schedule": drawn.tolist(), "plan": asdict(made.plan)}


def stepped(case: Case, pipe: AdaFlowPipeline, root: Path, watch: Watch, clock: PartClock) -> dict[str, Any]:
    """A few of the editing steps at true n and M, on synthetic latents and features; the whole is extrapolated."""
    count_of(case).flops()  # not while the clock runs
    watch.skip()
    source, fields, _ = film(case)
    settings = pipe.resolve(EditConfig.from_fields(cut_by_length(case) | fields | case.fields()))
    with pipe.opened(source, settings, root, watch) as made:
        editor = TimedEditor(clock, pipe.backbone, settings, pipe.backbone.conditioning("", "", PROMPT))
        chosen = some_steps(editor.steps, case.edit_steps or 2)
        clips = equal_clips(case.frames, case.clips)
        drawn = schedule(clips, settings.steps, settings.seed, "uniform")
        if settings.keyframes.choice != "uniform":
            drawn = schedule(clips, settings.steps, settings.seed, "middle")
        ran = drawn[[step.number for step in chosen]]
        whole = count_of(case, clips, drawn)
        features, trajectory, scheduled = synthetic(made, case, len(chosen), whole)
        watch.skip()
        watch.stages.pop("synthesise", None)
        matches = stages.match_tokens(made, clips, ran, features, scheduled)
        borders = match_borders(made, clips, ran, features, scheduled)
        seconds: list[float] = []
        began = [time.perf_counter()]

        def on_step(step: Step) -> None:
            if pipe.backbone.device.type == "cuda":
                torch.cuda.synchronize(pipe.backbone.device)
            seconds.append(time.perf_counter() - began[0])
            began[0] = time.perf_counter()

        editor.steps = [replace(step, number=i) for i, step in enumerate(chosen)]
        video_ = Prepared(trajectory.existing("trajectory"), clips, ran, matches, borders, features)
        began[0] = time.perf_counter()
        edit(made, editor, made.stage("edit", {"chosen": [s.number for s in chosen]}, trajectory), video_, on_step)
        watch.book("edit")
        with clock.span("units", 0):
            units = measure(made)
        watch.skip()
        plan = asdict(made.plan)
    of_steps = [{**asdict(s), "seconds": round(t, 3)} for s, t in zip(chosen, seconds, strict=False)]
    ran_count = dataclasses.replace(whole, drawn=ran)
    figures = {"plan": plan, "steps": of_steps, "unit_seconds": asdict(units), "clips": len(clips)}
    figures["flops"] = flops_of_steps(whole, chosen)
    watch.stages.get("match", {})["flops"] = ran_count.pairs_matched * ran_count.match
    watch.stages["edit"]["flops"] = sum(figures["flops"].values())
    figures["record_bytes"] = whole.record_bytes * len(clips)
    if len(seconds) == len(chosen):  # a resumed run has not seen them all
        per_pair = watch.stages.get("match", {"seconds": 0.0})["seconds"] / max(1, ran_count.pairs_matched)
        figures["extrapolated"] = extrapolated(whole, chosen, seconds, asdict(units), per_pair)
    return figures


RUNS = {"edit": edited, "steps": stepped, "hour": hour}


def flops_of_steps(count: Count, chosen: list[Step]) -> dict[str, int]:
    """Operations of some steps by part."""
    n, m = count.clips.frames, len(count.clips)
    kinds = [replace(step, number=0, timestep=0) for step in chosen]
    return {
        "edit.choose": sum(count.choose(kind.whole) for kind in kinds),
        "edit.key": sum(count.key(kind, m) for kind in kinds),
        "edit.source": n * sum(map(count.source, kinds)),
        "edit.propagate": n * sum(map(count.propagate, kinds)),
    }


def some_steps(steps: list[Step], count: int) -> list[Step]:
    """`count` steps in order: the first, which is whole; then one of each other kind, the most frequent kinds first."""
    kind = {step.number: replace(step, number=0, timestep=0) for step in steps}
    often = Counter(kind.values())
    kinds = sorted(often, key=lambda k: (k != kind[steps[0].number], -often[k]))
    firsts = [next(s for s in steps if kind[s.number] == k) for k in kinds][:count]
    rest = [s for s in steps if s not in firsts][: count - len(firsts)]
    return sorted(firsts + rest, key=lambda s: s.number)


def synthetic(made: Run, case: Case, steps: int, count: Count) -> tuple[Any, Any, Any]:
    """Stages with random latents for some steps, and features that are alike within a clip; and an empty schedule."""
    generator = torch.Generator(device=made.backbone.device).manual_seed(0)
    depth, grid = count.depth, count.feature_grid
    features = made.stage("features", {"synthetic": depth})
    scheduled = made.stage("schedule", {"synthetic": steps, "settings": case.settings}, features)
    trajectory = made.stage("trajectory", {"synthetic": steps})
    latent = (made.backbone.unet.config.in_channels, *made.latent_size)

    def drawn(rows: int, *shape: int) -> torch.Tensor:
        return torch.randn(rows, *shape, generator=generator, device=made.backbone.device)

    if not features.complete:
        array = features.array("features", (made.frames, *grid, depth), torch.float16)
        block = 16
        for start in range(0, made.frames, block):
            rows = min(block, made.frames - start)
            array.write(start, (drawn(1, *grid, depth) + 0.3 * drawn(rows, *grid, depth)).half().cpu())
            made.report("synthesise", start + rows, made.frames)
        features.finish()
    if not trajectory.complete:
        array = trajectory.array("trajectory", (steps, made.frames, *latent), torch.float16)
        for s in range(steps):
            for start in range(0, made.frames, 256):
                array.sub(s).write(start, drawn(min(256, made.frames - start), *latent).half().cpu())
        trajectory.finish()
    return features, trajectory, scheduled


def extrapolated(
    count: Count, chosen: list[Step], seconds: list[float], units: dict[str, float], per_pair: float
) -> dict[str, float]:
    """Seconds of the whole edit from those of a few steps: by kind of step, and by operations for kinds not run.

    Inversion, features and the autoencoder are their measured units times how often they are needed; matching is what
    a pair took times the pairs of the whole schedule.
    """
    n, config = count.clips.frames, count.config

    def work(step: Step) -> int:
        return sum(flops_of_steps(count, [step]).values())

    ran: dict[Step, list[float]] = {}
    for step, time_ in zip(chosen, seconds, strict=True):
        ran.setdefault(replace(step, number=0, timestep=0), []).append(time_)
    total = 0.0
    for kind, times in count.kinds.items():
        if kind in ran:
            one = sum(ran[kind]) / len(ran[kind])
        else:
            near = next((k for k in ran if k.whole == kind.whole), next(iter(ran)))
            one = sum(ran[near]) / len(ran[near]) * work(kind) / work(near)
        total += times * one
    from_pixels = config.features.input_range == "unit" or config.features.ensemble > 1
    copy = units["row"] * count.features / count.row + from_pixels * units["encode"]
    found = {
        "encode": n * units["encode"],
        "features": n * config.features.ensemble * copy,
        "invert": n * count.inversion / count.row * units["row"],
        "match": count.pairs_matched * per_pair,
        "edit": total,
        "decode": n * units["decode"],
    }
    return {**{k: round(v, 1) for k, v in found.items()}, "total": round(sum(found.values()), 1)}


def warm_up(pipe: AdaFlowPipeline, case: Case) -> None:
    """On a GPU the first calls of each kind load and choose kernels, which is no part of an edit's cost."""
    backbone = pipe.backbone
    if backbone.device.type != "cuda":
        return
    h, w = (side // backbone.vae_factor for side in case.size)
    text = backbone.conditioning("", "", "")
    for rows in (1, 16):
        z = torch.zeros(rows, backbone.unet.config.in_channels, h, w)
        backbone.predict(z, 500, text.rows(range(rows), "source"))
        backbone.decode(z[: max(1, rows // 3)])
        backbone.encode(torch.zeros(max(1, rows // 3), *case.size, 3, dtype=torch.uint8))
    torch.cuda.synchronize(backbone.device)


def add_counts(case: Case, figures: dict[str, Any]) -> None:
    """Operations and predicted bytes of what was run, for the clips and keyframes that it had."""
    clips = Partition.from_starts(figures.pop("partition"), case.frames)
    drawn = torch.tensor(figures.pop("schedule"), dtype=torch.int64)
    count = count_of(case, clips, drawn)
    flops, stored = count.flops(), count.stored()
    figures["clips"] = len(clips)
    for stage, kept in figures["stages"].items():
        if stage in flops:
            kept["flops"] = flops[stage]
        if stage in stored:
            kept["stored_bytes"] = stored[stage]
    for part, kept in figures["parts"].items():
        if part in flops:
            kept["flops"] = flops[part]
        elif part in ("vae.encode", "vae.decode"):
            kept["flops"] = kept["rows"] * (count.encode if part == "vae.encode" else count.decode)
    named = [stage for stage in STAGES if stage in figures["stages"]]
    figures["total_flops"] = sum(flops[stage] for stage in named)
    figures["record_bytes"] = count.record_bytes * len(clips)


def rates(figures: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """With operations a second, and their share of what the card's matrix units can do by its data sheet."""
    peak = None
    if device.type == "cuda":
        peak = next((p for name, p in PEAKS.items() if name in torch.cuda.get_device_name(device)), None)
    for kept in (*figures["stages"].values(), *figures["parts"].values()):
        if kept.get("flops") and kept["seconds"] > 0:
            kept["flops_per_second"] = round(kept["flops"] / kept["seconds"])
            if peak:
                kept["share_of_peak"] = round(kept["flops"] / kept["seconds"] / peak, 4)
    return figures


# -- how long a case will take -----------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def speed(model: str, size: tuple[int, int]) -> float:
    """Operations a second of plain UNet rows on this device, measured in a second or two."""
    backbone = pipeline(model).backbone
    h, w = (side // backbone.vae_factor for side in size)
    row = Count(bare(model), resolved(Case(kind="count", model=model), bare(model)), equal_clips(1, 1), (h, w)).row  # type: ignore[arg-type]
    rows = 16 if backbone.device.type == "cuda" else 1
    text = backbone.conditioning("", "", "").rows(range(rows), "source")
    z = torch.zeros(rows, backbone.unet.config.in_channels, h, w)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        backbone.predict(z, 500, text).sum().item()
        best = min(best, time.perf_counter() - start)
        if best > 2:
            break
    return rows * row / best


def forecast(case: Case) -> float:
    """Seconds that a case will take, about: its operations at the speed of plain rows, and a start."""
    if case.kind == "count":
        return 3.0
    slower = MISMATCH if pipeline(case.model).backbone.device.type == "cuda" else 1
    return 5 + 1.1 * work_of(case, slower) / speed(case.model, case.size)


def work_of(case: Case, slower: int) -> int:
    """Operations of a case, those in fp32 outside the networks so many times over."""
    count = count_of(case)
    flops = count.flops()
    fp32 = flops["partition"] + flops["match"] + flops["edit.choose"]
    work = sum(flops[stage] for stage in STAGES) + (slower - 1) * fp32
    if case.kind == "steps":
        chosen = some_steps(count.editor.steps, case.edit_steps or 2)
        parts = flops_of_steps(count, chosen)
        work = sum(parts.values()) + (slower - 1) * parts["edit.choose"]
        work += slower * len(chosen) * case.frames * count.match
    return work


# -- files -------------------------------------------------------------------------------------------------------------


def slug() -> str:
    """The device, for a file's name."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return "".join(c if c.isalnum() else "_" for c in name).strip("_").lower()


def write(path: Path, figures: dict[str, Any]) -> None:
    """The figures as JSON; the file is replaced as a whole, so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(figures, indent=1) + "\n")
    new.replace(path)


def resumed(path: Path) -> dict[str, Any]:
    """The figures of this case's earlier run, if that was stopped; its seconds count."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    return dict(found) if str(found.get("state", "")).startswith(("stopped", "running")) else {}


def listed() -> None:
    """The named lists and their cases, on stdout."""
    for name, cases in NAMED.items():
        print(f"{name}: {len(cases)} cases")
        for case in cases if len(cases) < 12 else cases[:3]:
            print(f"    {case.name}")
        if len(cases) >= 12:
            print("    …")


def asked(arguments: argparse.Namespace) -> list[Case]:
    """The cases that the command line names."""
    extra = tuple((name, yaml.safe_load(value)) for name, value in (text.split("=", 1) for text in arguments.set))
    cases = [replace(case, extra=extra) for name in arguments.lists for case in NAMED[name]]
    if arguments.frames:
        size = tuple(arguments.size) if arguments.size else SD_SIZE if arguments.model == "sd21" else MINIATURE_SIZE
        kind = arguments.kind or ("steps" if arguments.edit_steps else "edit")
        given = {name: getattr(arguments, name) for name in ("model", "frames", "clips", "steps", "edit_steps")}
        given |= {"kind": kind, "size": size, "channels": arguments.channels, "extra": extra}
        cases += [Case(settings=name, **given) for name in arguments.settings or ["exact"]]
    elif arguments.settings:
        cases = [case for case in cases if case.settings in arguments.settings]
    return cases


def main(given: list[str] | None = None) -> int:
    """The command; returns 1 where a case failed or none was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="*", choices=[[], *NAMED], metavar="LIST", help=f"any of {', '.join(NAMED)}")
    parser.add_argument("--list", action="store_true", help="show the lists and end")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds; what would not fit is not begun")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON files")
    parser.add_argument("--workspace", type=Path, help="folder in which stopped cases go on; else a temporary one")
    parser.add_argument("--note", default="", help="kept beside the figures, such as 'shared machine'")
    parser.add_argument("--settings", nargs="+", help="of the lists' cases only these; or of the one given by --frames")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="further fields, as run.record=disk"
    )
    parser.add_argument("--device-memory", type=float, help="GiB of the card that this process may take")
    parser.add_argument("--kind", choices=["count", "edit", "steps", "hour"])
    parser.add_argument("--model", choices=["sd21", "miniature"], default="sd21")
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--edit-steps", type=int, default=0)
    parser.add_argument("--channels", type=int, default=0)
    arguments = parser.parse_args(given)
    cases = [] if arguments.list else asked(arguments)
    if not cases:
        listed()
        return 0 if arguments.list else 1
    if arguments.device_memory and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.device_memory * 2**30 / whole))
    bench = Bench(arguments.out, arguments.workspace, time.monotonic() + arguments.limit, arguments.note)
    counts: list[dict[str, Any]] = []
    failed = 0
    for place, case in enumerate(cases):
        print(f"-- case {place + 1} of {len(cases)}: {case.name}", flush=True)
        if arguments.limit < float("inf") and not arguments.workspace and (wanted := forecast(case)) > bench.left():
            print(f"   not begun: about {wanted:.0f} s, and {bench.left():.0f} s are left", flush=True)
            continue
        if case.kind == "count":
            counts.append(counted(case))
            print(f"   {counts[-1]['flops_per_frame'] / 1e12:.1f} TFLOP a frame", flush=True)
        else:
            failed += not run(case, bench)["state"].startswith(("done", "stopped"))
    if counts:
        write(bench.out / "count.json", {"machine": machine(), "cases": counts})
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
