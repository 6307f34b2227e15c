"""docs/performance.md and its pictures, made of the JSON files that `performance.py` left, and of nothing else.

python benchmarks/render_performance.py
python benchmarks/render_performance.py --results FOLDER --docs FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from adaflow.presets import PRESETS as SPEED

Figures = dict[str, Any]

RESULTS = Path(__file__).parent / "results" / "performance"
DOCS = Path(__file__).parents[1] / "docs"

PRESETS = ("released", "paper", "exact", "fast", "draft")
COLUMNS = {
    "encode": "VAE in",
    "features": "features",
    "partition": "partition",
    "invert": "inversion",
    "match": "matching",
    "edit.choose": "choice of tokens",
    "edit.key": "key pass",
    "edit.source": "source rows",
    "edit.propagate": "propagation",
    "decode": "VAE out",
}
COLOURS = ("#999999", "#F0E442", "#5a6068", "#0072B2", "#000000", "#CC79A7", "#D55E00", "#56B4E9", "#009E73", "#E69F00")
STAGES = ("encode", "features", "partition", "invert", "match", "edit", "decode")


def load(folder: Path) -> tuple[list[Figures], list[Figures]]:
    """The counted cases, and the measured ones in order of their names."""
    count = folder / "count.json"
    counted = json.loads(count.read_text())["cases"] if count.exists() else []
    files = sorted(path for path in folder.glob("*.json") if path != count)
    return counted, [json.loads(path.read_text()) for path in files]


def page(counted: list[Figures], measured: list[Figures]) -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION]
    if counted:
        parts += [by_count(counted), options(counted), growth(counted), sizes(counted), bytes_kept(counted)]
    parts.append(runs(measured))
    parts.append(COMMANDS)
    return "\n".join(part.strip() + "\n" for part in parts if part)


INTRODUCTION = """
# Performance

What an edit costs: operations and bytes by count, seconds and memory by measurement. This page is written by
`python benchmarks/render_performance.py` from the files under `benchmarks/results/performance/`; those are written by
`python benchmarks/performance.py`, with the machine, versions, commit and settings in each.

Operations are floating-point operations of products, convolutions and attention, two per multiply-add, attention's
products included; element-wise work is not counted. They are counted by the method's own code on torch's meta device
and by the number of calls that its steps, schedule and partition make; `tests/test_performance.py` asserts that they
equal what a run counts, to the last operation. Stable Diffusion is 2.1 in its shape, with random weights: no figure
here depends on weights, and none says anything about quality.
"""

COMMANDS = """
## Making these figures

```
python benchmarks/performance.py --list        # what there is
python benchmarks/performance.py count         # everything counted, on any machine, in minutes
python benchmarks/performance.py sd-presets    # a list of measured cases, on the device at hand
python benchmarks/performance.py sd-1000 --settings fast --limit 580 --workspace DIR   # goes on where it stopped
python benchmarks/render_performance.py        # this page
```

With `--limit SECONDS` no case is begun that would not fit. A line every ten seconds says where a run is, and its file
is written anew with every stage, so that a run that is killed leaves what it had.
"""


# -- counted -----------------------------------------------------------------------------------------------------------


def usual(case: Figures) -> bool:
    """Whether a counted case is the usual one: 1,000 frames in 60 clips at 384x672."""
    given = case["case"]
    return [given["frames"], given["clips"], list(given["size"]), given["channels"]] == [1000, 60, [384, 672], 0]


def named(counted: Iterable[Figures]) -> dict[str, Figures]:
    """The usual cases by the name of their settings."""
    return {case["case"]["settings"]: case for case in counted if usual(case)}


def by_count(counted: list[Figures]) -> str:
    """The presets by stage."""
    cases = named(counted)
    published = cases["released"]["published_script_flops"], cases["released"]["published_script_total"]
    rows = [["published script", *stage_cells(published[0]), tera(published[1] / 1000), "1", ""]]
    for name in PRESETS:
        case = cases[name]
        total = case["total_flops"]
        ratios = [f"{total / published[1]:.3f}", f"{total / cases['released']['total_flops']:.3f}"]
        rows.append([f"`{name}`", *stage_cells(case["flops"]), tera(case["flops_per_frame"]), *ratios])
    head = ["", *COLUMNS.values(), "sum", "of the script", "of `released`"]
    one = {k: f"{v / 1e12:.3f}" for k, v in cases["exact"]["flops_of_one"].items()}
    return f"""
## By count

1,000 frames at 384x672 in 60 clips, 50 editing steps; TFLOP a frame (the sum over 1,000 frames is as many PFLOP).

{table(head, rows)}

"Published script" is what the paper's released program does at its own settings, with the same calls at the same price:
frames encoded again for every copy of the features, all pairs of a clip's frames matched, source rows run whole at all
steps, three decodings. `released` is its settings in this program, which does no work twice; `exact` is this program's
default. The others are set by

{chr(10).join(f"- `{name}`: {stated(cases[name])}" for name in ("fast", "draft"))}

One row of the UNet is {one["unet_row"]} TFLOP, encoding a frame {one["vae_encode"]}, decoding {one["vae_decode"]},
its features {one["features"]}, matching it with one keyframe {one["match_of_a_pair"]}. The choice of tokens, matching
and the partition are fp32 products without tensor cores, several times slower an operation on a GPU.

![Share by stage](images/performance-stages.svg)
"""


def stated(case: Figures) -> str:
    """The settings of a case in words, a preset by what it sets."""
    given = dict(case["settings"])
    fields = {**SPEED[given.pop("preset", "default")], **given}
    return ", ".join(f"`{name}: {value}`" for name, value in fields.items())


def options(counted: list[Figures]) -> str:
    """Each option against `exact`."""
    cases = named(counted)
    exact, released = cases["exact"], cases["released"]
    rows = []
    for name, case in cases.items():
        if name in PRESETS:
            continue
        flops, base = case["flops"], exact["flops"]
        saved = 1 - case["total_flops"] / exact["total_flops"]
        parts = [
            f"{part} {(base[s] - flops[s]) / 1e15:+.1f}" for s, part in COLUMNS.items() if moved(base[s], flops[s])
        ]
        ratios = [f"{case['total_flops'] / released[k]:.3f}" for k in ("published_script_total", "total_flops")]
        rows.append([name, tera(case["flops_per_frame"]), f"{saved:.1%}".replace("%", " %"), *ratios, ", ".join(parts)])
    head = ["option", "TFLOP a frame", "saved of `exact`", "of the script", "of `released`", "PFLOP saved where"]
    return f"""
### What each option is worth

The same 1,000 frames; each option against `exact`, which takes {tera(exact["flops_per_frame"])} TFLOP a frame. What
they do to the result is another question, which the ground-truth benchmark answers (benchmark.md).

{table(head, rows)}
"""


def growth(counted: list[Figures]) -> str:
    """Against the number of frames and of clips."""
    head = ["n", "M", *(f"`{s}`" for s in GROWN), *(f"choice of tokens in `{s}`" for s in GROWN)]
    cells: dict[tuple[int, int, int], dict[str, Figures]] = {}
    for case in counted:
        given = case["case"]
        if given["settings"] in GROWN and list(given["size"]) == [384, 672]:
            cells.setdefault((given["channels"], given["frames"], given["clips"]), {})[given["settings"]] = case
    rows: dict[bool, list[list[str]]] = {False: [], True: []}
    for (channels, n, m), found in sorted(cells.items()):
        sums = [tera(found[s]["flops_per_frame"]) if s in found else "" for s in GROWN]
        choices = [tera(found[s]["flops"]["edit.choose"] / n) if s in found else "" for s in GROWN]
        rows[channels > 0].append([f"{n:,}", f"{m:,}", *sums, *choices])
    narrow = f"""
With features of 64 dimensions instead of {FULL_DEPTH}, the projection included:

{table(head, rows[True])}
"""
    return f"""
### Growth with the number of frames and of clips

TFLOP a frame at 384x672. With a fixed share of clips the cost a frame would not grow but for the choice of kept
tokens, which compares all pairs of keyframes at every step.

![Cost against n and M](images/performance-growth.svg)

{table(head, rows[False])}
{narrow if rows[True] else ""}"""


GROWN = ("released", "exact", "fast")
FULL_DEPTH = 640


def sizes(counted: list[Figures]) -> str:
    """Against the size of a frame."""
    by_size: dict[tuple[int, int], dict[str, Figures]] = {}
    for case in counted:
        given = case["case"]
        if (given["frames"], given["clips"], given["channels"]) == (1000, 60, 0) and given["settings"] in GROWN:
            by_size.setdefault(tuple(given["size"]), {})[given["settings"]] = case
    rows = [
        [f"{h}x{w}", *(tera(found[s]["flops_per_frame"]) for s in GROWN)]
        for (h, w), found in sorted(by_size.items(), key=lambda item: item[0][0] * item[0][1])
        if len(found) == len(GROWN)
    ]
    return f"""
### Size of the frame

TFLOP a frame, 1,000 frames in 60 clips.

{table(["size", *(f"`{s}`" for s in GROWN)], rows)}
"""


def bytes_kept(counted: list[Figures]) -> str:
    """Bytes on disk, in memory and between host and device."""
    names = {"encode": "latents", "features": "features", "invert": "trajectory", "match": "matches"}
    names |= {"edit": "edit's latents", "decode": "frames"}
    rows = []
    for name, case in named(counted).items():
        if name not in PRESETS:
            continue
        n, m, stored = case["case"]["frames"], case["case"]["clips"], case["stored_bytes"]
        ways = [x / 1e12 for x in case["moved_bytes"].values()]
        rows.append(
            [
                f"`{name}`",
                *(f"{stored[stage] / n / 1e6:.2f}" for stage in names),
                f"{sum(stored.values()) / n / 1e6:.2f}",
                f"{case['record_bytes'] / m / 1e6:.1f}",
                *(f"{x:.2f}" if x else "" for x in ways),
            ]
        )
    head = ["", *names.values(), "sum", "record a keyframe"]
    head += ["TB of it from the device", "to it", "TB of deep features written", "read"]
    return f"""
### Bytes

MB of disk a frame by what is kept; MB of host memory a keyframe for the record of its attention; and what is moved in a
whole edit of 1,000 frames in 60 clips: the record, where it lies on the host and runs are of 48 frames, and the deep
features of every frame that reuse keeps on disk, which are most of what it stores.

{table(head, rows)}
"""


# -- measured ----------------------------------------------------------------------------------------------------------


def runs(measured: list[Figures]) -> str:
    """All that was run."""
    if not measured:
        return "\n## Measured\n\nNothing yet.\n"
    parts = ["\n## Measured\n"]
    for device in sorted({where(figures) for figures in measured}):
        here = [figures for figures in measured if where(figures) == device]
        parts.append(f"### {device}\n\n{overview(here)}\n")
        parts += [details(figures) for figures in here if str(figures["state"]).startswith(("done", "stopped"))]
    if any(points(measured, axis) for axis in ("frames", "clips")):
        parts.append("![Seconds against n and M](images/performance-seconds.svg)\n")
    return "\n".join(parts)


def overview(measured: list[Figures]) -> str:
    """One line for each run of a device."""
    rows = []
    for figures in measured:
        case, seconds = figures["case"], figures.get("seconds", 0.0)
        done = figures["state"] == "done"
        peaks = [figures.get(name) or 0 for name in ("host_peak_bytes", "device_peak_bytes")]
        disk = sum(figures.get("disk_bytes_by_stage", {}).values())
        rate = figures["total_flops"] / seconds / 1e12 if done and figures.get("total_flops") else 0
        rows.append(
            [
                KINDS[case["kind"]].format(case["edit_steps"]),
                case["model"],
                f"`{case['settings']}`" + "".join(f" {name}={value}" for name, value in case.get("extra", ())),
                f"{case['frames']:,}",
                f"{figures.get('clips') or case['clips']:,}",
                "x".join(map(str, case["size"])),
                str(case["steps"] or ""),
                f"{seconds:,.1f}",
                f"{1000 * seconds / case['frames']:,.0f}" if done and case["kind"] != "steps" else "",
                f"{rate:.2f}" if rate else "",
                *(f"{b / 2**30:.2f}" if b else "" for b in (*peaks, disk)),
                "; ".join(filter(None, ["" if done else figures["state"], figures.get("note", "")])),
            ]
        )
    head = ["", "model", "settings", "n", "M", "size", "steps", "s", "ms a frame", "TFLOP/s"]
    return table([*head, "host GiB", "device GiB", "disk GiB", ""], rows)


KINDS = {"edit": "edit", "steps": "{} editing steps", "hour": "near-static, no decoding"}


def details(figures: Figures) -> str:
    """One run by stage and kind of call."""
    case = figures["case"]
    rows = []
    for name, kept in (*figures["stages"].items(), *figures.get("parts", {}).items()):
        flops = kept.get("flops")
        rows.append(
            [
                name if name in figures["stages"] else f"· {name}",
                f"{kept['seconds']:,.2f}",
                f"{flops / 1e12:,.2f}" if flops else "",
                f"{kept['flops_per_second'] / 1e12:,.2f}" if kept.get("flops_per_second") else "",
                f"{kept['share_of_peak']:.1%}".replace("%", " %") if kept.get("share_of_peak") else "",
                *(mega(kept.get(k)) for k in ("read_bytes", "written_bytes", "stored_bytes")),
                *(mega(kept.get(k)) for k in ("host_peak_bytes", "device_peak_bytes")),
            ]
        )
    head = ["stage, · kind of call", "s", "TFLOP", "TFLOP/s", "of the card's peak"]
    head += ["MB read", "MB written", "MB stored", "host MB", "device MB"]
    title = f"{case['kind']}, {case['model']}, `{case['settings']}`, n = {case['frames']:,}, M = "
    title += f"{figures.get('clips') or case['clips']:,}, {'x'.join(map(str, case['size']))}"
    text = f"<details><summary>{title}</summary>\n\n{table(head, rows)}\n"
    if case["kind"] == "steps" and figures.get("extrapolated"):
        text += "\n" + extrapolated(figures)
    if case["kind"] == "hour":
        text += "\n" + flat(figures)
    return text + "\n</details>\n"


def extrapolated(figures: Figures) -> str:
    """The whole edit from a few of its steps."""
    whole = figures["extrapolated"]
    steps = ", ".join(
        f"{s['seconds']:.1f} ({'whole' if s['whole'] else 'finest level'}{', injected' if s['features'] else ''})"
        for s in figures["steps"]
    )
    parts = ", ".join(f"{name} {whole[name]:,.0f}" for name in STAGES if name in whole)
    return f"Seconds of the steps: {steps}. **Extrapolated**, not measured: {whole['total']:,.0f} s in all ({parts}).\n"


def flat(figures: Figures) -> str:
    """Host memory through a long run, and its disk against what was predicted."""
    rows = [
        [name, *(f"{kept.get('host_bytes_at', {}).get(str(i), 0) / 2**20:,.0f}" for i in range(0, 11, 2))]
        for name, kept in figures["stages"].items()
        if kept.get("host_bytes_at")
    ]
    names = {"encode": "latents", "invert": "trajectory", "match": "matches"}
    there = figures.get("disk_bytes_by_stage", {})
    disk = [
        f"{stage} {there[names.get(stage, stage)] / 1e6:,.1f} ({kept['stored_bytes'] / 1e6:,.1f} predicted)"
        for stage, kept in figures["stages"].items()
        if kept.get("stored_bytes") and names.get(stage, stage) in there
    ]
    return (
        "Host memory in MB by how much of a stage is done:\n\n"
        + table(["stage", *(f"{10 * i} %" for i in range(0, 11, 2))], rows)
        + f"\n\nMB of disk: {', '.join(disk)}.\n"
    )


# -- pictures ----------------------------------------------------------------------------------------------------------


def pictures(counted: list[Figures], measured: list[Figures]) -> dict[str, str]:
    """The page's pictures as SVG, by file name."""
    found: dict[str, str] = {}
    if counted:
        found["performance-stages.svg"] = drawn(1, 2.6, lambda axes: shares(axes[0], counted))
        found["performance-growth.svg"] = drawn(2, 2.8, lambda axes: grown(axes, counted))
    if any(points(measured, axis) for axis in ("frames", "clips")):
        found["performance-seconds.svg"] = drawn(2, 2.8, lambda axes: taken(axes, measured))
    return found


def drawn(plots: int, height: float, draw: Callable[[Sequence[Axes]], None]) -> str:
    """A picture with so many plots side by side."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "adaflow", "font.size": 8}):
        figure = Figure(figsize=(7.4, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = [figure.add_subplot(1, plots, i + 1) for i in range(plots)]
        draw(axes)
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def shares(ax: Axes, counted: list[Figures]) -> None:
    """Cost by stage, one bar a preset."""
    cases = named(counted)
    bars = {"published script": cases["released"]["published_script_flops"]}
    bars |= {name: cases[name]["flops"] for name in PRESETS}
    places = list(range(len(bars)))[::-1]
    left = [0.0] * len(bars)
    for (stage, title), colour in zip(COLUMNS.items(), COLOURS, strict=True):
        widths = [flops.get(stage, 0) / 1e15 for flops in bars.values()]
        if max(widths) < 0.5:
            continue
        ax.barh(places, widths, left=left, color=colour, label=title, height=0.7, linewidth=0)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    ax.set_yticks(places, list(bars))
    ax.set_xlabel("TFLOP a frame, 1,000 frames in 60 clips at 384x672")
    ax.legend(frameon=False, fontsize=7, loc="lower right")


def grown(axes: Sequence[Axes], counted: list[Figures]) -> None:
    """Cost a frame against n at a fixed share of clips, and against M at 1,000 frames."""
    for settings, colour, marker in zip(GROWN, ("#D55E00", "#0072B2", "#009E73"), "os^", strict=True):
        by_n, by_m = [], []
        for case in counted:
            given = case["case"]
            if given["settings"] != settings or list(given["size"]) != [384, 672] or given["channels"]:
                continue
            cost = case["flops_per_frame"] / 1e12
            if given["clips"] * 1000 == 60 * given["frames"]:
                by_n.append((given["frames"], cost))
            if given["frames"] == 1000:
                by_m.append((given["clips"], cost))
        for ax, found in zip(axes, (by_n, by_m), strict=True):
            ax.plot(*zip(*sorted(set(found)), strict=True), color=colour, marker=marker, markersize=3.5, label=settings)
    for ax, title in zip(axes, ("frames n, 60 clips per 1,000", "clips M, 1,000 frames"), strict=True):
        ax.set_xscale("log")
        ax.set_ylim(0, 1.15 * max(max(line.get_ydata()) for line in ax.lines))
        ax.set_xlabel(title)
        ax.set_ylabel("TFLOP a frame")
        ax.legend(frameon=False, ncols=3, loc="upper left", fontsize=7)


def points(measured: list[Figures], axis: str) -> dict[str, list[tuple[int, float]]]:
    """Seconds of a step against n or M, one line for each device and settings with three points or more."""
    other = "clips" if axis == "frames" else "frames"
    found: dict[str, list[tuple[int, float]]] = {}
    for figures in measured:
        case = figures["case"]
        if case["kind"] != "steps" or figures["state"] != "done" or not figures.get("steps"):
            continue
        ratio = case["frames"] // case["clips"]
        fixed = f"{ratio} frames a clip" if axis == "clips" else f"{case[other]} clips"
        line = f"{case['model']} {case['settings']}, {fixed}"
        mean = sum(s["seconds"] for s in figures["steps"]) / len(figures["steps"])
        found.setdefault(line, []).append((case[axis], mean))
    return {name: sorted(line) for name, line in found.items() if len({x for x, _ in line}) > 2}


def taken(axes: Sequence[Axes], measured: list[Figures]) -> None:
    """Seconds of a step against n and M."""
    for ax, axis, title in zip(axes, ("frames", "clips"), ("frames n", "clips M"), strict=True):
        for name, line in points(measured, axis).items():
            ax.plot(*zip(*line, strict=True), marker="o", markersize=3.5, label=name)
        ax.set_xlabel(title)
        ax.set_ylabel("seconds a step")
        ax.set_ylim(bottom=0)
        if ax.lines:
            ax.legend(frameon=False, fontsize=7)


# -- words -------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def stage_cells(flops: dict[str, int]) -> list[str]:
    """TFLOP a frame by column, for 1,000 frames."""
    return [tera(flops.get(stage, 0) / 1000) for stage in COLUMNS]


def tera(flops: float) -> str:
    """Operations in units of 10^12."""
    value = flops / 1e12
    return f"{value:.1f}" if value >= 0.05 else f"{value:.2f}"


def mega(size: float | None) -> str:
    """Bytes in MB; nothing for none."""
    return f"{size / 1e6:,.0f}" if size else ""


def moved(a: float, b: float) -> bool:
    """Whether two counts differ by what one digit shows."""
    return abs(a - b) >= 0.05e15


def where(figures: Figures) -> str:
    """The device that a run was on."""
    machine = figures["machine"]
    if machine["device"] != "cpu":
        return str(machine["device"])
    return f"{machine['cpu']}, {machine['threads']} thread" + "s" * (machine["threads"] != 1)


def main(given: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the JSON files")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for performance.md and images/")
    arguments = parser.parse_args(given)
    counted, measured = load(arguments.results)
    (arguments.docs / "images").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(counted, measured).items():
        (arguments.docs / "images" / name).write_text(picture)
    (arguments.docs / "performance.md").write_text(page(counted, measured))
    print(f"{arguments.docs / 'performance.md'}: {len(counted)} counted, {len(measured)} measured")


if __name__ == "__main__":
    main()
