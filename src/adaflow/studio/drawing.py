"""The page's pictures and tables as HTML; whatever comes from a user, a file or a process is escaped here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

from ..canvas import element
from ..config import KeyframeConfig
from ..disk import format_bytes
from ..keyframes import Partition
from ..progress import STAGES, clock
from ..timelines import curve_borders, similarity_curves
from .queue import Job, Video

NOTHING = "<span></span>"
"""In place of a view without content: gradio leaves the former one where it is given no text."""
TILES_SHOWN = 12
MOST_KEYFRAMES = 24
SCREENS = {"desk": 9.0, "telephone": 3.9}
"""Inches of the curves where the page is wide and where it is narrow; its stylesheet chooses."""
CURVES = 1.5
"""Inches that they are high."""
PHASES = {
    "edit": tuple(STAGES),
    "inspect": ("encode", "features", "partition"),
    "preview": ("encode", "features", "partition", "invert", "edit", "decode"),
}
WORDS = {
    "waiting": "waiting",
    "running": "running",
    "pausing": "stopping at the next unit of work",
    "paused": "paused",
    "cancelling": "being cancelled",
    "cancelled": "cancelled",
    "done": "done",
    "failed": "failed",
}
DOING = {"inspect": "Looking at", "preview": "Previewing", "edit": "Editing"}


def safe(text: object) -> str:
    """Text for HTML, also where a template would take ``${…}`` or ``{{…}}`` in it for its own."""
    return escape(str(text)).replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;").replace("`", "&#96;")


def note(text: str, kind: str = "info") -> str:
    """A sentence to the user."""
    return f'<p class="note {kind}" role="{"alert" if kind == "error" else "status"}">{safe(text)}</p>'


def about_video(video: Video | None) -> str:
    """What a video is, and some of its frames."""
    if video is None:
        return note("No video yet: drop one above, or take a sample.")
    about = video.about
    facts = [
        f"{about['frames']} frames",
        f"{about['width']}×{about['height']}",
        f"{about['seconds']:.1f} s at {about['fps']:.4g} a second",
        "with sound" if about["sound"] else "no sound",
        format_bytes(int(about["bytes"])),
    ]
    shows = f"<br>It shows: {safe(about['caption'])}" if about.get("caption") else ""
    return f'<p class="facts"><strong>{safe(video.name)}</strong><br>{safe(" · ".join(facts))}{shows}</p>'


def doubt(video: Video, edits: int) -> str:
    """The question before a video is deleted."""
    made = f"its {edits} edits" if edits > 1 else "its edit" if edits else "what was found in it"
    return note(f"Delete “{video.name}”, {made}, and its workspace? This cannot be undone.", "warning")


def timeline(
    video: Video, found: Partition, scores: Sequence[Sequence[float]], config: KeyframeConfig, said: str
) -> str:
    """Frames, similarities and clips along time, and the keyframes.

    Args:
        video: Its strip of small pictures is used.
        found: The clips.
        scores: `[n, 2]`: each frame's mean and least window similarity to its clip's first.
        config: The settings that they were found under.
        said: How this was found.
    """
    n, lengths = found.frames, sorted(len(clip) for clip in found.clips)
    spread = f"{lengths[0]}" if lengths[0] == lengths[-1] else f"{lengths[0]} to {lengths[-1]}"
    words = f"{len(found)} {'clip' if len(found) == 1 else 'clips'} of {spread} frames; {len(found)} "
    words += f"{'keyframe is' if len(found) == 1 else 'keyframes are'} edited together at every step"
    shown = min(TILES_SHOWN, n)
    frames = [round((i + 0.5) * n / shown - 0.5) for i in range(shown)]
    film = "".join(f'<span class="tile" style="{_tile(video, frame)}"></span>' for frame in frames)
    curves, borders = _curves(found, tuple(map(tuple, scores)), config)
    return f"""
<figure class="timeline" style="{borders}">
<div class="film" role="img" aria-label="{shown} frames of {safe(video.name)}">{film}</div>
{curves}
<figcaption><strong>{safe(words)}</strong> <span role="status">{safe(said)}</span></figcaption>
<ul class="keyframes">{_keyframes(video, found)}</ul>
</figure>"""


@lru_cache(maxsize=16)  # every tab asks every second, and is told only what has changed
def _curves(found: Partition, scores: tuple[tuple[float, ...], ...], config: KeyframeConfig) -> tuple[str, str]:
    """The figure for each screen, and where its axes begin and end there, for the stylesheet."""
    starts = ", ".join(map(str, found.starts[:MOST_KEYFRAMES])) + (" …" if len(found) > MOST_KEYFRAMES else "")
    low = f"{config.mean_threshold:g} and {config.window_threshold:g}"
    label = f"similarity of each frame to the first one of its clip; thresholds {low}; clips start at frames {starts}"
    curves, borders = "", ""
    for screen, width in SCREENS.items():
        drawn = similarity_curves(scores, found, config, width=width, height=CURVES)
        curves += element(drawn, label, f"curves {screen}")
        left, right = curve_borders(width)
        borders += f"--{screen}-left:{100 * left:.2f}%;--{screen}-right:{100 * (1 - right):.2f}%;"
    return curves, borders


def _keyframes(video: Video, found: Partition) -> str:
    """The middle frame of each clip, as the keyframe is drawn anew from its clip at every step."""
    clips = list(found.clips)
    stride = max(1, -(-len(clips) // MOST_KEYFRAMES))
    items = [
        f'<li><span class="tile" style="{_tile(video, (clip.start + clip.stop - 1) // 2)}"></span>'
        f"<small>{clip.start}–{clip.stop - 1} ({len(clip)})</small></li>"
        for clip in clips[::stride]
    ]
    if stride > 1:
        items.append(f"<li><small>every {stride}th of {len(clips)} clips</small></li>")
    return "".join(items)


def _tile(video: Video, frame: int) -> str:
    """The style of an element that shows the strip's picture nearest to a frame."""
    tiles, (height, width) = int(video.about["tiles"]), video.about["tile"]
    place = round(frame * (tiles - 1) / max(1, int(video.about["frames"]) - 1))
    across = 100 * place / max(1, tiles - 1)
    return (
        f"background-image:url(/studio/media/{video.id}/strip.jpg);background-size:{100 * tiles}% 100%;"
        f"background-position:{across:.3f}% 0;aspect-ratio:{width}/{height}"
    )


def estimate(found: Mapping[str, Any] | None, stale: bool, free: tuple[int, int]) -> str:
    """What an edit takes on this machine, by phase.

    Args:
        found: As `adaflow inspect --json` has it.
        stale: Whether settings have been changed since.
        free: Bytes of memory and of disk that are free now.
    """
    if not found:
        return note("The estimate comes with the first look at the video.")
    memory = int(found["host_bytes"]) + int(found["device_bytes"])
    cells = [
        ("Time", clock(found["total_seconds"]), "of what is still to do"),
        ("Memory", format_bytes(memory), f"{format_bytes(free[0])} free"),
        ("Disk", format_bytes(int(found["disk_bytes"])), f"{format_bytes(free[1])} free"),
    ]
    figures = "".join(f"<div><dt>{n}</dt><dd>{safe(v)}<small>{safe(more)}</small></dd></div>" for n, v, more in cells)
    phases = " · ".join(f"{STAGES[name]} {clock(s)}" for name, s in _in_order(found["seconds"]))
    clips = int(found["clips"])
    tail = f"For {clips} {'clip' if clips == 1 else 'clips'}, measured on this machine: {phases}."
    old = note("Settings have been changed since: press “Update the estimate”.", "warning") if stale else ""
    return f'<dl class="figures">{figures}</dl><p class="small">{safe(tail)}</p>{old}'


def _in_order(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, seconds[name]) for name in STAGES if name in seconds]


def progress(job: Job | None, video: Video | None, waiting: int) -> str:
    """The job at hand: its phases, how far it is, and how long it still takes."""
    if job is None:
        return note("Nothing is running.")
    name = safe(video.name if video else "a video")
    prompt = f" — “{safe(job.prompt)}”" if job.prompt else ""
    said = job.progress
    stages: Mapping[str, Sequence[int]] = said.get("stages", {})
    phases = PHASES[job.kind]
    left = said.get("seconds_left")
    state = WORDS[job.state]
    if job.state == "running" and not stages:
        state = "loading the model"
    elif job.state == "running" and left is not None and job.kind == "edit":
        state += f", about {clock(left)} left in all"
    items = []
    for phase in phases:
        done, total = stages.get(phase, (0, 1))
        share = 100 * done / max(1, total)
        kind = "done" if share >= 100 else "now" if phase == said.get("phase") else "later"
        items.append(
            f'<li class="{kind}"><span>{safe(STAGES[phase])}</span>'
            f'<progress max="100" value="{share:.0f}" aria-label="{safe(STAGES[phase])}"></progress>'
            f"<small>{share:.0f} %</small></li>"
        )
    notes = "".join(note(text, "warning") for text in said.get("notes", ()))
    error = note(job.error, "error") if job.error else ""
    more = f'<p class="small">{waiting} more waiting.</p>' if waiting else ""
    return (
        f'<section class="job" data-state="{job.state}" aria-label="the job at hand">'
        f"<h3>{DOING[job.kind]} {name}{prompt}</h3>"
        f'<p role="status" class="state">{safe(state)}</p><ol>{"".join(items)}</ol>{error}{notes}{more}</section>'
    )


def preview(job: Job | None) -> str:
    """The picture of a preview."""
    if job is None or job.state != "done":
        return NOTHING
    return (
        f'<figure class="preview"><img src="/studio/media/{job.id}/preview.png" '
        f'alt="keyframes of the source, and the same edited together: {safe(job.prompt)}">'
        f"<figcaption>“{safe(job.prompt)}”: source above, edit below. The whole edit joins more keyframes, and may "
        "differ.</figcaption></figure>"
    )


def figures(job: str | None, words: str) -> str:
    """The page of figures that a job wrote, unfolded on demand.

    Args:
        job: Its id; None where it wrote none.
        words: What it shows.
    """
    if job is None:
        return NOTHING
    address = f"/studio/media/{job}/figures.html"
    return (
        f'<details class="pages"><summary>{safe(words)}</summary>'
        f'<p><a href="{address}" target="_blank" rel="noopener">Open them in a tab of their own</a></p>'
        f'<iframe src="{address}" title="{safe(words)}" loading="lazy" sandbox="allow-scripts"></iframe></details>'
    )


def compare(job: Job | None, video: Video | None, pages: str = "") -> str:
    """Source and edit in one picture, divided by a line that can be moved; frame by frame.

    Args:
        job: The edit; `video`: its source.
        pages: What stands below, as HTML.
    """
    if job is None or video is None:
        return note("Edits appear here when they are done.")
    about = video.about
    times = ",".join(f"{t:g}" for t in about["times"]) if about.get("times") else ""
    source, edited = f"/studio/media/{video.id}/source.mp4", f"/studio/media/{job.id}/edited.mp4"
    n = int(about["frames"])
    return f"""
<section class="compare" aria-label="source and edit" data-frames="{n}" data-fps="{about["fps"]:g}" data-times="{times}"
 style="--ratio:{about["width"]}/{about["height"]}">
<p class="facts"><strong>“{safe(job.prompt)}”</strong><br>{safe(video.name)} · ran for {clock(job.seconds)}</p>
<div class="both"><video class="after" src="{edited}" muted playsinline preload="auto" tabindex="-1"></video>
<video class="before" src="{source}" muted playsinline preload="auto" tabindex="-1" aria-hidden="true"></video>
<span class="divide" aria-hidden="true"></span>
<span class="tag left">source</span><span class="tag right">edit</span></div>
<label class="wide">Divide between source and edit
<input type="range" class="split" min="0" max="100" value="50" aria-label="Divide between source and edit"></label>
<div class="buttons"><button type="button" data-do="back">◀ Frame</button>
<button type="button" data-do="play">Play</button><button type="button" data-do="on">Frame ▶</button>
<label>Frame <input type="number" class="frame" min="0" max="{n - 1}" value="0"></label>
<span class="of">of {n}, counted from 0</span></div>
<label class="wide">Place in the video
<input type="range" class="seek" min="0" max="{n - 1}" value="0" aria-label="Place in the video, in frames"></label>
<p><a class="download" href="{edited}?download" download>Download the edited video (MP4)</a></p>{pages}</section>"""


def history(jobs: Iterable[Job], videos: Mapping[str, Video], shown: str | None) -> str:
    """All edits with what can be done about them."""
    rows = []
    for job in jobs:
        name = videos[job.video].name if job.video in videos else "a video"
        what = (
            ", ".join(f"{k.rpartition('.')[2].replace('_', ' ')} {v}" for k, v in job.settings.items())
            or "as recommended"
        )
        buttons = "".join(
            f'<button type="button" data-job="{job.id}" data-act="{act}">{words}'
            f'<span class="hidden"> “{safe(job.prompt)}”</span></button>'
            for act, words in _acts(job)
        )
        error = f"<br><small class=error>{safe(job.error)}</small>" if job.error else ""
        when = time.strftime("%d %b, %H:%M", time.localtime(job.added))
        rows.append(
            f'<li data-state="{job.state}"{" class=shown" if job.id == shown else ""}>'
            f"<p><strong>“{safe(job.prompt)}”</strong> <em>{WORDS[job.state]}</em><br>"
            f"<small>{safe(name)} · {when} · {safe(job.model or 'default model')} · {safe(what)}</small>"
            f"{error}</p>"
            f'<div class="buttons">{buttons}</div></li>'
        )
    return f'<ol class="history">{"".join(rows)}</ol>' if rows else note("No edits yet.")


def _acts(job: Job) -> list[tuple[str, str]]:
    acts = [("use", "Use these settings again")]
    if job.state == "done":
        acts.insert(0, ("show", "Show"))
    if job.state in ("running", "waiting"):
        acts.append(("pause", "Pause"))
    if job.state in ("paused", "failed", "cancelled"):
        acts.append(("resume", "Resume" if job.state != "cancelled" else "Run again"))
    if job.state in ("running", "waiting", "pausing", "paused"):
        acts.append(("cancel", "Cancel"))
    return acts


def unknown(words: Mapping[str, Sequence[str]]) -> str:
    """Words of a prompt that the miniature does not know."""
    if not words:
        return NOTHING
    parts = [f"“{word}”" + (f" (did you mean {' or '.join(near)}?)" if near else "") for word, near in words.items()]
    return note(f"The miniature does not know {', '.join(parts)}.", "warning")


def drop_zone(most: int) -> str:
    """Where a video is dropped or chosen."""
    return (
        f'<div class="drop" data-most="{most}">'
        '<label for="studio-file"><strong>Drop a video here</strong> or choose a file</label>'
        '<input type="file" id="studio-file" accept="video/*,.mkv,.mov,.avi,.webm,.gif" '
        'aria-label="Choose a video file">'
        f'<progress class="upload" max="100" value="0" aria-label="upload" hidden></progress>'
        f'<p class="said" role="status">Up to {format_bytes(most)}. It stays on this machine.</p></div>'
    )
