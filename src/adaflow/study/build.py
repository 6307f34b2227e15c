"""`adaflow study build`: a blind set. Videos get random names, and what they stand for goes into a file of its own."""

from __future__ import annotations

import itertools
import os
import random
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..disk import disk_errors
from ..errors import InputError
from ..probe import VideoInfo
from ..store import write_json
from .collect import Collection, Entry
from .media import blind_copy
from .plan import KEY, MEDIA, STUDY, Item, Study

Design = Literal["sets", "pairs"]
MOST_CLIPS = 12
"""Videos that a set may hold beside the source: more cannot be compared by eye, or played at once."""
LONGEST_TEXT = 2000
TITLE = "Edited videos"


@dataclass(frozen=True)
class Choices:
    """How a study is made of what there is.

    Attributes:
        design: All methods side by side, as in the paper, or two at a time.
        against: With pairs: the method that is in all of them; without it there are all pairs.
        sets: As many sources and prompts are drawn; None for all.
        seed: Of all draws; a random one if None. Who knows it, and the code they take part with, could undo the order.
        title: What stands above the page.
    """

    design: Design = "sets"
    against: str | None = None
    sets: int | None = None
    seed: int | None = None
    title: str = TITLE

    def check(self, collection: Collection) -> None:
        """Refuse what does not fit.

        Raises:
            InputError: with what to do.
        """
        if self.against is not None and self.design != "pairs":
            raise InputError("--against goes with --design pairs")
        if self.against is not None and self.against not in collection.methods:
            raise InputError(f"--against is {self.against!r}; choose one of {', '.join(collection.methods)}")
        if self.sets is not None and not 1 <= self.sets <= len(collection.entries):
            raise InputError(f"--sets is {self.sets}; there are {len(collection.entries)}")
        if self.design == "sets" and len(collection.methods) > MOST_CLIPS:
            raise InputError(
                f"{len(collection.methods)} videos side by side are more than {MOST_CLIPS}; choose with --methods, "
                "or compare two at a time with --design pairs"
            )
        for method in collection.methods:
            if re.search(rf"(?<!\w){re.escape(method)}(?!\w)", self.title, re.IGNORECASE):
                raise InputError(f"the title names the method {method}, and participants read it; choose another")
        texts = [self.title, *(text for e in collection.entries for text in (e.prompt, e.source_prompt))]
        if long := [text for text in texts if len(text) > LONGEST_TEXT]:
            raise InputError(f"a text of {len(long[0])} characters is too long to be read; {LONGEST_TEXT} are allowed")

    def groups(self, methods: Sequence[str]) -> list[tuple[str, ...]]:
        """Which methods are compared with each other."""
        if self.design == "sets":
            return [tuple(methods)]
        pairs = itertools.combinations(methods, 2)
        return [pair for pair in pairs if self.against is None or self.against in pair]


@dataclass
class Built:
    """What was made: the study, and what the one who runs it should know."""

    study: Study
    notes: list[str] = field(default_factory=list)


def build(collection: Collection, out: Path, choices: Choices, on_video: Callable[[int, int], None]) -> Built:
    """Make a study of what was collected, in a new folder that appears whole or not at all.

    Args:
        on_video: Told how many videos are copied, and of how many.

    Raises:
        InputError: the folder exists, a video is damaged, or the choices do not fit.
        ResourceError: the disk is full.
    """
    choices.check(collection)
    if out.exists():
        raise InputError(f"{out} is there already; choose another folder with --out")
    part = out.with_name(f".{out.name}.part")
    with disk_errors(out, "written"):
        if part.exists():
            shutil.rmtree(part)
        (part / MEDIA).mkdir(parents=True)
    try:
        built, key = _fill(collection, part, choices, on_video)
        write_json(part / STUDY, built.study.to_json())
        write_json(part / KEY, key)
        with disk_errors(out, "written"):
            os.chmod(part / KEY, 0o600)
            part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return built


def _fill(
    collection: Collection, part: Path, choices: Choices, on_video: Callable[[int, int], None]
) -> tuple[Built, dict[str, Any]]:
    """Copy the videos, and say which stand in which set."""
    seed = secrets.randbits(64) if choices.seed is None else choices.seed
    draw = random.Random(seed)
    count = choices.sets or len(collection.entries)
    entries = draw.sample(collection.entries, count)
    total = count * (1 + len(collection.methods))
    media: dict[str, int] = {}
    methods: dict[str, str] = {}
    items: list[Item] = []
    names: dict[str, str] = {}
    notes: list[str] = []

    def copied(video: Path) -> tuple[str, VideoInfo]:
        name = _opaque()
        file = part / MEDIA / f"{name}.mp4"
        info = blind_copy(video, file)
        media[name] = file.stat().st_size
        on_video(len(media), total)
        return name, info

    for entry in entries:
        source, about = copied(entry.source)
        # in a random order, so that not even the order of writing tells
        clips = {method: copied(entry.videos[method]) for method in draw.sample(collection.methods, len(entry.videos))}
        methods |= {name: method for method, (name, _) in clips.items()}
        notes += _differences(entry, about, {method: clips[method][1] for method in collection.methods})
        for group in choices.groups(collection.methods):
            shown = tuple(clips[method][0] for method in draw.sample(group, len(group)))
            rate = float(about.frame_rate)
            items.append(Item(_opaque(), entry.prompt, entry.source_prompt, source, shown, round(1 / rate, 6)))
            names[items[-1].id] = entry.name
    draw.shuffle(items)
    if not all(entry.prompt for entry in entries):
        notes.append("some sets have no prompt: participants cannot see what the edit was asked to change")
    study = Study(_opaque(), choices.title, seed, tuple(items), dict(sorted(media.items())))
    key = {"study": study.id, "design": choices.design, "methods": list(collection.methods)}
    return Built(study, notes), {**key, "clips": dict(sorted(methods.items())), "items": names}


def _differences(entry: Entry, source: VideoInfo, videos: dict[str, VideoInfo]) -> Iterator[str]:
    """What would tell the methods apart without looking at the edit."""
    frames = {method: info.frames for method, info in videos.items()}
    if len({source.frames, *frames.values()}) > 1:
        words = ", ".join(f"{method} {count}" for method, count in frames.items())
        yield f"the videos of {entry.name} differ in length: source {source.frames} frames, {words}"
    sizes = {method: f"{info.width}x{info.height}" for method, info in videos.items()}
    if len(set(sizes.values())) > 1:
        yield f"the videos of {entry.name} differ in size: {', '.join(f'{m} {s}' for m, s in sizes.items())}"


def _opaque() -> str:
    """A name that says nothing, not even to one who knows the seed."""
    return secrets.token_hex(8)
