"""The metrics of the paper and those beside them, frame by frame: FQ, SC, OC, VQ, and what else needs no truth.

Each class takes a video's frames in order, a few at a time, and then gives its numbers by name. Memory does not grow
with the number of frames. Definitions, ranges and traps: docs/benchmark-metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from .aesthetic import AestheticHead
from .consistency import Consistency
from .dover import Dover
from .encoders import BACKGROUND_PICTURES, SUBJECT_PICTURES, Clip, ClipVectors, Dino, Picture
from .estimated import EstimatedMotion
from .flow import Flow
from .mean import Mean
from .palette import Palette
from .views import Views

Numbers = dict[str, float | None]
PART = 10.0  # seconds of a part of a long video
FAR = (1, 5, 20)  # seconds between frames that are compared


@dataclass
class Scores:
    """Numbers by name: of the edited video, of its source, and of both together; None for what they cannot tell."""

    edited: Numbers = field(default_factory=dict)
    source: Numbers = field(default_factory=dict)
    both: Numbers = field(default_factory=dict)


class Metric(Protocol):
    """What takes frames and gives numbers."""

    def add(self, edited: Sequence[Picture], source: Sequence[Picture]) -> None:
        """The next frames ``[H, W, 3]``, and as many of the source, or none where there is no source."""

    def scores(self) -> Scores:
        """The numbers, once all frames are there."""


class Single(Protocol):
    """What takes the frames of one video."""

    def add(self, frames: Sequence[Picture]) -> None:
        """The next ones."""

    def numbers(self) -> Numbers:
        """The numbers, once all frames are there."""


class Each:
    """A metric of one video, of the edited one and of the source, each for itself."""

    def __init__(self, make: Callable[[], Single]) -> None:
        self._edited, self._source, self._has_source = make(), make(), False

    def add(self, edited: Sequence[Picture], source: Sequence[Picture]) -> None:
        """See `Metric`."""
        self._edited.add(edited)
        if source:
            self._has_source = True
            self._source.add(source)

    def scores(self) -> Scores:
        """See `Metric`."""
        return Scores(self._edited.numbers(), self._source.numbers() if self._has_source else {})


@dataclass(frozen=True)
class Texts:
    """What the edited video should show, and what the source shows, as CLIP's projected vectors ``[768]``."""

    prompt: Tensor | None
    source: Tensor | None

    @classmethod
    def of(cls, clip: Clip, prompt: str | None, source: str | None) -> Texts:
        """The vectors of texts, where there are any."""
        given = [text for text in (prompt, source) if text]
        vectors = iter(clip.texts(given) if given else ())
        return cls(*(next(vectors) if text else None for text in (prompt, source)))


class _ClipOfOne:
    """What CLIP ViT-L/14 says of one video."""

    def __init__(self, lag: int, head: AestheticHead | None, texts: Texts, scale: float) -> None:
        self._head, self._texts, self._scale, self._lag = head, texts, scale, lag
        self._pooled, self._projected = Consistency((lag,)), Consistency()
        self._marks, self._alignment, self._success = Mean(), Mean(), Mean()

    def add(self, vectors: ClipVectors) -> None:
        self._pooled.add(vectors.pooled)
        self._projected.add(vectors.projected)
        if self._head is not None:
            device = next(self._head.parameters()).device
            add_all(self._marks, self._head(vectors.projected.to(device)).tolist())
        if self._texts.prompt is not None:
            pictures = normalize(vectors.projected, dim=-1)
            to_prompt = pictures @ self._texts.prompt
            add_all(self._alignment, (self._scale * to_prompt).tolist())
            if self._texts.source is not None:
                add_all(self._success, (to_prompt >= pictures @ self._texts.source).float().tolist())

    def numbers(self) -> Numbers:
        found: Numbers = {
            "sc": self._pooled.adjacent,
            "sc_1s": self._pooled.far(self._lag),
            "sc_proj": self._projected.adjacent,
        }
        if self._head is not None:
            found["fq"] = self._marks.value
        if self._texts.prompt is not None:
            found["text_alignment"] = self._alignment.value
            if self._texts.source is not None:
                found["text_success"] = self._success.value
        return found


class ClipMetric:
    """FQ, SC in its readings, and how the video answers to its prompt: one pass of CLIP ViT-L/14.

    Args:
        clip: The network.
        head: LAION's; None: no FQ.
        texts: The prompt, and the caption of the source.
        fps: Frames per second.
    """

    def __init__(self, clip: Clip, head: AestheticHead | None, texts: Texts, fps: float) -> None:
        self._clip, self._texts = clip, texts
        self._edited, self._source = (_ClipOfOne(in_frames(1, fps), head, texts, clip.scale) for _ in range(2))
        self._has_source = False
        self._direction = Mean()

    def add(self, edited: Sequence[Picture], source: Sequence[Picture]) -> None:
        """See `Metric`."""
        ours = self._clip.pictures(edited)
        self._edited.add(ours)
        if not source:
            return
        self._has_source = True
        theirs = self._clip.pictures(source)
        self._source.add(theirs)
        if self._texts.prompt is not None and self._texts.source is not None:
            moved = normalize(ours.projected, dim=-1) - normalize(theirs.projected, dim=-1)
            asked = self._texts.prompt - self._texts.source
            add_all(self._direction, cosine_similarity(moved, asked[None]).tolist())

    def scores(self) -> Scores:
        """See `Metric`."""
        both: Numbers = {}
        if self._has_source and self._texts.prompt is not None and self._texts.source is not None:
            both["text_direction"] = self._direction.value
        return Scores(self._edited.numbers(), self._source.numbers() if self._has_source else {}, both)


class ObjectConsistency:
    """OC by DINOv2, between neighbours and at a distance of 1, 5 and 20 seconds."""

    def __init__(self, dino: Dino, fps: float) -> None:
        self._dino = dino
        self._lags = {seconds: in_frames(seconds, fps) for seconds in FAR}
        self._likeness = Consistency(tuple(self._lags.values()))

    def add(self, frames: Sequence[Picture]) -> None:
        """See `Single`."""
        self._likeness.add(self._dino.pictures(frames))

    def numbers(self) -> Numbers:
        """See `Single`."""
        far = {f"oc_{seconds}s": self._likeness.far(lag) for seconds, lag in self._lags.items()}
        return {"oc": self._likeness.adjacent, **far}


class DinoConsistency:
    """By DINO ViT-B/16: OC as the paper cites it, and VBench's subject consistency, which prepares frames otherwise."""

    def __init__(self, dino: Dino) -> None:
        self._dino = dino
        self._object, self._subject = Consistency(), Consistency()

    def add(self, frames: Sequence[Picture]) -> None:
        """See `Single`."""
        self._object.add(self._dino.pictures(frames))
        self._subject.add(self._dino.pictures(frames, SUBJECT_PICTURES))

    def numbers(self) -> Numbers:
        """See `Single`."""
        subject = self._subject
        return {
            "oc_dino": self._object.adjacent,
            "subject_consistency": subject.both,
            "subject_adjacent": subject.adjacent,
            "subject_first": subject.to_first,
        }


class BackgroundConsistency:
    """VBench's, by CLIP ViT-B/32."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._likeness = Consistency()

    def add(self, frames: Sequence[Picture]) -> None:
        """See `Single`."""
        self._likeness.add(self._clip.pictures(frames, BACKGROUND_PICTURES).projected)

    def numbers(self) -> Numbers:
        """See `Single`."""
        found = self._likeness
        return {
            "background_consistency": found.both,
            "background_adjacent": found.adjacent,
            "background_first": found.to_first,
        }


class VideoQuality:
    """VQ by DOVER, of the whole video and as the mean over parts of ten seconds."""

    def __init__(self, model: Dover, frames: int, fps: float, seed: int, device: torch.device) -> None:
        self._model, self._device = model, device
        self._whole = Views(frames, seed)
        count = parts(frames, fps)
        starts = [frames * k // count for k in range(count + 1)]
        self._lengths = [b - a for a, b in pairwise(starts)] if count > 1 else []
        self._seed, self._done, self._left = seed, 0, 0
        self._part: Views | None = None
        self._dense = Mean()

    def add(self, frames: Sequence[Picture]) -> None:
        """See `Single`."""
        for frame in frames:
            self._whole.add(frame)
            if not self._lengths:
                continue
            if self._part is None:
                self._left = self._lengths[self._done]
                self._part = Views(self._left, self._seed + 1 + self._done)
            self._part.add(frame)
            self._left -= 1
            if not self._left:
                self._dense.add(self._part.judged(self._model, self._device).fused)
                self._part, self._done = None, self._done + 1

    def numbers(self) -> Numbers:
        """See `Single`."""
        quality = self._whole.judged(self._model, self._device)
        return {
            "vq": quality.fused,
            "vq_dense": self._dense.value if self._lengths else quality.fused,
            "vq_technical": quality.technical,
            "vq_aesthetic": quality.aesthetic,
        }


class Steadiness:
    """What needs neither a network nor motion: VBench's temporal flickering, and the drift of the palette."""

    def __init__(self, frames: int, fps: float) -> None:
        self._last: Picture | None = None
        self._still = Mean()
        self._palette = Palette(frames, parts(frames, fps))

    def add(self, frames: Sequence[Picture]) -> None:
        """See `Single`."""
        for frame in frames:
            if self._last is not None:
                change = np.abs(frame.astype(np.int16) - self._last).mean(dtype=np.float64)
                self._still.add(1 - float(change) / 255)
            self._palette.add(frame)
            self._last = frame

    def numbers(self) -> Numbers:
        """See `Single`."""
        return {"temporal_flickering": self._still.value, "palette_drift": self._palette.drift()}


class MotionMetric:
    """Warp error, flicker, seams and motion along estimated flow."""

    def __init__(self, flow: Flow, borders: Sequence[int] | None) -> None:
        self._motion, self._borders, self._has_source = EstimatedMotion(flow, borders), borders, False

    def add(self, edited: Sequence[Picture], source: Sequence[Picture]) -> None:
        """See `Metric`."""
        self._has_source = bool(source)
        for number, frame in enumerate(edited):
            self._motion.add(frame, source[number] if source else None)

    def scores(self) -> Scores:
        """See `Metric`."""
        found = Scores(self._motion.of_edited())
        if self._has_source:
            found.source, found.both = self._motion.of_source(), self._motion.against_source()
        if self._borders is None:
            del found.edited["own_seam"]
            found.both.pop("flow_seam", None)
        return found


def in_frames(seconds: float, fps: float) -> int:
    """A distance in time as one in frames, at least 1."""
    return max(1, round(seconds * fps))


def parts(frames: int, fps: float) -> int:
    """Into how many equal parts of about `PART` seconds a video is divided."""
    return max(1, min(frames, round(frames / (PART * fps))))


def add_all(mean: Mean, values: Iterable[float]) -> None:
    """Some numbers more."""
    for value in values:
        mean.add(value)
