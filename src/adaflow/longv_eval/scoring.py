"""One edited video scored with every metric whose weights are here; what is skipped is said, with the reason."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ..errors import InputError, MissingError
from ..video import VideoSource
from .metrics.encoders import Picture
from .metrics.flow import SMALLEST, DisFlow
from .metrics.paper import (
    BackgroundConsistency,
    ClipMetric,
    DinoConsistency,
    Each,
    Metric,
    MotionMetric,
    Numbers,
    ObjectConsistency,
    Scores,
    Steadiness,
    Texts,
    VideoQuality,
)
from .metrics.weights import Weights

BATCH = 32
"""Frames held at once."""
SMALLEST_SCORE = 2
"""Frames that a video must have to be scored over time."""


@dataclass(frozen=True)
class Asked:
    """What is scored, and against what.

    Attributes:
        frames: How many of them.
        fps: Frames per second.
        size: (height, width), in pixels.
        prompt: What the video should show.
        source_prompt: What the source shows.
        has_source: Whether there is a source.
        borders: First frames of the chunks it was made in, without frame 0.
        seed: Of what the definition of a metric draws.
        weights: Where the networks are.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    prompt: str | None
    source_prompt: str | None
    has_source: bool
    borders: tuple[int, ...] | None
    seed: int
    weights: Weights


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        measures: Numbers of the edited video, and of it against its source; None for what this video cannot tell.
        source: The same of the source, of what can be said of one video alone.
        skipped: Why a metric was not computed.
        facts: What else a reader must know.
    """

    measures: Numbers
    source: Numbers
    skipped: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def differences(self) -> Numbers:
        """The edited video's numbers less those of the source, where both have one."""
        return {
            name: None if value is None or theirs is None else value - theirs
            for name, theirs in self.source.items()
            if name in self.measures
            for value in (self.measures[name],)
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        found = {"measures": self.measures, "skipped": dict(self.skipped), **self.facts}
        if self.source:
            found |= {"source_measures": self.source, "differences": self.differences()}
        return found


Skip = Callable[[str, str], None]


@dataclass(frozen=True)
class Group:
    """Metrics that are computed together.

    Attributes:
        names: Of their numbers.
        make: Makes what computes them; may call ``skip(name, why)`` for some, and raise `MissingError` for all.
    """

    names: tuple[str, ...]
    make: Callable[[Asked, Skip], Metric]


def _clip(asked: Asked, skip: Skip) -> Metric:
    head = None
    clip = asked.weights.clip_l14
    try:
        head = asked.weights.aesthetic
    except MissingError as error:
        skip("fq", str(error))
    if not asked.prompt:
        skip("text_alignment", "needs the prompt: --prompt")
    both = asked.prompt and asked.source_prompt
    if not both:
        skip("text_success", "needs the prompt and what the source shows: --prompt, --source-prompt")
    if not (both and asked.has_source):
        skip("text_direction", "needs the source and both texts: --source, --prompt, --source-prompt")
    return ClipMetric(clip, head, Texts.of(clip, asked.prompt, asked.source_prompt), asked.fps)


def _quality(asked: Asked, skip: Skip) -> Metric:
    weights, model = asked.weights, asked.weights.dover
    return Each(lambda: VideoQuality(model, asked.frames, asked.fps, asked.seed, weights.device))


def _objects(asked: Asked, skip: Skip) -> Metric:
    dino = asked.weights.dinov2
    return Each(lambda: ObjectConsistency(dino, asked.fps))


def _subjects(asked: Asked, skip: Skip) -> Metric:
    dino = asked.weights.dino
    return Each(lambda: DinoConsistency(dino))


def _backgrounds(asked: Asked, skip: Skip) -> Metric:
    clip = asked.weights.clip_b32
    return Each(lambda: BackgroundConsistency(clip))


def _steadiness(asked: Asked, skip: Skip) -> Metric:
    return Each(lambda: Steadiness(asked.frames, asked.fps))


def _motion(asked: Asked, skip: Skip) -> Metric:
    if min(asked.size) < SMALLEST:
        raise MissingError(f"needs frames of at least {SMALLEST} pixels a side")
    if not asked.has_source:
        for name in AGAINST_SOURCE:
            skip(name, "needs the source: --source")
    if asked.borders is None:
        for name in ("own_seam", "flow_seam"):
            skip(name, "needs the first frames of the chunks the video was made in: --borders")
    return MotionMetric(DisFlow(), asked.borders)


AGAINST_SOURCE = ("warp_error", "warp_error_relative", "flow_flicker", "flow_ratio", "motion_alignment", "flow_seam")
GROUPS = (
    Group(("fq", "sc", "sc_1s", "sc_proj", "text_alignment", "text_success", "text_direction"), _clip),
    Group(("vq", "vq_dense", "vq_technical", "vq_aesthetic"), _quality),
    Group(("oc", "oc_1s", "oc_5s", "oc_20s"), _objects),
    Group(("oc_dino", "subject_consistency", "subject_adjacent", "subject_first"), _subjects),
    Group(("background_consistency", "background_adjacent", "background_first"), _backgrounds),
    Group(("temporal_flickering", "palette_drift"), _steadiness),
    Group(("own_warp", "own_flicker", "flow", "own_seam", *AGAINST_SOURCE), _motion),
)
NAMES = tuple(name for group in GROUPS for name in group.names)
"""Every number that `score` can find, in the order in which they are shown."""


def score(
    video: VideoSource,
    weights: Weights,
    *,
    prompt: str | None = None,
    source: VideoSource | None = None,
    source_prompt: str | None = None,
    borders: Sequence[int] | None = None,
    only: Sequence[str] = (),
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score an edited video; one pass over the frames, in memory that does not grow with their number.

    Args:
        video: The edited video. Where the source has fewer frames or more, those that both have are scored.
        weights: Where the networks are.
        prompt: What the edited video should show.
        source: The video that it was made from; resized to the edited one.
        source_prompt: What the source shows.
        borders: First frames of the chunks it was made in, without frame 0.
        only: Names of `NAMES`; none: all of them.
        seed: Of what the definition of a metric draws.
        on_progress: Told of frames done, and of all.

    Raises:
        InputError: a name is unknown, a border lies outside of the video, or a video cannot be read.
    """
    wanted = chosen(only)
    info, other = video.info, None if source is None else source.info
    frames = info.frames if other is None else min(info.frames, other.frames)
    size = info.height, info.width
    if frames < SMALLEST_SCORE:
        raise InputError(f"{info.path or 'the video'} has one frame; every metric but FQ needs at least two")
    outside = [b for b in borders or () if not 0 < b < frames]
    if outside:
        raise InputError(f"a chunk cannot begin at frame {outside[0]}: borders lie from 1 to {frames - 1}")
    asked = Asked(
        frames,
        float(info.frame_rate),
        size,
        prompt or None,
        source_prompt or None,
        source is not None,
        None if borders is None else tuple(borders),
        seed,
        weights,
    )
    theirs = None if source is None else source.frames(size)
    found = score_frames(video.frames(), theirs, asked, wanted, on_progress)
    if other is None or other.frames == info.frames:
        return found
    return replace(found, facts={**found.facts, "frames_of_each": {"edited": info.frames, "source": other.frames}})


def score_frames(
    edited: Iterator[Picture],
    source: Iterator[Picture] | None,
    asked: Asked,
    wanted: frozenset[str] = frozenset(NAMES),
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """As `score`, of frames ``[H, W, 3]`` of one size; the first ``asked.frames`` of both."""
    running, skipped = prepare(asked, wanted)
    ours, theirs = islice(edited, asked.frames), None if source is None else islice(source, asked.frames)
    done = 0
    while batch := list(islice(ours, BATCH)):
        beside = [] if theirs is None else list(islice(theirs, len(batch)))
        for metric in running:
            metric.add(batch, beside)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, asked.frames)
    found = Scores()
    for metric in running:
        part = metric.scores()
        found.edited |= part.edited
        found.source |= part.source
        found.both |= part.both
    facts = {
        "frames": asked.frames,
        "fps": asked.fps,
        "height": asked.size[0],
        "width": asked.size[1],
        "prompt": asked.prompt,
        "seed": asked.seed,
        "weights": str(asked.weights.folder),
    }
    return Report(_ordered(found.edited | found.both, wanted), _ordered(found.source, wanted), skipped, facts)


def prepare(asked: Asked, wanted: frozenset[str]) -> tuple[list[Metric], dict[str, str]]:
    """The metrics that can be computed, and of those that cannot, why."""
    skipped: dict[str, str] = {}
    running: list[Metric] = []
    for group in GROUPS:
        if wanted.isdisjoint(group.names):
            continue
        try:
            running.append(group.make(asked, skipped.__setitem__))
        except MissingError as error:
            skipped |= dict.fromkeys(group.names, str(error))
    return running, {name: skipped[name] for name in NAMES if name in wanted and name in skipped}


def chosen(only: Sequence[str]) -> frozenset[str]:
    """The names asked for, all of them where none is.

    Raises:
        InputError: one is unknown; the nearest is named.
    """
    for name in only:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}" if near else f"take some of {', '.join(NAMES)}"
            raise InputError(f"there is no metric {name!r}; {hint}")
    return frozenset(only or NAMES)


def _ordered(found: Numbers, wanted: frozenset[str]) -> Numbers:
    return {name: found[name] for name in NAMES if name in wanted and name in found}
